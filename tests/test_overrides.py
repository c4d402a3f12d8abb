"""Overrides change a manifest where they have a place in it, and say so where they have none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import JSON_VALUES, TEXTS, tree

from codex_kernel.errors import ManifestError
from codex_kernel.overrides import SECTIONS, apply, from_file, merge, parse_set
from codex_kernel.yaml_reader import child_path, find, plain, read
from codex_kernel.yaml_writer import write

MANIFEST = """\
name: demo
tokenizer: bytes
trainer: {type: torch, lr: 0.1, optimizer: {beta: 0.9}}
adapters: [{type: lora, r: 8}]
loggers:
- console
- {type: csv, on_error: fail, every: 3}
data:
"""


def changed(*sets: str, manifest: str = MANIFEST):
    """Return the manifest as plain values after some `--set`."""
    return plain(apply(read(manifest.encode(), "run.yaml"), [parse_set(text) for text in sets]))


def merged(text: str, manifest: str = MANIFEST):
    """Return the manifest as plain values after an override file."""
    return plain(merge(read(manifest.encode(), "run.yaml"), read(text.encode(), "over.yaml")))


def fault(*sets: str) -> str:
    """Return what the user sees."""
    with pytest.raises(ManifestError) as caught:
        changed(*sets)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("5", 5),
        ("true", True),
        ("no", "no"),
        ("[a, 1]", ["a", 1]),
        ("''", ""),
        ("null", None),
        ("a=b", "a=b"),
    ],
)
def test_a_value_has_the_type_that_it_would_have_in_the_file(text, value):
    """The same reader reads both."""
    assert changed(f"trainer.lr={text}")["trainer"]["lr"] == value


def test_a_value_knows_the_override_that_it_came_from():
    """An error in it names the override as its place."""
    root = apply(read(MANIFEST.encode(), "run.yaml"), [parse_set("trainer.opt={a: [1]}")])
    assert find(root, "$.trainer.opt.a[0]").where == "--set trainer.opt={a: [1]}"
    assert find(root, "$.trainer.opt").key_where == "--set trainer.opt={a: [1]}"


def test_items_of_lists_are_named_by_their_index():
    """With a dot or in brackets, counted from 0."""
    assert changed("adapters.0.r=16") == changed("adapters[0].r=16")
    assert changed("adapters[0].r=16")["adapters"] == [{"type": "lora", "r": 16}]


def test_mappings_on_the_way_are_made():
    """An option of a section that the file leaves out, or leaves empty, can be set."""
    assert changed("data.seq_len=64", "evaluate.every_steps=5")["data"] == {"seq_len": 64}
    assert changed("evaluate.every_steps=5")["evaluate"] == {"every_steps": 5}


def test_an_option_below_a_short_form_expands_it():
    """`tokenizer: bytes` and `- console` are mappings with a type."""
    result = changed("tokenizer.vocab=3", "loggers.0.every=5")
    assert result["tokenizer"] == {"type": "bytes", "vocab": 3}
    assert result["loggers"][0] == {"type": "console", "every": 5}


def test_the_last_override_wins():
    """Also over an earlier one that set the whole section."""
    assert changed("trainer.lr=1", "trainer.lr=2")["trainer"]["lr"] == 2
    assert changed("trainer={type: x, lr: 1}", "trainer.lr=2")["trainer"] == {"type": "x", "lr": 2}
    assert changed("trainer.lr=2", "trainer={type: x, lr: 1}")["trainer"] == {"type": "x", "lr": 1}


def test_another_type_drops_the_options_of_the_plugin_before():
    """They belonged to another plugin; the kernel's own key stays."""
    assert changed("trainer.type=other")["trainer"] == {"type": "other"}
    assert changed("loggers.1.type=jsonl")["loggers"][1] == {"type": "jsonl", "on_error": "fail"}
    assert changed("adapters[0].type=x")["adapters"] == [{"type": "x"}]


def test_another_type_drops_no_override():
    """What stands on the same command line is meant for the new plugin, whatever the order."""
    wanted = {"type": "other", "steps": 3}
    assert changed("trainer.steps=3", "trainer.type=other")["trainer"] == wanted
    assert changed("trainer.type=other", "trainer.steps=3")["trainer"] == wanted


def test_the_same_type_keeps_the_options():
    """Also where the distribution is added, and where the last of several is the first."""
    assert changed("trainer.type=torch")["trainer"]["lr"] == 0.1
    assert changed("trainer.type=codex-torch/torch")["trainer"]["lr"] == 0.1
    assert changed("trainer.type=other", "trainer.type=torch")["trainer"]["lr"] == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "trainer.lr=",
            """the value is missing (write trainer.lr=null for none, trainer.lr="''" for empty text)""",
        ),
        ("trainer.lr=#1", "the value is missing (put text with # in quotes)"),
        ("name=a # b", "what follows the value would be lost as a comment (put text with # in quotes)"),
        ("trainer.lr", "expected key=value (such as --set trainer.lr=3e-4)"),
        ("", "expected key=value (such as --set trainer.lr=3e-4)"),
        ("=1", "expected the name of an option, got nothing"),
        ("a..b=1", "expected the name of an option, got nothing"),
        ("a.=1", "expected the name of an option, got nothing"),
        (".a=1", "expected a key such as trainer.lr or loggers[0].every"),
        ("__class__.x=1", "expected the name of an option, got '__class__'"),
        ("a b=1", "expected the name of an option, got 'a b'"),
        ("loggers.-1.every=1", "expected the name of an option, got '-1'"),
        ("loggers[-1].every=1", "expected an index such as [0], got [-1]"),
        ("loggers[99999999999]=1", "expected an index such as [0], got [99999999999]"),
        (
            "loggers[999999999].every=1",
            "$.loggers: there is no item 999999999, the list has 2 (indices count from 0)",
        ),
        ("loggers.2=csv", "$.loggers: there is no item 2, the list has 2 (indices count from 0)"),
        ("loggers.x.every=1", "$.loggers: expected the index of an item, got 'x'"),
        ("trainer.lr.x=1", "$.trainer.lr: the manifest has 0.1 here, so 'x' has no place in it"),
        ("trainer[0]=1", "$.trainer: the manifest has a mapping, and no list here, so 0 has no place in it"),
        ("models.0.x=1", "$.models: the manifest has no such list, so it has no item 0 (set the whole list)"),
        ("trainer.lr=012", "012 has a leading zero (write 12 or '012')"),
        ("trainer.lr=1e400", "the number 1e400 is too large for a float (put text in quotes)"),
        ("name=*x", "unknown alias *x (put text that starts with * in quotes)"),
        ("name=!!str x", "the tag '!!str' is not allowed (a value's form decides its type: remove the tag)"),
        ("x={a: 1, a: 2}", "duplicate key 'a', first at --set x={a: 1, a: 2}"),
    ],
)
def test_an_override_without_place_or_value_is_refused(text, message):
    """The override itself is the place of the fault."""
    assert fault(text) == f"--set {text}: {message}"


@pytest.mark.parametrize("text", ["a." * 100_000 + "a=1", "x=" + "[" * 100_000, "x=" + "y" * 2_000_000])
def test_an_endless_override_is_refused(text):
    """Neither its keys nor its value can go on without bound."""
    assert len(fault(text)) < 300


def test_all_overrides_without_place_are_told_at_once():
    """A user mends the command line once."""
    assert fault("trainer.lr.x=1", "loggers.9=a").count("\n") == 1


def test_an_override_file_is_laid_over_the_manifest():
    """Mappings merge, lists and scalars replace."""
    result = merged("name: other\ntrainer: {optimizer: {gamma: 1}}\nloggers: [jsonl]\nseed: 3\n")
    assert result["trainer"] == {"type": "torch", "lr": 0.1, "optimizer": {"beta": 0.9, "gamma": 1}}
    assert (result["name"], result["loggers"], result["seed"]) == ("other", ["jsonl"], 3)


def test_an_override_file_may_change_a_type():
    """The options of the plugin before go, in the short form too."""
    assert merged("trainer: {type: other, steps: 3}\n")["trainer"] == {"type": "other", "steps": 3}
    assert merged("trainer: other\n")["trainer"] == {"type": "other"}
    assert merged("trainer: torch\n")["trainer"]["lr"] == 0.1
    assert merged("tokenizer: {vocab: 3}\n")["tokenizer"] == {"type": "bytes", "vocab": 3}


def test_an_override_file_is_read_like_a_manifest(tmp_path):
    """Its faults have its own name and lines."""
    (tmp_path / "over.yaml").write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"over\.yaml:2:1: duplicate key 'a'"):
        from_file(tmp_path / "over.yaml")


def test_trees_are_not_changed():
    """Overriding gives a new tree; the old one stays."""
    root = read(MANIFEST.encode(), "run.yaml")
    before = plain(root)
    apply(root, [parse_set("trainer.lr=9"), parse_set("trainer.type=x"), parse_set("loggers.0.every=1")])
    merge(root, read(b"trainer: {lr: 9}\n", "over.yaml"))
    assert plain(root) == before


PLAIN_KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,5}", fullmatch=True).filter(
    lambda key: key not in SECTIONS
)


@given(st.lists(PLAIN_KEYS | TEXTS, min_size=1, max_size=4), JSON_VALUES)
def test_any_value_can_be_set_at_any_key(keys, value):
    """Written as the path that messages use, with the value in YAML, it is found there afterwards."""
    path = ""
    for key in keys:
        path = child_path(path, key)
    text = f"{path.removeprefix('.')}={write({'v': value}).removeprefix('v:')}"
    root = apply(tree({}), [parse_set(text)])
    node = root
    for key in keys:
        node = node.value[key]
    assert repr(plain(node)) == repr(value)


@given(
    st.dictionaries(PLAIN_KEYS, JSON_VALUES, max_size=4), st.dictionaries(PLAIN_KEYS, JSON_VALUES, max_size=4)
)
def test_merging_keeps_all_that_is_not_overridden(base, over):
    """Merging is what dictionaries do, level by level; laying the same file over it again changes nothing."""
    once = merge(tree(base), tree(over))
    assert plain(merge(once, tree(over))) == plain(once)
    assert plain(once) == _expected(base, over)


def _expected(base, over):
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {
        **base,
        **{key: _expected(base[key], value) if key in base else value for key, value in over.items()},
    }


@given(st.text(max_size=40))
def test_no_text_makes_an_override_fail_in_another_way(text):
    """Whatever stands behind --set is an override or a ManifestError."""
    try:
        override = parse_set(text)
    except ManifestError:
        return
    assert override.steps
