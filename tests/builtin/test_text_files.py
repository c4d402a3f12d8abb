import gzip
import os
import socket

import attrs
import pytest

from codex_kernel import BadRecord, Document, InputError
from codex_kernel.builtin import languages
from codex_kernel.builtin.files import excluded, find
from codex_kernel.builtin.languages import BY_SUFFIX, LANGUAGES, language_of
from codex_kernel.builtin.text_files import TextFiles
from codex_kernel.testing import make_run
from tests.command import toy_workplace
from tests.toys import TOY_MANIFEST


def tree(folder, *names):
    """Write files whose text is their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(folder, *patterns, exclude=()):
    """Return the names of the files that are found."""
    return [file.name for file in find(patterns, exclude, folder)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.py", ["a.py"]),
        ("src", ["src/b.py", "src/deep/c.py", "src/deep/er/d.txt"]),
        ("*.py", ["a.py"]),
        ("**/*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
        ("src/*.py", ["src/b.py"]),
        ("src/*/c.py", ["src/deep/c.py"]),
        ("src/**", ["src/b.py", "src/deep/c.py", "src/deep/er/d.txt"]),
        ("**/deep/**/*.txt", ["src/deep/er/d.txt"]),
        ("src/[a-b].p?", ["src/b.py"]),
        ("src/[!b].py", []),
        (".hidden/*.py", [".hidden/e.py"]),
        ("nothing/**/*.py", []),
        ("./src/../a.py", ["a.py"]),
    ],
)
def test_files_folders_and_globs_are_found(tmp_path, pattern, expected):
    """Files, folders and globs with **, *, ? and [] give the files they name; hidden ones only when named."""
    tree(tmp_path, "a.py", "src/b.py", "src/deep/c.py", "src/deep/er/d.txt", ".hidden/e.py", "src/.f.py")
    assert names(tmp_path, pattern) == expected


@pytest.mark.parametrize("folder", ["proj[12]", "what?", "all*"])
@pytest.mark.parametrize("pattern", ["src/*.txt", "src", "**/*.txt", "src/a.txt"])
def test_a_base_is_no_pattern(tmp_path, folder, pattern):
    """Wildcards in the path of the base stand for themselves: no file of a sibling folder is taken."""
    tree(tmp_path, "proj1/src/other.txt", "whats/src/other.txt", "alls/src/other.txt", f"{folder}/src/a.txt")
    assert names(tmp_path / folder, pattern) == ["src/a.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data [v2]", ["data [v2]/a[1].txt", "data [v2]/b.txt"]),
        ("data [v2]/*.txt", ["data [v2]/a[1].txt", "data [v2]/b.txt"]),
        ("data [v2]/a[1].txt", ["data [v2]/a[1].txt"]),
        ("*/a[[]1].txt", ["data [v2]/a[1].txt"]),
        ("data [vw]/*.txt", ["data v/c.txt"]),
    ],
)
def test_a_path_that_exists_is_taken_literally(tmp_path, pattern, expected):
    """A file or folder whose name has wildcards is found by that name; a name that is not there is a pattern."""
    tree(tmp_path, "data [v2]/a[1].txt", "data [v2]/b.txt", "data v/c.txt", "data 2/c.txt")
    assert names(tmp_path, pattern) == expected
    assert names(tmp_path, str(tmp_path / pattern)) == expected


def test_each_file_comes_once_and_sorted(tmp_path):
    """Overlapping patterns and links to a file give it once, under its own name; loops of links do no harm."""
    tree(tmp_path, "b.py", "a/z.py")
    (tmp_path / "a" / "link.py").symlink_to(tmp_path / "b.py")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert names(tmp_path, "**/*.py", "b.py", "a", str(tmp_path / "b.py")) == ["a/z.py", "b.py"]


def test_files_outside_of_the_base_have_relative_names(tmp_path):
    """A file above the base is found by an absolute or a relative path, and its name starts with two dots."""
    tree(tmp_path, "above.py", "base/own.py")
    assert names(tmp_path / "base", "../*.py", str(tmp_path / "above.py")) == ["../above.py"]


@pytest.mark.parametrize(
    ("pattern", "out"),
    [
        ("tests", True),
        ("c.py", True),
        ("*.py", True),
        ("src/tests", True),
        ("src/**/c.py", True),
        ("src", True),
        ("test", False),
        ("tests/c.py", False),
        ("src/*.py", False),
    ],
)
def test_excluding(pattern, out):
    """A pattern without a slash is compared with each part of a path, one with a slash with the path's beginning."""
    assert excluded("src/tests/c.py", [pattern]) is out


@pytest.mark.parametrize("pattern", ["data [v2]", "src/data [v2]", "src/data [[]v2]"])
def test_a_name_with_wildcards_can_be_excluded(pattern):
    """A file or folder whose name has wildcards is left out by that name, and by a pattern for it."""
    assert excluded("src/data [v2]/a.txt", [pattern])


def test_text_is_kept_to_the_last_byte(tmp_path):
    """Newlines of all kinds, byte order marks, tabs and white space at the end are kept."""
    raw = b"\xef\xbb\xbfa\r\nb\rc\n\t\xc3\xa9  "
    (tmp_path / "a.txt").write_bytes(raw)
    [document] = TextFiles(paths=["a.txt"]).codex_dataset(make_run(tmp_path))
    assert document.text.encode() == raw
    assert (document.id, document.group) == ("a.txt", "a.txt")


def test_folders_can_be_groups(tmp_path):
    """With group_by folder, the files of a folder share a group."""
    tree(tmp_path, "a/x.py", "a/y.py", "z.py")
    documents = TextFiles(paths=["**/*.py"], group_by="folder").codex_dataset(make_run(tmp_path))
    assert [document.group for document in documents] == ["a", "a", "."]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.py", "python"),
        ("a.pyi", "python"),
        ("src/Main.java", "java"),
        ("a.C", "c"),
        ("a.d.ts", "typescript"),
        ("a.tar.py", "python"),
        ("Makefile", "makefile"),
        ("sub/CMakeLists.txt", "cmake"),
        ("notes.txt", "text"),
        ("a.ipynb", "jupyter notebook"),
        ("README", ""),
        (".gitignore", ""),
        ("a.unknown", ""),
        ("py", ""),
        ("a.m", "matlab"),
        ("a.test.m", "octave"),
        ("a.h", ""),
    ],
)
def test_a_language_is_known_by_the_name(name, language):
    """By the whole name, or the longest suffix that is known; the user's table goes over ours."""
    assert language_of(name, {".m": "matlab", ".test.m": "octave", ".h": ""}) == language


def test_no_suffix_is_given_to_two_languages():
    """Each suffix stands once in the table, and languages and suffixes are in lower case."""
    suffixes = [suffix for names in languages._SUFFIXES.values() for suffix in names.split()]
    assert len(suffixes) == len(set(suffixes)) == len(BY_SUFFIX)
    assert all(name == name.lower() for name in [*suffixes, *LANGUAGES])


def test_languages_can_be_chosen(tmp_path):
    """Files of other languages are left out and counted; the language is that of the unpacked name."""
    tree(tmp_path, "a.py", "b.rs", "c.m", "d.txt")
    (tmp_path / "e.py.gz").write_bytes(gzip.compress(b"e"))
    run = make_run(tmp_path)
    section = TextFiles(paths=["."], languages=["python", "matlab"], suffixes={".m": "matlab"})
    documents = list(section.codex_dataset(run))
    assert [(document.id, document.language) for document in documents] == [
        ("a.py", "python"),
        ("c.m", "matlab"),
        ("e.py.gz", "python"),
    ]
    assert run.report.events == [("dataset_other_languages", {"files": 2, "kept": 3})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["pyton"]}, "languages: no file has the language 'pyton'; did you mean 'python'"),
        ({"languages": ["Python"]}, "did you mean 'python'"),
        ({"languages": ["xyzzy"]}, "as GitHub does"),
        ({"suffixes": {"m": "matlab"}}, "suffixes: expected a suffix in lower case"),
        ({"suffixes": {".m": "MATLAB"}}, "expected a language in lower case"),
    ],
)
def test_languages_that_no_file_could_have_are_refused(options, message):
    """A language that is not known, or not in lower case, is an error with the nearest one."""
    with pytest.raises(ValueError, match=message):
        TextFiles(paths=["."], **options)


def test_a_language_without_a_file_is_refused(tmp_path):
    """Where no file has the language, preflight says so and the run ends."""
    tree(tmp_path, "a.py")
    section = TextFiles(paths=["a.py"], languages=["rust"])
    assert list(section.codex_preflight(tmp_path)) == ["languages: no file is rust, of 1 files"]
    with pytest.raises(InputError, match="no file is rust"):
        section.codex_dataset(make_run(tmp_path))


@pytest.mark.parametrize(
    ("patterns", "groups"),
    [
        (["repos"], ["repos/a", "repos/a", "repos/b/deep", "repos/b", "repos"]),
        (["repos/*/**/*.py"], ["repos/a", "repos/a", "repos/b/deep", "repos/b"]),
        (["."], ["repos", "repos", "repos/b/deep", "repos", "repos"]),
        (["repos/b/deep/y.py", "repos/a/src"], ["repos/a/src", "repos/a/src/deep", "repos/b/deep"]),
        (["{base}/repos/a/**"], ["repos/a/src", "repos/a/src"]),
        (["../*/repos/a/**"], [".", "."]),
    ],
)
def test_repositories_can_be_groups(tmp_path, patterns, groups):
    """A group is the nearest folder with .git, else the first folder below the pattern's own, else that one."""
    base = tmp_path / "base"
    tree(
        base, "repos/a/src/x.py", "repos/a/src/deep/y.py", "repos/b/deep/y.py", "repos/b/z.py", "repos/top.py"
    )
    (base / "repos" / "b" / "deep" / ".git").mkdir()
    run = attrs.evolve(make_run(tmp_path / "run"), base=base)
    patterns = [pattern.format(base=base) for pattern in patterns]
    documents = TextFiles(paths=patterns, group_by="repository").codex_dataset(run)
    assert sorted(document.group for document in documents) == sorted(groups)


def told(folder, *paths):
    """Return the ids of the documents and the warnings."""
    run = make_run(folder)
    documents = TextFiles(paths=list(paths)).codex_dataset(run)
    return [document.id for document in documents], run.report.warnings


def test_links_that_lead_nowhere_are_told(tmp_path):
    """A broken link in a folder is left out with a warning; one that is named itself is refused."""
    tree(tmp_path, "d/a.py")
    (tmp_path / "d" / "gone.py").symlink_to(tmp_path / "nothing")
    left_out = "the dataset leaves out d/gone.py, a link that leads nowhere"
    assert told(tmp_path, "d") == (["d/a.py"], [left_out])
    [problem] = TextFiles(paths=["d/gone.py"]).codex_preflight(tmp_path)
    assert problem == "d/gone.py: is a link that leads nowhere, expected a file or a folder"


def test_links_to_folders_are_told_where_their_files_are_not_read(tmp_path):
    """They are not followed, but named; one that leads into the folder itself, or is hidden, takes nothing away."""
    tree(tmp_path, "d/a.py", "d/deep/b.py", "out/o.py")
    (tmp_path / "d" / "elsewhere").symlink_to(tmp_path / "out")
    (tmp_path / "d" / "again").symlink_to(tmp_path / "d" / "deep")
    (tmp_path / "d" / ".hidden").symlink_to(tmp_path / "out")
    left_out = "the dataset leaves out d/elsewhere, a link to a folder: name the folder itself to read it"
    for pattern in ("d", "d/**/*.py"):
        assert told(tmp_path, pattern) == (["d/a.py", "d/deep/b.py"], [left_out])
    assert told(tmp_path, "d/*.py") == (["d/a.py"], [])
    assert told(tmp_path, "d", "out") == (["d/a.py", "d/deep/b.py", "out/o.py"], [])
    assert told(tmp_path, "d/elsewhere") == (["d/elsewhere/o.py"], [])
    run = make_run(tmp_path)
    list(TextFiles(paths=["d"], exclude=["elsewhere"]).codex_dataset(run))
    assert run.report.warnings == []


def test_a_link_to_a_folder_that_is_not_looked_through_is_told(tmp_path):
    """Its files are read by no other way: the folder is hidden, or lies deeper than the pattern goes."""
    tree(tmp_path, ".h/docs/a.md", "b.md", "d/deep/er/x.txt", "d/one/x.txt")
    (tmp_path / "docs").symlink_to(tmp_path / ".h" / "docs")
    (tmp_path / "d" / "link").symlink_to(tmp_path / "d" / "deep" / "er")
    words = "a link to a folder: name the folder itself to read it"
    assert told(tmp_path, "*/*.md", "b.md") == (["b.md"], [f"the dataset leaves out docs, {words}"])
    assert told(tmp_path, "d/*/x.txt") == (["d/one/x.txt"], [f"the dataset leaves out d/link, {words}"])


def test_a_link_that_leads_to_itself_matters_only_where_it_matches(tmp_path):
    """It cannot be looked at; a pattern that does not match it does not try."""
    tree(tmp_path, "a.py")
    (tmp_path / "loop").symlink_to("loop")
    assert told(tmp_path, "*.py") == (["a.py"], [])
    with pytest.raises(InputError, match="cannot be looked at"):
        told(tmp_path, "*")


def test_what_is_no_file_in_a_folder_is_told(tmp_path):
    """A pipe that a pattern matches is left out with a warning, and never waited for."""
    tree(tmp_path, "d/a.py")
    for name in ("b.py", "c.py", "d.txt"):
        os.mkfifo(tmp_path / "d" / name)
    assert told(tmp_path, "d/*.py") == (
        ["d/a.py"],
        ["the dataset leaves out d/b.py, a pipe, and 1 more such"],
    )


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    """A pipe, a socket, an empty name and a name that no file can have are named, and never waited for."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        problems = list(TextFiles(paths=["pipe", "socket", "", "a\0b"]).codex_preflight(tmp_path))
    assert problems[0] == "pipe: is a pipe, expected a file or a folder"
    assert problems[1] == "socket: is a socket, expected a file or a folder"
    assert problems[2].startswith("paths: an empty name")
    assert "embedded null" in problems[3]
    tree(tmp_path, "a.txt")
    assert names(tmp_path, ".") == ["a.txt"]


STRANGE = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8, as Python has it."""


def test_a_name_that_is_not_utf_8_is_written_with_its_bytes(tmp_path):
    """So its id is text; it is found by folders and globs, left out by what is shown, and reached by a link once."""
    for name in (f"{STRANGE}.py", "a.py"):
        (tmp_path / name).write_text("text")
    (tmp_path / "link.py").symlink_to(f"{STRANGE}.py")
    assert names(tmp_path, ".") == ["a.py", r"caf\xe9.py"]
    assert names(tmp_path, "caf?.py") == [r"caf\xe9.py"]
    assert names(tmp_path, ".", exclude=[r"caf\xe9.py"]) == ["a.py", "link.py"]
    _, document = TextFiles(paths=["."]).codex_dataset(make_run(tmp_path))
    assert document == Document(r"caf\xe9.py", r"caf\xe9.py", "text", language="python")


@pytest.mark.parametrize(
    ("by", "groups"),
    [("folder", [r"caf\xe9/a", r"caf\xe9/b/in"]), ("repository", [r"caf\xe9", r"caf\xe9/b"])],
)
def test_folders_whose_names_are_not_utf_8_are_groups(tmp_path, by, groups):
    """The repository is looked for where the folder is, and not at the name that it is written with."""
    for name in ("a", "b/in"):
        (tmp_path / STRANGE / name).mkdir(parents=True)
        (tmp_path / STRANGE / name / "x.py").write_text("text")
    for repository in ("", "b"):
        (tmp_path / STRANGE / repository / ".git").mkdir()
    documents = TextFiles(paths=["."], group_by=by).codex_dataset(make_run(tmp_path))
    assert [document.group for document in documents] == groups


@pytest.mark.parametrize(
    "dataset", ["text-files, paths: [d]", "jsonl, paths: [d/*.jsonl]", "csv, paths: ['d/*.csv']"]
)
def test_a_run_trains_on_files_whose_names_are_not_utf_8(tmp_path, dataset):
    """A bad record in such a file is told by the name that can be written."""
    workplace = toy_workplace(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"{STRANGE}.jsonl").write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(40)))
    (tmp_path / "d" / f"{STRANGE}.csv").write_text("text\n" + "".join(f"text {n}\n" for n in range(40)))
    manifest = TOY_MANIFEST.replace("{type: toy}", f"{{type: {dataset}}}", 1).replace("0.2", "0")
    workplace.write("m.yaml", manifest)
    said = workplace.codex("run", "m.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    for name in ("jsonl", "csv"):
        (tmp_path / "d" / f"{STRANGE}.{name}").write_bytes(b"text,b\n\xff\n")
    said = workplace.codex("data", "validate", "m.yaml")
    assert said.code == 2
    assert r"d/caf\xe9." in said.out + said.err


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    """A folder without the right to look into it ends the run; its files are not just missing."""
    tree(tmp_path, "open/a.txt", "closed/b.txt")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"closed: the folder cannot be listed: Permission denied"):
        names(tmp_path, "**/*.txt")


def test_a_file_that_fails_is_named(tmp_path):
    """A file that opens and cannot be read ends the run with its name."""
    with pytest.raises(InputError, match=r"/mem: cannot be read: Input/output error"):
        list(TextFiles(paths=["/proc/self/mem"]).codex_dataset(make_run(tmp_path)))


def test_excluding_everything_is_told(tmp_path):
    """Where `exclude` leaves no file, preflight says that it was this option."""
    tree(tmp_path, "a.py")
    [problem] = TextFiles(paths=["a.py"], exclude=["*.py"]).codex_preflight(tmp_path)
    assert problem == "exclude: leaves out every file that paths names: *.py"


def test_a_file_that_is_no_text_is_a_bad_record(tmp_path):
    """Bytes that are not valid in the encoding are a BadRecord with file and line, and the other files are read."""
    tree(tmp_path, "a.bin", "c.bin")
    (tmp_path / "b.bin").write_bytes(b"ab\nc\xff\xfe")
    first, bad, last = TextFiles(paths=["*.bin"]).codex_dataset(make_run(tmp_path))
    assert (first.id, last.id) == ("a.bin", "c.bin")
    assert (bad.where, bad.problem) == ("b.bin:2", "byte 4: not valid utf-8 text (invalid start byte)")
    assert "exclude" in bad.remedy


def test_text_that_is_no_unicode_is_a_bad_record(tmp_path):
    """An encoding that can write half a character gives a BadRecord for it."""
    (tmp_path / "a.txt").write_text("x\\ud800")
    [bad] = TextFiles(paths=["a.txt"], encoding="raw_unicode_escape").codex_dataset(make_run(tmp_path))
    assert isinstance(bad, BadRecord)
    assert "character 1" in bad.problem


def test_newlines_are_changed_only_when_asked(tmp_path):
    """With newlines lf, CR LF and CR are a line feed each."""
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\rc\n\r\r\n")
    [document] = TextFiles(paths=["a.txt"], newlines="lf").codex_dataset(make_run(tmp_path))
    assert document.text == "a\nb\nc\n\n\n"


def test_another_encoding_can_be_asked_for(tmp_path):
    """The encoding of the section is the one that is used."""
    (tmp_path / "a.txt").write_bytes(b"na\xefve")
    [document] = TextFiles(paths=["a.txt"], encoding="latin-1").codex_dataset(make_run(tmp_path))
    assert document.text == "naïve"


def test_large_files_are_left_out_with_a_warning(tmp_path):
    """Files over max_file_bytes are left out, and the warning says how many and which is the first."""
    tree(tmp_path, "small.txt", "a much longer name.txt")
    run = make_run(tmp_path)
    documents = list(TextFiles(paths=["*.txt"], max_file_bytes=10).codex_dataset(run))
    assert [document.id for document in documents] == ["small.txt"]
    assert run.report.warnings == [
        "text-files left out 1 files of more than 10 bytes, first a much longer name.txt"
    ]


def test_a_file_that_vanishes_is_named(tmp_path):
    """A file that was found and is gone when it is read is an InputError with its name."""
    tree(tmp_path, "a.txt")
    documents = TextFiles(paths=["a.txt"]).codex_dataset(make_run(tmp_path))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt: cannot be read: No such file"):
        list(documents)


def test_no_file_is_refused(tmp_path):
    """Patterns that match nothing at all end the run."""
    with pytest.raises(InputError, match=r"no file to read: \*\.py"):
        TextFiles(paths=["*.py"]).codex_dataset(make_run(tmp_path))


def test_preflight_names_what_is_wrong(tmp_path):
    """Each pattern without a file, an empty list and an unknown encoding are named before the run."""
    tree(tmp_path, "a.py")
    problems = list(TextFiles(paths=["a.py", "*.txt", "gone"], encoding="utf-9").codex_preflight(tmp_path))
    assert [problem.split(":")[0] for problem in problems] == ["*.txt", "gone", "encoding"]
    assert len(list(TextFiles(paths=[]).codex_preflight(tmp_path))) == 1
