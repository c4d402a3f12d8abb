"""`codex tokenizer`, as a user has it: in a process, with files, pipes and runs."""

import json
import re
import subprocess
import sys

import pytest

from codex_kernel.builtin.bytes_tokenizer import Utf8Bytes
from tests.command import Workplace, toy_workplace
from tests.toys import install

CODE = 'def f(x):\n\treturn "é🙂"\r\n'

WORDS = """
import json
from attrs import define, field, frozen
from codex_kernel import hookimpl


@define(eq=False)
class Vocabulary:
    words: list
    trained: bool = True
    eos_id: int = 0
    unk_id: int = 1
    special_tokens: dict = field(factory=lambda: {"<eos>": 0})
    pad_id: None = None

    @property
    def vocab_size(self):
        return 2 + len(self.words)

    def encode(self, text):
        return [2 + self.words.index(word) if word in self.words else 1 for word in text.split()]

    def decode(self, ids):
        if any(not 0 <= token < self.vocab_size for token in ids):
            raise ValueError("no such id")
        return " ".join("?" if token == 1 else self.words[token - 2] for token in ids if token)

    def save(self, folder):
        (folder / "words.json").write_text(json.dumps(self.words))

    def fingerprint(self):
        return " ".join(self.words).encode().hex()


@frozen
class Words:
    upper: bool = False
    path: str | None = None
    beside: str | None = None

    @hookimpl
    def codex_tokenizer(self, corpus, saved):
        if saved is not None:
            return Vocabulary(json.loads((saved / "words.json").read_text()), trained=False)
        if self.path is not None:
            return Vocabulary(["read", "from", "a", "file"], trained=False)
        if corpus is None:
            raise ValueError("nothing to train on")
        words = {word.upper() if self.upper else word for text in corpus for word in text.split()}
        return Vocabulary(sorted(words), trained=self.beside is None)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    """A workplace with a lossy toy tokenizer, a manifest that trains it, and a run of that manifest."""
    workplace = toy_workplace(tmp_path_factory.mktemp("tokenizers"))
    install(
        workplace.site,
        "codex-words",
        {"codex.tokenizers": {"words": "codex_words:Words"}},
        modules={"codex_words": WORDS},
    )
    manifest = (workplace.folder / "toy.yaml").read_text()
    workplace.write("words.yaml", manifest.replace("tokenizer: bytes", "tokenizer: words"))
    workplace.write("a.py", CODE)
    workplace.write("b.py", "x = 1\n")
    assert workplace.codex("run", "words.yaml", "--run-dir", "trained").code == 0
    return workplace


def answer(place: Workplace, *arguments: str, stdin: str = "") -> dict:
    """Return what a command prints as JSON."""
    said = place.codex("tokenizer", *arguments, "--json", stdin=stdin)
    assert said.code == 0, said.err
    return json.loads(said.out)


# ── encode and decode ─────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_of_files_are_a_line_each_and_come_back(place):
    """`encode` prints a line a file, and `decode` makes the same texts of the lines, byte for byte."""
    said = place.codex("tokenizer", "encode", "bytes", "a.py", "b.py")
    assert [line.split() for line in said.out.splitlines()] == [
        [str(byte) for byte in text.encode()] for text in (CODE, "x = 1\n")
    ]
    # Bytes, for Python's own reading of a pipe would turn \r\n into \n.
    back = subprocess.run(
        [sys.executable, "-m", "codex_kernel", "tokenizer", "decode", "bytes"],
        input=said.out.encode(),
        env=place.environment(),
        cwd=place.folder,
        capture_output=True,
        check=True,
    )
    assert back.stdout == f"{CODE}x = 1\n".encode()


def test_lines_are_texts_where_that_is_asked_for(place):
    """With --lines each line of standard input is a text, its newline left out and put back."""
    ids = place.codex("tokenizer", "encode", "bytes", "--lines", stdin="a\n\nbc").out
    assert ids == "97\n\n98 99\n"
    assert place.codex("tokenizer", "decode", "bytes", "--lines", stdin=ids).out == "a\n\nbc\n"


def test_json_says_where_each_token_lies(place):
    """Each token has its span and its piece of the text, padding has neither, and what was cut off is counted."""
    (row,) = answer(
        place,
        "encode",
        "bytes:pad_token=<pad>",
        "a.py",
        "--truncate",
        "3",
        "--truncate-side",
        "left",
        "--pad",
        "5",
    )["texts"]
    assert row["ids"] == [*CODE.encode()[-3:], 257, 257]
    assert row["mask"] == [True] * 3 + [False] * 2
    assert row["offsets"] == [[len(CODE) - n, len(CODE) - n + 1] for n in (3, 2, 1)] + [None, None]
    assert row["pieces"] == ['"', "\r", "\n", None, None]
    assert row["dropped"] == len(CODE.encode()) - 3


def test_what_is_cut_is_said(place):
    """Without --json a warning says how many texts lost how many tokens."""
    said = place.codex("tokenizer", "encode", "bytes", "a.py", "b.py", "--truncate", "7")
    assert said.out.splitlines()[1] == "120 32 61 32 49 10"
    assert f"1 of 2 texts cut, {len(CODE.encode()) - 7} tokens dropped" in said.err


def test_texts_are_filled_to_the_longest_on_the_side_that_is_asked_for(place):
    """--pad longest fills all to one length, rounded up by --multiple-of."""
    name = "bytes:pad_token=<pad>"
    said = place.codex(
        "tokenizer",
        "encode",
        name,
        "--lines",
        "--pad",
        "longest",
        "--pad-side",
        "left",
        "--multiple-of",
        "2",
        stdin="abc\na",
    )
    assert said.out == "257 97 98 99\n257 257 257 97\n"


def test_special_tokens_are_ids_only_where_that_is_asked_for(place):
    """What spells a special token is text, unless --specials says that it is marked up; decode spells it out then."""
    name = "bytes:special_tokens=[<a>, <b>]"
    plain = place.codex("tokenizer", "encode", name, stdin="x<b>").out
    assert plain.split() == ["120", "60", "98", "62"]
    marked = place.codex("tokenizer", "encode", name, "--specials", stdin="x<b>").out
    assert marked.split() == ["120", "258"]
    assert place.codex("tokenizer", "decode", name, stdin=marked).out == "x"
    assert place.codex("tokenizer", "decode", name, "--specials", stdin=marked).out == "x<b>"
    (row,) = answer(place, "encode", name, "--specials", stdin="x<b>")["texts"]
    assert row["offsets"] == [[0, 1], [1, 4]]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["encode", "bytes", "none.py"], "", "none.py: cannot be read: No such file"),
        (["encode", "bytes", "."], "", ".: cannot be read: Is a directory"),
        (["encode", "bytes", "--pad", "9"], "a", "the tokenizer has no padding token"),
        (["encode", "bytes:pad_token=<p>", "--pad", "1"], "abc", "cannot pad to 1 tokens: a sequence has 3"),
        (["encode", "bytes", "--pad", "wide"], "", "expected a number of tokens or longest, got 'wide'"),
        (["encode", "bytes", "--multiple-of", "8"], "", "--multiple-of is for padding"),
        (["encode", "bytes", "--truncate", "-1"], "", "-1 is not in the range"),
        (
            ["decode", "bytes"],
            "\n3 x",
            "standard input:2: expected ids parted by spaces or commas, got 'x'",
        ),
        (["decode", "bytes"], "1 -2", "got '-2'"),
        (["decode", "bytes"], "999", "expected ids in 0 … 256, got 999"),
        (["encode", "bytez"], "", "did you mean 'bytes'?"),
        (["encode", "none.yaml"], "", "none.yaml: no such file"),
        (["encode", "bytes:pad"], "", "expected key=value after the colon, got 'pad'"),
        (["encode", "bytes:padtoken=x"], "", "unknown key 'padtoken'"),
        (["encode", "bytes:pad_token=x,pad_token=y"], "", "given twice"),
        (["encode", "site"], "", "expected a manifest, a run"),
        (["encode", "bytes", "--set", "seed=1"], "", "change a manifest, and bytes is none"),
        (["stats", "bytes"], "", "there is no text to measure on"),
        (
            ["compare", "bytes", "a.py"],
            "",
            "expected two tokenizers or more to compare, got 1; 'a.py' names none",
        ),
        (["train", "toy.yaml", "--output", "t"], "", "has no vocabulary: there is nothing to train"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(place, arguments, stdin, message):
    """Bad input ends a command with exit code 2 and one clear error, and writes nothing."""
    said = place.codex("tokenizer", *arguments, stdin=stdin)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (place.folder / "t").exists()


@pytest.mark.parametrize("lines", [[], ["--lines"]])
def test_bytes_that_are_no_text_are_named(place, lines):
    """A binary file is an error with the place of the first byte that is no UTF-8, counted from the file's start."""
    place.write("binary", b"abc\ndef\xff\n")
    said = place.codex("tokenizer", "encode", "bytes", "binary", *lines)
    assert said.code == 2
    assert re.search(r"binary(:2)?: not UTF-8: byte 8 is 0xff", said.err)


def test_a_reader_that_goes_away_ends_the_command(place):
    """A closed pipe is not an error that fills the terminal, and the lines so far have been written."""
    place.write("long", b"a\n" * 500_000)  # a pipe holds less than its ids
    with place.start("tokenizer", "encode", "bytes", "--lines", "long") as process:
        assert process.stdout.readline() == "97\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


# ── train ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_trained_folder_is_used_like_its_manifest(place):
    """`train` writes the vocabulary and what it was made of; the folder is the tokenizer that the manifest gives."""
    record = answer(place, "train", "words.yaml", "--output", "out/trained-words")
    folder = place.folder / "out" / "trained-words"
    assert sorted(path.name for path in folder.iterdir()) == ["codex-tokenizer.json", "words.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["trained-words"]
    written = json.loads((folder / "codex-tokenizer.json").read_text())
    assert written == {
        name: value for name, value in record.items() if name not in {"schema_version", "output"}
    }
    assert (written["plugin"], written["distribution"], written["options"]["upper"]) == (
        "words",
        "codex-words",
        False,
    )
    assert written["corpus"]["texts"] > 40
    assert re.fullmatch("[0-9a-f]{64}", written["corpus"]["sha256"])
    digests = {
        answer(place, "fingerprint", name)["fingerprint"] for name in ("words.yaml", "trained", folder)
    }
    assert digests == {written["fingerprint"]}
    assert answer(place, "encode", folder, stdin="return x")["texts"][0]["pieces"] == ["return", "x"]


def test_training_twice_gives_the_same_bytes_and_never_overwrites(place):
    """The same manifest gives the same files; a folder that is there is refused; --set counts."""
    for name in ("one", "two"):
        assert place.codex("tokenizer", "train", "words.yaml", "--output", name).code == 0
    changed = answer(place, "train", "words.yaml", "--output", "three", "--set", "tokenizer.upper=true")
    files = {
        name: [path.read_bytes() for path in sorted((place.folder / name).iterdir())]
        for name in ("one", "two", "three")
    }
    assert files["one"] == files["two"] != files["three"]
    assert changed["options"]["upper"] is True
    said = place.codex("tokenizer", "train", "words.yaml", "--output", "one")
    assert said.code == 2
    assert "one is there already" in said.err


def test_a_tokenizer_that_the_cache_may_not_keep_is_trained(place):
    """What reads a file beside the corpus, as a chat template is, is trained nevertheless."""
    arguments = ("train", "words.yaml", "--set", "tokenizer.beside=template", "--output")
    digests = {answer(place, *arguments, name)["fingerprint"] for name in ("beside-1", "beside-2")}
    assert digests == {answer(place, "fingerprint", "words.yaml")["fingerprint"]}


def test_a_tokenizer_that_is_read_from_a_file_is_not_trained(place):
    """Nothing is written where nothing would be trained."""
    said = place.codex(
        "tokenizer", "train", "words.yaml", "--output", "read", "--set", "tokenizer.path=some.json"
    )
    assert said.code == 2
    assert "reads a file: there is nothing to train" in said.err
    assert not (place.folder / "read").exists()


def test_a_folder_that_cannot_be_written_leaves_nothing(place):
    """A full or read-only place is a storage error, and no half folder stays behind."""
    place.write("file", "")
    said = place.codex("tokenizer", "train", "words.yaml", "--output", "file/inside")
    assert said.code == 6
    assert "cannot write file/inside" in said.err
    assert not [path for path in place.folder.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.parametrize("change", ["vocabulary", "record"])
def test_a_changed_folder_is_refused_with_both_digests(place, change):
    """A vocabulary that is not the one that was trained is not used, and neither is a record that lacks something."""
    name = f"changed-{change}"
    before = answer(place, "train", "words.yaml", "--output", name)["fingerprint"]
    if change == "vocabulary":
        (place.folder / name / "words.json").write_text('["other"]')
    else:
        (place.folder / name / "codex-tokenizer.json").write_text('{"plugin": "words"}')
    said = place.codex("tokenizer", "encode", name, stdin="a")
    assert said.code == 2
    if change == "vocabulary":
        assert f"fingerprint was {before}, is {b'other'.hex()}" in said.err
    else:
        assert "is not as codex wrote it: it has no 'options'" in said.err


# ── stats, compare, fingerprint ───────────────────────────────────────────────────────────────────────────────────


def test_stats_measure_what_a_text_costs(place):
    """Bytes a token, tokens a word, what was never used and the longest tokens, of files counted by hand."""
    said = answer(place, "stats", "bytes", "a.py", "b.py")
    assert said["corpus"] == {
        "texts": 2,
        "bytes": len(CODE.encode()) + 6,
        "characters": len(CODE) + 6,
        "words": 7,
    }
    (row,) = said["tokenizers"]
    assert (row["tokens"], row["bytes_per_token"]) == (len(CODE.encode()) + 6, 1.0)
    assert row["tokens_per_word"] == pytest.approx((len(CODE.encode()) + 6) / 7, abs=1e-6)
    used = set(CODE.encode()) | set(b"x = 1\n")
    assert row["unused_tokens"] == 256 - len(used)
    assert row["longest_tokens"][0] == {"id": 9, "text": "\t", "count": 1}
    assert (row["unknown_tokens"], row["unknown_rate"], row["texts_lost"]) == (None, None, 0)


def test_a_tokenizer_that_loses_text_is_found_out(place):
    """Unknown words are counted, the first text that does not come back is named, and the exit code is 1."""
    said = place.codex("tokenizer", "stats", "trained", "b.py", "--json")
    (row,) = json.loads(said.out)["tokenizers"]
    assert (row["tokens"], row["unknown_tokens"], row["texts_lost"]) == (3, 1, 1)
    assert row["unknown_rate"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["first_loss"] == {"text": "b.py", "character": 2, "expected": "= 1\n", "got": "? 1"}
    assert said.code == 1
    assert "trained does not give back 1 text; b.py, character 2" in said.err


def test_a_manifest_and_its_run_are_measured_on_their_own_texts(place):
    """Without files the training texts of the manifest or run are the corpus, and both say the same of it."""
    said = [
        json.loads(place.codex("tokenizer", "stats", name, "--json").out)
        for name in ("words.yaml", "trained")
    ]
    assert said[0]["corpus"] == said[1]["corpus"]
    assert said[0]["corpus"]["texts"] > 40
    assert said[0]["tokenizers"][0]["unknown_tokens"] == 0


def test_tokenizers_are_compared_on_the_same_texts(place):
    """Each column is what `stats` says of that tokenizer alone, also where the texts come through a pipe."""
    names = ("bytes", "bytes:pad_token=<pad>")
    both = answer(place, "compare", *names, "-", stdin=CODE)
    for name, row in zip(names, both["tokenizers"], strict=True):
        assert row == answer(place, "stats", name, "-", stdin=CODE)["tokenizers"][0]
    table = place.codex("tokenizer", "compare", *names, "a.py").out.splitlines()
    assert table[0] == f"1 text, {len(CODE.encode())} B, 4 words"
    assert table[1].split() == ["bytes", "bytes:pad_token=<pad>"]
    assert ["tokens", "28", "28"] in [line.split() for line in table]


def test_a_fingerprint_is_that_of_the_run(place):
    """The digest of a run's tokenizer is the one in its data.json, and another vocabulary in its folder is refused."""
    digest = place.codex("tokenizer", "fingerprint", "trained").out.strip()
    assert digest == json.loads((place.folder / "trained" / "data.json").read_text())["tokenizer"]
    words = place.folder / "trained" / "tokenizer" / "words.json"
    whole = words.read_text()
    words.write_text('["other"]')
    try:
        for command in (
            ["tokenizer", "fingerprint", "trained"],
            ["generate", "trained", "--prompt", "x"],
            ["resume", "trained", "--set", "trainer.max_steps=9", "--allow-change", "trainer.max_steps"],
        ):
            said = place.codex(*command)
            assert (said.code, said.out) == (2, ""), command
            assert (
                f"the tokenizer changed since the run began: fingerprint was {digest}, is {b'other'.hex()}"
                in said.err
            )
    finally:
        words.write_text(whole)


def test_what_a_tokenizer_is_made_of_is_told_as_json(place):
    """`fingerprint --json` has the plugin and the special ids, null where there are none."""
    said = answer(place, "fingerprint", "bytes:special_tokens=[<a>]")
    assert (said["plugin"], said["vocab_size"], said["eos_id"], said["pad_id"]) == ("bytes", 258, 256, None)
    assert said["special_tokens"] == {"<|endoftext|>": 256, "<a>": 257}
    assert said["fingerprint"] != Utf8Bytes().fingerprint()
    assert answer(place, "fingerprint", "bytes")["fingerprint"] == Utf8Bytes().fingerprint()


def test_help_costs_nothing(place):
    """No help text of these commands imports numpy, attrs' plugins or the catalogue."""
    code = (
        "import sys; from codex_kernel.cli import main\n"
        "for name in ('train', 'encode', 'decode', 'stats', 'compare', 'fingerprint'):\n"
        "    main(['tokenizer', name, '--help'])\n"
        "heavy = {'numpy', 'rich', 'codex_kernel.catalog', 'codex_kernel.tokenizers'}\n"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == 6
