"""Values become options only as they are declared, and every fault is told with its place."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import attrs
import pytest
from attrs import define, field, frozen
from hypothesis import given
from strategies import classes_with_values, section_classes, tree

from codex_kernel.errors import InputError, PluginError
from codex_kernel.option_types import did_you_mean, in_words, options_of
from codex_kernel.options import Secret, option
from codex_kernel.structure import structure, unstructure
from codex_kernel.yaml_reader import plain, read
from codex_kernel.yaml_writer import write

if TYPE_CHECKING:
    import torch


@frozen
class Optimizer:
    """Toy nested options."""

    beta: float = option(0.9, ge=0, lt=1, help="Decay of the first moment.")
    betas: tuple[float, float] = (0.9, 0.95)


Steps = NewType("Steps", int)


@define(eq=False)
class ToyTrainer:
    """A toy plugin with an option of every type."""

    steps: int = option(ge=1, help="Optimizer steps.")
    lr: float = option(1e-3, gt=0, help="Learning rate.")
    fp16: bool = False
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    accumulation: int | Literal["auto"] = "auto"
    limit: int | None = None
    folder: Path | None = None
    token: Secret | None = None
    optimizer: Optimizer = Optimizer()
    names: Sequence[str] = ()
    sizes: Mapping[str, int] = field(factory=dict)
    files: str | list[str] = ""
    weights: list[float] = option(factory=list, gt=0, help="Weights.")
    extra: Any = None
    warmup: Steps = Steps(0)
    rank: Annotated[int, "of the matrices"] = 8
    _cache: dict[str, int] = field(factory=dict)
    model: torch.nn.Module = field(init=False, default=None)


def faults(cls: type, text: str) -> list[str]:
    """Return the lines that a user sees."""
    problems = []
    assert structure(cls, read(text.encode(), "run.yaml"), "$.trainer", problems) is None
    return [str(problem) for problem in problems]


def make(text: str, cls=ToyTrainer):
    """Structure a section that is right."""
    problems = []
    made = structure(cls, read(text.encode(), "run.yaml"), "$.trainer", problems)
    assert problems == []
    return made


def fault(line: str) -> str:
    """Return the only line that a user sees of a trainer with one option wrong."""
    (found,) = faults(ToyTrainer, f"steps: 1\n{line}\n")
    return found.removeprefix("run.yaml:2:")


def test_every_declared_type_is_read():
    """A section that is right gives the values as Python has them."""
    made = make(
        "steps: 3\nlr: 1e-3\nlimit: null\nfolder: a/b\ntoken: ${env:TOKEN}\noptimizer: {betas: [1, 0.5]}\n"
        "names: [a]\nsizes: {x: 1}\nfiles: [a, b]\nextra: {a: [1, null]}\nwarmup: 4\naccumulation: 2\n"
    )
    assert (made.steps, made.lr, made.limit, made.folder) == (3, 0.001, None, Path("a/b"))
    assert (made.token, made.optimizer) == (Secret("TOKEN"), Optimizer(betas=(1.0, 0.5)))
    assert (made.names, made.sizes, made.files) == (("a",), {"x": 1}, ["a", "b"])
    assert (made.extra, made.warmup, made.accumulation, made.fp16) == ({"a": [1, None]}, 4, 2, False)


def test_an_integer_becomes_a_float_where_one_is_declared():
    """`lr: 1` is 1.0, in lists too."""
    made = make("steps: 1\nlr: 1\nweights: [1, 2.5]\n")
    assert (repr(made.lr), repr(made.weights)) == ("1.0", "[1.0, 2.5]")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps2: 3.9", "1: $.trainer.steps2: unknown key 'steps2' (did you mean 'steps'?)"),
        ('fp16: "no"', "7: $.trainer.fp16: expected true or false, got 'no' (write false, without quotes)"),
        ("fp16: off", "7: $.trainer.fp16: expected true or false, got 'off' (write false, without quotes)"),
        (
            'fp16: "True"',
            "7: $.trainer.fp16: expected true or false, got 'True' (write true, without quotes)",
        ),
        ("fp16: 1", "7: $.trainer.fp16: expected true or false, got 1"),
        ("lr: fast", "5: $.trainer.lr: expected a float, got 'fast'"),
        ('lr: "1e-3"', "5: $.trainer.lr: expected a float, got '1e-3' (write 0.001, without quotes)"),
        ("lr: true", "5: $.trainer.lr: expected a float, got true"),
        ("lr: null", "5: $.trainer.lr: expected a float, got null"),
        ("lr: .nan", "5: $.trainer.lr: expected a finite float, got .nan"),
        ("lr: -.inf", "5: $.trainer.lr: expected a finite float, got -.inf"),
        ("lr: -1", "5: $.trainer.lr: expected a number > 0, got -1.0"),
        ("lr: [1]", "5: $.trainer.lr: expected a float, got a list"),
        ("rank: 2.9", "7: $.trainer.rank: expected an integer, got 2.9"),
        ("rank: 1e3", "7: $.trainer.rank: expected an integer, got 1000.0 (write 1000)"),
        ("rank: true", "7: $.trainer.rank: expected an integer, got true"),
        ("rank: '8'", "7: $.trainer.rank: expected an integer, got '8' (write 8, without quotes)"),
        ('lr: "nan"', "5: $.trainer.lr: expected a float, got 'nan'"),
        ("lr: -inf", "5: $.trainer.lr: expected a float, got '-inf'"),
        ("rank: 1_000", "7: $.trainer.rank: expected an integer, got '1_000' (write 1000, without quotes)"),
        ("warmup: x", "9: $.trainer.warmup: expected an integer, got 'x'"),
        ("limit: x", "8: $.trainer.limit: expected an integer or null, got 'x'"),
        ("limit: 1.5", "8: $.trainer.limit: expected an integer or null, got 1.5"),
        (
            "precision: fp61",
            "12: $.trainer.precision: expected one of 'fp32', 'bf16', 'auto', got 'fp61'",
        ),
        (
            "precision: BF-16",
            "12: $.trainer.precision: expected one of 'fp32', 'bf16', 'auto', got 'BF-16' (did you mean 'bf16'?)",
        ),
        (
            "accumulation: atuo",
            "15: $.trainer.accumulation: expected an integer or 'auto', got 'atuo' (did you mean 'auto'?)",
        ),
        ("folder: 3", "9: $.trainer.folder: expected a path or null, got 3"),
        ("names: abc", "8: $.trainer.names: expected a list, got 'abc'"),
        ("names: {a: 1}", "8: $.trainer.names: expected a list, got a mapping"),
        ("names: [a, 1]", "12: $.trainer.names[1]: expected a string, got 1 (put it in quotes: '1')"),
        ("sizes: [a]", "8: $.trainer.sizes: expected a mapping, got a list"),
        ("sizes: {a: x}", "12: $.trainer.sizes.a: expected an integer, got 'x'"),
        ("files: [a, 2]", "12: $.trainer.files[1]: expected a string, got 2 (put it in quotes: '2')"),
        ("files: 2", "8: $.trainer.files: expected a string or a list, got 2 (put it in quotes: '2')"),
        ("weights: [1, 0]", "10: $.trainer.weights: expected a number > 0, got 0.0"),
        ("extra: {a: [.inf]}", "13: $.trainer.extra.a[0]: expected a finite float, got .inf"),
        ("optimizer: adam", "12: $.trainer.optimizer: expected a mapping, got 'adam'"),
        ("optimizer: {beta: 2}", "19: $.trainer.optimizer.beta: expected a number >= 0 and < 1, got 2.0"),
        ("optimizer: {betas: [1]}", "20: $.trainer.optimizer.betas: expected a list of 2 items, got 1"),
        ("beta: 0.5", "1: $.trainer.beta: unknown key 'beta' (it belongs under 'optimizer')"),
        ("model: x", "1: $.trainer.model: unknown key 'model'"),
        ("_cache: {}", "1: $.trainer._cache: unknown key '_cache'"),
        ("cache: {}", "1: $.trainer.cache: unknown key 'cache'"),
    ],
)
def test_a_value_of_another_type_is_refused(line, message):
    """Nothing is converted by guess; the message says what was expected, what was got, and how to mend it."""
    assert fault(line).split(" (known here")[0] == message


def test_steps_must_be_whole():
    """2.9 steps are neither 2 nor 3."""
    assert faults(ToyTrainer, "steps: 3.9") == ["run.yaml:1:8: $.trainer.steps: expected an integer, got 3.9"]


@pytest.mark.parametrize(
    "line", ["folder: ${env:HOME}", "names: ['${x}']", "extra: {a: 'b${x}'}", "files: $${{x}}"]
)
def test_nothing_is_filled_in_outside_of_secrets(line):
    """A reference in an option that is no secret would be taken for plain text."""
    found = fault(line)
    assert "nothing is filled in for ${…}" in found
    assert "only an option that holds a secret may name an environment variable" in found


@pytest.mark.parametrize("value", ["hf_abc", "123456", "true", "${env:}", "${file:/etc/passwd}", "${${a}}"])
def test_a_secret_in_plain_text_is_refused_and_not_repeated(value):
    """The message does not show what may be the secret."""
    message = fault(f"token: '{value}'") if value.startswith("$") else fault(f"token: {value}")
    assert message.endswith(
        "expected a reference to an environment variable, ${env:NAME}, never the secret itself"
    )


def test_all_problems_of_a_section_are_told_at_once():
    """A user mends the manifest once, not once per fault."""
    text = "lr: fast\nfp16: 'no'\noptimizer: {beta: 1, x: 2}\nlearning_rate: 1\n"
    assert [line.split(": ")[1] for line in faults(ToyTrainer, text)] == [
        "$.trainer.lr",
        "$.trainer.fp16",
        "$.trainer.optimizer.beta",
        "$.trainer.optimizer.x",
        "$.trainer.learning_rate",
        "$.trainer.steps",
    ]


def test_a_missing_option_is_described():
    """The message says what the option is for."""
    assert faults(ToyTrainer, "lr: 1\n") == [
        "run.yaml:1:1: $.trainer.steps: missing required option 'steps': expected an integer (Optimizer steps.)"
    ]


@frozen
class Checked:
    """Toy options with checks of their own."""

    even: int = option(2, ge=0, help="An even number.")
    low: int = 0
    high: int = field(default=9, validator=attrs.validators.lt(100))
    mode: str = field(
        default="a", validator=[attrs.validators.instance_of(str), attrs.validators.in_(["a", "b"])]
    )

    @even.validator
    def _check_even(self, _attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError(f"expected an even number, got {value}")

    @high.validator
    def _check_high(self, _attribute: object, value: int) -> None:
        if value < self.low:
            raise ValueError(f"expected at least low, {self.low}, got {value}")

    def __attrs_post_init__(self) -> None:
        if self.low == self.high:
            raise ValueError("low and high must differ")
        if self.even == 4:
            raise InputError("four is taken", remedy="take six")
        if self.even == 8:
            raise TypeError("a fault in the class")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("even: 3\n", ["run.yaml:1:7: $.trainer.even: expected an even number, got 3"]),
        ("even: -3\n", ["run.yaml:1:7: $.trainer.even: expected a number >= 0, got -3"]),
        ("low: 5\nhigh: 4\n", ["run.yaml:2:7: $.trainer.high: expected at least low, 5, got 4"]),
        (
            "even: 3\nlow: 5\nhigh: 4\nmode: c\n",
            [
                "run.yaml:1:7: $.trainer.even: expected an even number, got 3",
                "run.yaml:3:7: $.trainer.high: expected at least low, 5, got 4",
                "run.yaml:4:7: $.trainer.mode: 'mode' must be in ['a', 'b'] (got 'c')",
            ],
        ),
        (
            "even: x\nmode: c\nmodus: d\n",
            [
                "run.yaml:1:7: $.trainer.even: expected an integer, got 'x'",
                "run.yaml:3:1: $.trainer.modus: unknown key 'modus' (did you mean 'mode'?)",
                "run.yaml:2:7: $.trainer.mode: 'mode' must be in ['a', 'b'] (got 'c')",
            ],
        ),
        ("low: 7\nhigh: 7\n", ["run.yaml:1:1: $.trainer: low and high must differ"]),
        ("even: 4\n", ["run.yaml:1:1: $.trainer: four is taken (take six)"]),
    ],
)
def test_the_words_of_a_class_reach_the_user(text, lines):
    """What a validator says is kept, at the option it stands at, also of several at once."""
    assert faults(Checked, text) == lines


def test_a_fault_in_the_class_is_not_the_user_s():
    """A TypeError that no option causes goes on up."""
    with pytest.raises(TypeError, match="a fault in the class"):
        make("even: 8\n", Checked)


def test_keys_of_the_caller_are_left_to_it():
    """`known` keys are no options, and are offered where a key is close."""
    problems = []
    node = read(b"steps: 1\nmetrics: [x]\nmetric: 1\n", "run.yaml")
    assert structure(ToyTrainer, node, "$.evaluate", problems, known=["metrics"]) is None
    assert [str(p) for p in problems] == [
        "run.yaml:3:1: $.evaluate.metric: unknown key 'metric' (did you mean 'metrics'?)"
    ]


class Colour(enum.IntEnum):
    """No option type."""

    RED = 1


@frozen
class Unsupported:
    """A plugin whose option no manifest can write."""

    colour: Colour = Colour.RED
    day: complex = 0j


@frozen
class Untyped:
    """A plugin that does not say what its option is."""

    lr = attrs.field(default=1)


@frozen
class Unresolved:
    """A plugin that imports an option's type for type checkers only."""

    model: torch.nn.Module = None


@pytest.mark.parametrize(
    ("cls", "text", "message"),
    [
        (Unsupported, "colour: 1", "an option cannot be declared as <enum 'Colour'>"),
        (Unsupported, "day: 1", "an option cannot be declared as <class 'complex'>"),
        (Untyped, "lr: 1", "Untyped.lr has no type"),
        (Unresolved, "model: 1", "its type 'torch.nn.Module' cannot be resolved"),
    ],
)
def test_a_class_that_no_manifest_can_write_is_the_plugin_s_fault(cls, text, message):
    """The plugin's author is told, not the user."""
    with pytest.raises(PluginError, match="^.*" + message.replace("(", r"\(")):
        make(text, cls)


def test_unstructure_gives_what_a_manifest_would_hold():
    """Paths are text, tuples are lists, a secret is its reference, and state stays out."""
    made = make("steps: 3\nfolder: a/b\ntoken: ${env:TOKEN}\nnames: [a]\nsizes: {x: 1}\n")
    assert unstructure(made) == {
        "steps": 3,
        "lr": 0.001,
        "fp16": False,
        "precision": "auto",
        "accumulation": "auto",
        "limit": None,
        "folder": "a/b",
        "token": "${env:TOKEN}",
        "optimizer": {"beta": 0.9, "betas": [0.9, 0.95]},
        "names": ["a"],
        "sizes": {"x": 1},
        "files": "",
        "weights": [],
        "extra": None,
        "warmup": 0,
        "rank": 8,
    }


@given(section_classes().flatmap(lambda pair: pair[1].map(lambda value: (pair[0], value))))
def test_a_section_that_is_right_is_taken_and_given_back(pair):
    """Structuring takes what a class declares; its unstructured form, written and read, makes an equal instance."""
    cls, value = pair
    problems = []
    made = structure(cls, tree(value), "$", problems)
    assert problems == []
    again = read(write(unstructure(made)).encode(), "run.yaml")
    assert structure(cls, again, "$", problems) == made


@given(classes_with_values())
def test_structuring_gives_an_instance_or_a_reason(pair):
    """Any value makes an instance that says the same, or at least one problem with a place below the section."""
    cls, value = pair
    problems = []
    made = structure(cls, tree(value), "$.x", problems)
    if made is None:
        assert problems
        assert all(problem.path.startswith("$.x") for problem in problems)
        assert all(problem.message for problem in problems)
    else:
        assert problems == []
        assert says(unstructure(made), value)


def says(written, value) -> bool:
    """Say whether all that stands in the value stands in what was written, which has the defaults too."""
    if isinstance(value, dict):
        return value.keys() <= written.keys() and all(says(written[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(written) == len(value) and all(says(*pair) for pair in zip(written, value, strict=True))
    return written == value


def test_options_are_the_fields_that_a_manifest_may_write():
    """State is not among them, whatever its annotation needs."""
    names = [option.name for option in options_of(ToyTrainer)]
    assert names[0] == "steps"
    assert not {"model", "_cache", "cache"} & set(names)
    assert [option.name for option in options_of(ToyTrainer) if option.required] == ["steps"]


def test_an_inherited_option_means_what_it_meant_in_its_own_module(tmp_path, monkeypatch):
    """Annotations are text, and the names in them are those of the module of the class that wrote them."""
    (tmp_path / "toy_parent.py").write_text(
        "from __future__ import annotations\nfrom attrs import frozen\nSize = int\n"
        "@frozen\nclass Parent:\n    size: Size | None = None\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    from toy_parent import Parent

    @frozen
    class Child(Parent):
        colour: str = "red"

    assert [(o.name, o.type) for o in options_of(Child)] == [("size", int | None), ("colour", str)]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (int | None, "an integer or null"),
        (Literal["a"] | float, "'a' or a float"),
        (list[int] | dict[str, int], "a list or a mapping"),
        (Secret, "a reference ${env:NAME}"),
    ],
)
def test_types_are_told_in_plain_english(declared, words):
    """A message reads like a sentence."""
    assert in_words(declared) == words


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("LearningRate", "learning_rate"),
        ("max-steps", "max_steps"),
        ("zzz", None),
    ],
)
def test_a_name_close_by_is_offered(word, meant):
    """Case, dashes and underscores do not count."""
    offered = did_you_mean(word, ["learning_rate", "max_steps"])
    assert offered == (meant and f"did you mean {meant!r}?")


def test_values_are_not_shared_with_the_tree():
    """A plugin that changes its list does not change the manifest."""
    node = read(b"steps: 1\nweights: [1.0]\n", "run.yaml")
    made = structure(ToyTrainer, node, "$", [])
    made.weights.append(2.0)
    assert plain(node)["weights"] == [1.0]
