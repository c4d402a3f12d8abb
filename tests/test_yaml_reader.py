"""YAML is read by the core rules of YAML 1.2, and everything else is said with its place."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import JSON_VALUES, TEXTS

from codex_kernel import yaml_reader
from codex_kernel.errors import ManifestError, Problem
from codex_kernel.yaml_reader import child_path, find, in_file_order, plain, read, read_file, read_value
from codex_kernel.yaml_writer import write


def faults(data: bytes | str) -> list[str]:
    """Return the lines that a user sees."""
    with pytest.raises(ManifestError) as caught:
        read(data.encode() if isinstance(data, str) else data, "run.yaml")
    return str(caught.value).splitlines()


def value_of(text: str):
    """Return how a value is read."""
    return plain(read(f"a: {text}\n".encode(), "run.yaml"))["a"]


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def _loader(request, monkeypatch):
    """PyYAML may come with libyaml or without it."""
    if request.param == "python":
        monkeypatch.setattr(yaml_reader, "_LOADER", yaml.SafeLoader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        *[(text, text) for text in ("no", "yes", "on", "off", "NO", "tRUE", "nULL", "y", "n")],
        *[
            (text, text)
            for text in (
                "12:30",
                "12:30:45",
                "1_000",
                "0b1",
                "2026-01-31",
                "1.2.3",
                "0x",
                "1e",
                ".",
                "+",
                "=",
            )
        ],
        *[("12", 12), ("+12", 12), ("-12", -12), ("0", 0), ("-0", 0), ("0x1F", 31), ("0o17", 15)],
        *[("1e-4", 1e-4), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-1.5E+3", -1500.0), ("0.0e5", 0.0)],
        *[(".inf", float("inf")), ("-.Inf", float("-inf"))],
        *[("'12'", "12"), ('"true"', "true"), ("'~'", "~"), ("|\n  12", "12\n"), (">\n  a\n  b", "a b\n")],
        *[("9" * 40, int("9" * 40)), ("'${env:A}'", "${env:A}"), ('"\\u2028"', "\u2028")],
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text, value):
    """Numbers are numbers, only true and false are booleans, and all else is text."""
    read_as = value_of(text)
    assert (type(read_as), read_as) == (type(value), value)


def test_not_a_number_is_read_as_such():
    """What may be NaN is for the option to say."""
    assert str(value_of(".nan")) == "nan"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("012", "012 has a leading zero (write 12 or '012')"),
        ("-007.5", "-007.5 has a leading zero (write -7.5 or '-007.5')"),
        ("00e1", "00e1 has a leading zero (write 0e1 or '00e1')"),
        ("1e400", "the number 1e400 is too large for a float (put text in quotes)"),
        ("-1e400", "the number -1e400 is too large for a float (put text in quotes)"),
        ("1e-400", "the number 1e-400 is too small for a float (put text in quotes)"),
        ("9" * 41, "an integer of 41 digits, at most 40 are read (put text in quotes)"),
        ("1" * 5000, "an integer of 5000 digits, at most 40 are read (put text in quotes)"),
    ],
)
def test_a_number_that_could_mislead_is_refused(text, fault):
    """012 is 10 or 12, and 1e400 would be infinite without a word."""
    assert faults(f"a: {text}") == [f"run.yaml:1:4: {fault}"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ["run.yaml: expected a mapping, got an empty file"]),
        ("# only a comment\n", ["run.yaml: expected a mapping, got an empty file"]),
        ("- a\n- b\n", ["run.yaml:1:1: $: expected a mapping of sections, got a list"]),
        ("abc", ["run.yaml:1:1: $: expected a mapping of sections, got 'abc'"]),
        ("null", ["run.yaml:1:1: $: expected a mapping of sections, got null"]),
        (
            "a:\n\tb: 1\n",
            ["run.yaml:2:1: YAML is indented by spaces, this line has a tab (replace the tab by spaces)"],
        ),
        (
            "a: 1\n---\nb: 1\n",
            ["run.yaml:2:1: expected one document, a second one starts here (remove the line `---`)"],
        ),
        (
            "%YAML 1.1\n---\na: no\n",
            ["run.yaml:1:1: YAML is read by version 1.2, not by an older one (remove the line `%YAML`)"],
        ),
        (
            "a: 1\nb: {c: 1, c: 2}\na: 3\n",
            [
                "run.yaml:2:11: duplicate key 'c', first at line 2",
                "run.yaml:3:1: duplicate key 'a', first at line 1",
            ],
        ),
        (
            "1: a\ntrue: b\n~: c\n[d]: e\nf: 012\n",
            [
                "run.yaml:1:1: expected a string as key, got 1 (put the key in quotes)",
                "run.yaml:2:1: expected a string as key, got true (put the key in quotes)",
                "run.yaml:3:1: expected a string as key, got null (put the key in quotes)",
                "run.yaml:4:1: expected a string as key, got a list (put the key in quotes)",
                "run.yaml:5:4: 012 has a leading zero (write 12 or '012')",
            ],
        ),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            [
                "run.yaml:3:3: merge keys (<<) are not allowed (write the keys out, or use *alias for a whole value)"
            ],
        ),
        ("a: *x\n", ["run.yaml:1:4: unknown alias *x (put text that starts with * in quotes)"]),
        ("a: &x [*x]\n", ["run.yaml:1:8: a value that holds itself: alias *x"]),
        ("a: &x 1\nb: &x 2\n", ["run.yaml:2:4: duplicate anchor &x, first at line 1"]),
        (
            "a: !!python/object/apply:os.system [ls]\nb: !!binary aGk=\nc: !!set {d}\ne: !f g\n",
            [
                f"run.yaml:{line}:4: the tag {tag!r} is not allowed (a value's form decides its type: remove the tag)"
                for line, tag in enumerate(["!!python/object/apply:os.system", "!!binary", "!!set", "!f"], 1)
            ],
        ),
        ('a: "\\0"\n', ["run.yaml:1:4: a string must not hold U+0000 or half a surrogate pair"]),
        ("[" * 100_000, ["run.yaml:1:65: nested deeper than 64 levels"]),
        ("- " * 50_000, ["run.yaml:1:129: nested deeper than 64 levels"]),
        (f"a: [{'1,' * 200_000}]", ["run.yaml:1:199999: more than 100000 values"]),
    ],
)
def test_a_text_that_is_no_manifest_is_refused_with_its_place(text, lines):
    """Every fault has file, line, column and a way to mend it; as many as can be known are told at once."""
    assert faults(text) == lines


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\xff\xfea\0:\0", "run.yaml: expected UTF-8, got UTF-16 (save the file as UTF-8)"),
        (b"\xff\xfe\0\0a", "run.yaml: expected UTF-8, got UTF-32 (save the file as UTF-8)"),
        (b"a: 1\nb: \xe4\n", "run.yaml:2:4: expected UTF-8, got the byte 0xe4 (save the file as UTF-8)"),
        (
            b"a: \xed\xa0\x80\n",
            "run.yaml:1:4: expected UTF-8, got half a surrogate pair (save the file as UTF-8)",
        ),
        (b"a: b\0c\n", "run.yaml:1:5: the character U+0000 is not allowed (save the file as UTF-8)"),
        (
            b"a:\r\n  b: \x07\r\n",
            "run.yaml:2:6: the character U+0007 is not allowed (in double quotes it can be written as an escape)",
        ),
        (
            "a: é\u2028".encode(),
            "run.yaml:1:5: the character U+2028 is not allowed (in double quotes it can be written as an escape)",
        ),
        (
            b"a: " + b"x" * 50_000_000,
            "run.yaml: larger than 1 MiB (a manifest names the files of a run, it does not hold them)",
        ),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_place(data, line):
    """Encodings and control characters are named."""
    assert faults(data) == [line]


def test_half_a_surrogate_pair_as_an_escape_is_refused():
    """No text may hold what cannot be written as UTF-8."""
    assert "run.yaml:1:" in faults('a: "\\ud800"')[0]


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "a: @x", "a: 'x", "- a\nb: 1", "{a: 1}}", "a: 1\n b: 2", "a: `x`"]
)
def test_a_syntax_error_has_a_place(text):
    """The parser's own words come with line and column, in one line."""
    (line,) = faults(text)
    assert line.startswith("run.yaml:")
    assert "not valid YAML" in line


def test_a_byte_order_mark_and_windows_line_ends_are_accepted():
    """Editors on Windows write them."""
    root = read(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: x\r\n", "run.yaml")
    assert plain(root) == {"a": 1, "b": {"c": "x"}}
    assert find(root, "$.b.c").where == "run.yaml:3:6"


def test_an_alias_stands_for_the_whole_value():
    """Anchors may be used to write a value once."""
    root = read(b"a: &x {b: [1]}\nc: *x\n", "run.yaml")
    assert plain(root) == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert find(root, "$.c").key_where == "run.yaml:2:1"


def test_an_alias_bomb_is_refused():
    """300 bytes must not become 387 million values."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    assert faults("\n".join(lines)) == ["run.yaml:5:8: aliases expand to more than 10000 values"]


def test_aliases_cannot_nest_without_bound():
    """Depth is counted through aliases too."""
    text = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(70))
    assert faults(text) == ["run.yaml:64:12: nested deeper than 64 levels by the alias *a62"]


def test_a_hundred_thousand_brackets_end_in_a_message(tmp_path):
    """The process neither crashes nor runs out of stack."""
    manifest = tmp_path / "run.yaml"
    manifest.write_text("a: " + "[" * 100_000, encoding="utf-8")
    code = "import sys, pathlib, codex_kernel.yaml_reader as y; y.read_file(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(manifest)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("run.yaml:1:67: nested deeper than 64 levels")


def file_fault(path) -> str:
    """Return what a user sees of a file that cannot be read, without the folder."""
    with pytest.raises(ManifestError) as caught:
        read_file(path)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path):
    """A slip in the name is the likeliest reason."""
    (tmp_path / "quickstart.yaml").touch()
    assert (
        file_fault(tmp_path / "quickstrat.yaml")
        == "quickstrat.yaml: no such file (did you mean 'quickstart.yaml'?)"
    )
    assert file_fault(tmp_path / "nowhere" / "run.yaml") == "run.yaml: no such file"


def test_a_folder_is_no_manifest(tmp_path):
    """A folder is named as one."""
    assert file_fault(tmp_path / ".").endswith("expected a file, got a folder (name the YAML file in it)")


def test_a_file_that_cannot_be_read_gives_the_reason(tmp_path):
    """The system's own words are kept."""
    (tmp_path / "run.yaml").symlink_to(tmp_path / "run.yaml")
    assert file_fault(tmp_path / "run.yaml") == "run.yaml: cannot be read: too many levels of symbolic links"


def test_an_empty_file_is_named(tmp_path):
    """An empty file is no mapping."""
    (tmp_path / "run.yaml").touch()
    assert file_fault(tmp_path / "run.yaml") == "run.yaml: expected a mapping, got an empty file"


def test_a_file_of_50_mb_is_refused_without_being_read(tmp_path):
    """No more than a mebibyte is ever in memory."""
    with (tmp_path / "run.yaml").open("wb") as file:
        file.truncate(50_000_000)
    tracemalloc.start()
    try:
        assert file_fault(tmp_path / "run.yaml").startswith("run.yaml: larger than 1 MiB")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_an_endless_file_is_refused():
    """A device gives no more than is asked of it."""
    with pytest.raises(ManifestError, match="larger than 1 MiB"):
        read_file(yaml_reader.Path("/dev/zero"))


@given(JSON_VALUES.map(lambda value: {"key": value}) | st.dictionaries(TEXTS, JSON_VALUES, max_size=4))
def test_what_is_written_is_read_back(value):
    """Any JSON value survives writing and reading, types included."""
    assert repr(plain(read(write(value).encode(), "run.yaml"))) == repr(value)


@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@\n\t ,?1.~", max_size=60).map(str.encode))
def test_no_bytes_make_the_reader_fail_in_another_way(data):
    """Whatever a file holds is a tree or a ManifestError."""
    try:
        root = read(data, "run.yaml")
    except ManifestError:
        return
    assert isinstance(plain(root), dict)


@given(st.lists(TEXTS | st.integers(0, 3), max_size=4))
def test_a_path_leads_to_the_value_it_names(steps):
    """Keys of any text can be written in a path and found again."""
    path, value = "$", 7
    for step in steps:
        path = child_path(path, step)
    for step in reversed(steps):
        value = {step: value} if isinstance(step, str) else [*[None] * step, value]
    root = read(write({"top": value}).encode(), "run.yaml")
    assert find(root, path.replace("$", "$.top", 1)).value == 7


def test_a_path_that_leads_nowhere_gives_the_nearest_place():
    """A message can always name a place."""
    root = read(b"a:\n  b: [1]\n", "run.yaml")
    assert find(root, "$.a.b[3].c").where == "run.yaml:2:6"
    assert find(root, "$.x").where == "run.yaml:1:1"


def test_problems_are_sorted_by_place():
    """Lines are numbers, and what has no line comes first."""
    wheres = ["r:10:1", "r:9:12", "r:9:2", "--set a=1"]
    ordered = in_file_order([Problem(where, "", "x") for where in wheres])
    assert [problem.where for problem in ordered] == ["--set a=1", "r:9:2", "r:9:12", "r:10:1"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("[a, 1]", ["a", 1]),
        ("''", ""),
        ("a: 1", {"a": 1}),
        ("'a # b'", "a # b"),
        ("a#b", "a#b"),
    ],
)
def test_a_value_alone_is_read_like_one_in_a_file(text, value):
    """`--set` knows the same types."""
    assert plain(read_value(text, "--set a")) == value


def test_a_value_alone_may_be_missing():
    """Nothing at all is told from null."""
    assert read_value("", "--set a") is None
    assert read_value("null", "--set a").value is None


@pytest.mark.parametrize("text", ["a # b", "[1] #2", "{a: 1} # b", "a: 1 # b", "'a' # b"])
def test_a_comment_behind_a_value_alone_is_refused(text):
    """Half of an argument must not vanish."""
    with pytest.raises(ManifestError, match="would be lost as a comment"):
        read_value(text, "--set a")
