"""The step `decontaminate`: which documents hold something of an evaluation set, and what is wrong with such a set."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.contamination import Decontaminate
from codex_clean.evaluation_files import find
from codex_clean.overlap import CONTAMINATED, OTHER_ITEMS
from codex_kernel import Document, InputError
from codex_kernel.testing import make_run

SOLUTION = """\
    for idx, elem in enumerate(numbers):
        for idx2, elem2 in enumerate(numbers):
            if idx != idx2:
                distance = abs(elem - elem2)
                if distance < threshold:
                    return True
    return False
"""
THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def write(folder, records, name="evaluation.jsonl"):
    """Write an evaluation file of records."""
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def step(folder, **options):
    """Begin a pass of a step with these options."""
    options.setdefault("files", ["evaluation.jsonl"])
    return Decontaminate(**options).codex_cleaner(make_run(folder))


def counts(cleaner, text):
    """Clean one text; say what was counted, and that it was dropped just then."""
    answer = cleaner.clean(Document("a", "a", text))
    assert (answer.document is None) == bool(answer.counts)
    return dict(answer.counts)


def test_thirteen_words_are_enough_and_twelve_are_not(tmp_path):
    """By default 13 words in a row make a document contaminated, whatever their case and the signs between them."""
    write(tmp_path, [{"q": f"{THIRTEEN} fourteen"}])
    cleaner = step(tmp_path)
    assert counts(cleaner, f"So: {THIRTEEN.upper().replace(' ', ', ')}!") == {
        CONTAMINATED: 1,
        "overlaps with evaluation.jsonl:1": 1,
    }
    assert counts(cleaner, THIRTEEN.removesuffix(" thirteen") + " 13") == {}
    assert counts(cleaner, " ".join(reversed(THIRTEEN.split()))) == {}


def test_each_item_that_is_hit_is_counted_by_its_name(tmp_path):
    """A document is counted once, and each item that it overlaps with once, by the field that names it."""
    write(tmp_path, [{"task": f"t/{n}", "q": f"{THIRTEEN} number{n} a{n} b{n} c{n} d{n}"} for n in range(3)])
    cleaner = step(tmp_path, id_field="task", ngram=6)
    assert counts(cleaner, "thirteen number1 a1 b1 c1 d1 and thirteen number2 a2 b2 c2 d2") == {
        CONTAMINATED: 1,
        "overlaps with t/1": 1,
        "overlaps with t/2": 1,
    }


def test_names_of_items_are_few_and_short(tmp_path):
    """Beyond a hundred items the counts name no more of them, and a name is a short line of print."""
    records = [
        {"task": f"{n} " + "x\n" * 400, "q": " ".join(f"q{n}w{m}" for m in range(13))} for n in range(150)
    ]
    write(tmp_path, records)
    cleaner = step(tmp_path, id_field="task")
    total: dict[str, int] = {}
    for record in records:
        for key, count in counts(cleaner, record["q"]).items():
            total[key] = total.get(key, 0) + count
    assert (total[CONTAMINATED], total[OTHER_ITEMS], len(total)) == (150, 50, 102)
    assert all(len(key) < 80 and key.isprintable() for key in total)


def test_short_solutions_are_found_by_their_signs(tmp_path):
    """A solution of few words has enough words and signs: with unit `code` it is found, indented in another way."""
    write(tmp_path, [{"prompt": "p", "canonical_solution": SOLUTION}])
    cleaner = step(tmp_path, unit="code", fields=["canonical_solution"])
    assert CONTAMINATED in counts(cleaner, "def close(numbers):\n" + SOLUTION.replace("    ", "\t"))
    assert counts(cleaner, "for idx, elem in enumerate(numbers):\n    print(idx, elem)\n") == {}


def test_texts_shorter_than_a_run_are_looked_for_whole(tmp_path):
    """A text of 8 to 12 words is found where all of it stands; shorter ones are left out, with a warning."""
    write(
        tmp_path, [{"a": "alpha beta gamma delta epsilon zeta eta theta", "b": "iota kappa", "c": THIRTEEN}]
    )
    run = make_run(tmp_path)
    cleaner = Decontaminate(files=["evaluation.jsonl"]).codex_cleaner(run)
    assert CONTAMINATED in counts(cleaner, "x alpha beta gamma delta epsilon zeta eta theta y")
    assert counts(cleaner, "alpha beta gamma delta epsilon zeta eta iota kappa") == {}
    assert CONTAMINATED in counts(cleaner, THIRTEEN)
    assert run.report.warnings == [
        "decontaminate: 1 evaluation texts of fewer than 8 tokens are not looked for"
    ]


def test_only_the_fields_that_are_named_count(tmp_path):
    """Where `fields` names some, other texts of the records may stand in the training data; lists are gone into."""
    write(tmp_path, [{"q": [THIRTEEN], "boilerplate": THIRTEEN.upper().replace("ONE", "ZERO")}])
    cleaner = step(tmp_path, fields=["q"])
    assert counts(cleaner, "zero " + THIRTEEN.removeprefix("one ")) == {}
    assert CONTAMINATED in counts(cleaner, THIRTEEN)
    assert CONTAMINATED in counts(step(tmp_path), "zero " + THIRTEEN.removeprefix("one "))


def test_packed_files_and_texts_are_read(tmp_path):
    """Files may be packed with gzip, as HumanEval is, and a file that is no records is one item."""
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"q": THIRTEEN}) + "\n\n")
    (tmp_path / "b.txt").write_text("\ufeff" + THIRTEEN.replace("one", "uno"))
    cleaner = step(tmp_path, files=["*.jsonl.gz", "b.txt"])
    assert "overlaps with a.jsonl.gz:1" in counts(cleaner, THIRTEEN)
    assert "overlaps with b.txt" in counts(cleaner, THIRTEEN.replace("one", "uno"))


def test_the_fingerprint_is_of_names_and_contents(tmp_path):
    """Another content or name of an evaluation file is another fingerprint; where the files lie is none of it."""
    prints = []
    for folder, name, text in (
        ("a", "e.txt", "x"),
        ("b", "e.txt", "x"),
        ("a", "e.txt", "y"),
        ("b", "f.txt", "x"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
        prints.append(step(tmp_path / folder, files=[name]).fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_files_that_change_meanwhile_end_the_run(tmp_path):
    """What is read is what the fingerprint was made of, or the run ends."""
    write(tmp_path, [{"q": THIRTEEN}])
    cleaner = step(tmp_path)
    cleaner.fingerprint()
    write(tmp_path, [{"q": THIRTEEN + " more"}])
    with pytest.raises(InputError, match="changed while the run was prepared"):
        counts(cleaner, "x")


def test_missing_files_are_named_before_the_run(tmp_path):
    """Preflight names each pattern that no file matches; without it the hook refuses."""
    write(tmp_path, [{"q": THIRTEEN}], "there.jsonl")
    plugin = Decontaminate(files=["there.jsonl", "gone.jsonl", "*.gz"])
    assert plugin.codex_preflight(tmp_path) == [
        f"files: {pattern}: no file matches it, looked from {tmp_path}" for pattern in ("gone.jsonl", "*.gz")
    ]
    with pytest.raises(InputError, match=r"gone\.jsonl"):
        plugin.codex_cleaner(make_run(tmp_path))
    with pytest.raises(ValueError, match="at least one evaluation file"):
        Decontaminate(files=[])


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b'{"q": "x"}\n{"q": \n', {}, "evaluation.jsonl:2: not a JSON record"),
        (b"[" * 100_000 + b"\n", {}, "evaluation.jsonl:1: not a JSON record"),
        (b'["x"]\n', {}, "expected a JSON object, got list"),
        (b'{"q": 1}\n', {}, "expected text in a field, got a record with q"),
        (b'{"q": "x"}\n', {"fields": ["prompt"]}, "expected text in prompt, got a record with q"),
        (b'{"q": "x"}\n', {"id_field": "task"}, "expected a text or a number in 'task'"),
        (b'{"q": "\xff"}\n', {}, "evaluation.jsonl:1: byte 7: not valid UTF-8"),
        (b"", {}, "no evaluation item in it"),
        (b'{"q": "too short"}\n', {}, "none of the 1 evaluation texts has 8 tokens"),
    ],
)
def test_a_bad_evaluation_file_says_where_and_why(tmp_path, content, options, said):
    """A record that cannot be used is an error with file and line, before any document is kept."""
    (tmp_path / "evaluation.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        counts(step(tmp_path, **options), "text")
    assert said in str(caught.value)


@pytest.mark.parametrize("damage", [b"no archive", gzip.compress(b"x" * 999)[:-9]])
def test_a_damaged_archive_is_an_error(tmp_path, damage):
    """What gzip cannot unpack is refused by name."""
    (tmp_path / "e.jsonl.gz").write_bytes(damage)
    with pytest.raises(InputError, match=r"e\.jsonl\.gz: cannot be read"):
        step(tmp_path, files=["e.jsonl.gz"]).fingerprint()


def test_a_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    """An archive may not unpack to more than the limit."""
    monkeypatch.setattr("codex_clean.evaluation_files._LIMIT_BYTES", 1000)
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"x" * 1001))
    with pytest.raises(InputError, match="is larger than 1000 bytes"):
        step(tmp_path, files=["e.txt.gz"]).fingerprint()


def test_globs_start_from_the_base_whatever_it_is_called(tmp_path):
    """Wildcards count in the pattern alone, `**` is any number of folders, a path that exists is taken literally."""
    base = tmp_path / "[odd]*"
    (base / "a" / "b").mkdir(parents=True)
    for name in ("a/b/c.jsonl", "a/d.jsonl", "e[1].jsonl"):
        (base / name).write_text("{}")
    assert [path.relative_to(base).as_posix() for path in find("**/*.jsonl", base)] == [
        "a/b/c.jsonl",
        "a/d.jsonl",
        "e[1].jsonl",
    ]
    assert find("e[1].jsonl", base) == [base / "e[1].jsonl"]
    assert find(str(base / "a" / "d.jsonl"), tmp_path) == [base / "a" / "d.jsonl"]
    assert find("a", base) == find("nothing*", base) == []


@given(
    before=st.text(max_size=60), after=st.text(max_size=60), start=st.integers(0, 20), size=st.integers(1, 30)
)
def test_a_document_is_dropped_exactly_where_a_run_of_words_is_shared(
    tmp_path_factory, before, after, start, size
):
    """Whatever stands around it, a run of 9 words of the item drops the document, and no other does."""
    every = [f"word{number}" for number in range(30)]
    folder = tmp_path_factory.mktemp("item")
    (folder / "e.txt").write_text(" ".join(every))
    shared = every[start : start + size]
    text = f"{before} § {' '.join(shared)} § {after}"
    answer = step(folder, files=["e.txt"], ngram=9).clean(Document("a", "a", text))
    assert (answer.document is None) == (len(shared) >= 9)
