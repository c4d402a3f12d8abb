import pytest

from codex_kernel import InputError
from codex_kernel.builtin.files import excluded, find
from codex_kernel.builtin.text_files import TextFiles
from codex_kernel.testing import make_run


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


def test_a_file_that_is_no_text_is_named_with_the_byte(tmp_path):
    """Bytes that are not valid in the encoding end the run with file and position."""
    (tmp_path / "a.bin").write_bytes(b"abc\xff\xfe")
    with pytest.raises(InputError, match=r"^a\.bin: byte 3: not valid utf-8 text") as caught:
        list(TextFiles(paths=["*.bin"]).codex_dataset(make_run(tmp_path)))
    assert "dataset.exclude" in caught.value.remedy


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
