import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import attrs
import numpy as np
import pytest
from token_builders import ByteTokens, CountingTokens, documents, make_corpus, make_data

from codex_kernel.data.encode import default_fingerprint
from codex_kernel.errors import InputError, PluginError, StorageError
from codex_kernel.interfaces import Blocks, Data, Document
from codex_kernel.testing import RecordingReporter

TESTS = Path(__file__).parents[1]
WORDS = [f"document number {n} has some words of its own" for n in range(40)]


def key_of(data):
    """Return the name of the data's folder."""
    return data.report["key"]


def child(code, *arguments, **settings):
    """Start a Python process that can import what these tests can."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    script = textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


# ── what a run gets ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_result_is_what_a_trainer_asks_for(tmp_path):
    """Token data has both splits, the order, and a fingerprint, and its report can be written as JSON."""
    data: Data = make_data(documents(*WORDS), tmp_path, validation_fraction=0.2)
    train: Blocks = data.train
    assert data.validation is not None
    assert len(train) > len(data.validation) > 0
    assert sorted(data.samples(0, len(train))) == list(range(len(train)))
    assert json.loads(json.dumps(data.report)) == data.report


def test_the_report_counts_everything(tmp_path):
    """Documents, duplicates, empty ones, groups, bytes, tokens, blocks and padding are all counted."""
    docs = [
        Document("a", "one", "twelve bytes"),
        Document("b", "one", "twelve bytes"),
        Document("c", "two", ""),
        Document("d", "two", "é"),
    ]
    report = make_data(docs, tmp_path).report
    assert (report["documents"], report["duplicates_dropped"], report["documents_empty"]) == (4, 1, 1)
    assert (report["groups"], report["bytes"]) == (2, 14)
    train = report["splits"]["train"]
    assert (train["documents"], train["tokens"], train["target_tokens"], train["blocks"]) == (2, 16, 14, 2)
    assert (train["documents_overlong"], train["documents_split"], train["padding_slots"]) == (1, 1, 0)


def test_a_group_never_crosses(tmp_path):
    """All documents of a group are in one split."""
    docs = [Document(f"d{n}", f"g{n % 7}", f"text {n}") for n in range(70)]
    splits = make_data(docs, tmp_path, validation_fraction=0.4, seed=3).report["splits"]
    assert splits["validation"]["documents"] == 10 * splits["validation"]["groups"]
    assert splits["train"]["groups"] + splits["validation"]["groups"] == 7


def test_duplicates_can_be_kept(tmp_path):
    """Kept duplicates are trained and still counted."""
    docs = documents("same text", "same text")
    report = make_data(docs, tmp_path, duplicates="keep").report
    assert (report["duplicates"], report["duplicates_dropped"]) == (1, 0)
    assert report["splits"]["train"]["documents"] == 2


def test_a_text_in_both_splits_is_counted_and_told(tmp_path):
    """Duplicates that are kept may lie in train and in validation: each run is told, from the cache too."""
    docs = [Document(f"{n}-{copy}", f"{n}-{copy}", f"text {n}") for n in range(40) for copy in "ab"]
    for _ in range(2):
        report = RecordingReporter()
        data = make_data(docs, tmp_path, duplicates="keep", validation_fraction=0.5, report=report)
        crossing = data.report["validation_also_in_train"]
        assert crossing > 5
        assert [warning[: len(f"{crossing} of ")] for warning in report.warnings] == [f"{crossing} of "]
    report = RecordingReporter()
    data = make_data(docs, tmp_path, validation_fraction=0.5, report=report)
    assert (data.report["validation_also_in_train"], report.warnings) == (0, [])


def test_equal_texts_after_different_prompts_are_no_duplicates(tmp_path):
    """A duplicate has the same prompt and the same text."""
    docs = [
        Document("a", "a", "yes", "is it?"),
        Document("b", "b", "yes", "was it?"),
        Document("c", "c", "?yes", "is it"),
    ]
    assert make_data(docs, tmp_path).report["duplicates"] == 0


def test_long_documents_can_be_dropped(tmp_path):
    """With on_overflow drop, documents of more than seq_len tokens are left out and counted."""
    report = make_data(documents("short", "much longer than a block"), tmp_path, on_overflow="drop").report
    train = report["splits"]["train"]
    assert (train["documents"], train["documents_dropped"], train["bytes_dropped"]) == (1, 1, 24)


def test_long_documents_can_end_the_run(tmp_path):
    """With on_overflow error, the first document of more than seq_len tokens is named."""
    with pytest.raises(InputError, match=r"'d1' has 25 tokens, expected at most 8"):
        make_data(documents("short", "much longer than a block"), tmp_path, on_overflow="error")
    assert not list((tmp_path / "tokens").glob("*/meta.json"))


def test_blocks_without_targets_are_told(tmp_path):
    """Blocks that a long prompt fills are counted, with a warning."""
    report = RecordingReporter()
    data = make_data([Document("a", "a", "yes", "p" * 30)], tmp_path, report=report)
    assert data.report["splits"]["train"]["blocks_without_targets"] == 3
    assert len(report.warnings) == 1


@pytest.mark.parametrize(
    ("docs", "options", "message"),
    [
        (
            documents("a" * 20, "b"),
            {"on_overflow": "drop"},
            "1 of 2 documents of the train split are longer than 8",
        ),
        (documents("a" * 20), {"on_overflow": "truncate_right"}, "were cut: 13 tokens are lost"),
        ([Document("a", "a", "yes", "p" * 30)], {}, "3 of 5 blocks of the train split train nothing"),
        (
            [*documents("b"), Document("a", "a", "yes", "p" * 30)],
            {"on_overflow": "truncate_right", "on_no_target": "drop"},
            r"nothing is trained in 1 of 2 documents of the train split, which are dropped",
        ),
    ],
)
def test_what_is_not_trained_is_told_to_every_run(tmp_path, docs, options, message):
    """A run that finds its tokens in the cache is told what the one was told that has built them."""
    first, second = RecordingReporter(), RecordingReporter()
    for report in (first, second):
        make_data(docs, tmp_path, report=report, **options)
    assert second.events[-1][0] == "data_reused"
    assert re.search(message, "\n".join(first.warnings))
    assert second.warnings == first.warnings


def test_progress_is_reported(tmp_path):
    """Reading and encoding report where they are, and each ends with its total."""
    report = RecordingReporter()
    make_data(documents(*WORDS), tmp_path, report=report)
    assert ("read", 40, 40) in report.activities
    assert ("clean", 40, 40) in report.activities
    assert ("encode", 40, 40) in report.activities


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("docs", "options", "message"),
    [
        ([], {}, "the dataset has no documents"),
        (documents("", ""), {}, "2 documents, all of them empty"),
        (documents("a", "b"), {"validation_fraction": 1e-9}, "the validation split is empty"),
        (documents("a", "b"), {"validation_fraction": 0.999999}, "the train split is empty"),
        (documents("0123456789"), {"on_overflow": "drop"}, "nothing is left of the train split"),
        (
            [Document("x", "a", "1"), Document("y", "a", "2"), Document("x", "b", "3")],
            {},
            "number 1 and number 3",
        ),
        (documents("a\ud800b"), {}, "lone surrogate at character 1"),
    ],
)
def test_unusable_documents_are_refused(tmp_path, docs, options, message):
    """Data that leaves nothing to train or to validate on is an InputError that says what to do."""
    with pytest.raises(InputError, match=message) as caught:
        make_data(docs, tmp_path, **options)
    assert caught.value.remedy


NOT_IDS = {
    "type": ["a"],
    "fraction": [1.5],
    "ragged": [[1, 2], [3]],
    "nested": [[1, 2]],
    "nested and empty": [[]],
    "high": [1, 257],
    "low": [-1],
}


class Broken(ByteTokens):
    def encode(self, text):
        if text in NOT_IDS:
            return NOT_IDS[text]
        raise RuntimeError("no such luck")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type", "'d1'"),
        ("fraction", "expected a sequence of integers"),
        ("ragged", r"gave \[\[1, 2\], \[3\]\] for document 'd1', expected a sequence of integers"),
        ("nested", r"gave \[\[1, 2\]\] for document 'd1', expected a sequence of integers"),
        ("nested and empty", r"gave \[\[\]\] for document 'd1', expected a sequence of integers"),
        ("high", r"id 257 for document 'd1', expected ids in 0 … 256"),
        ("low", r"id -1 for document 'd1'"),
        ("raise", r"failed on document 'd0': RuntimeError: no such luck"),
    ],
)
def test_a_broken_tokenizer_is_named_with_the_document(tmp_path, text, message):
    """Ids out of range, of a wrong type, and exceptions are PluginErrors that name the document."""
    docs = (
        documents("raise") if text == "raise" else [Document("d0", "g", "low", ""), Document("d1", "g", text)]
    )
    if text != "raise":
        docs = docs[1:]
    with pytest.raises(PluginError, match=message):
        make_data(docs, tmp_path, tokenizer=Broken())


def test_a_batch_of_the_wrong_size_is_refused(tmp_path):
    """A batch tokenizer must give one encoding for each text."""

    class Short(ByteTokens):
        def encode_batch(self, texts):
            return [self.encode(text) for text in texts[:-1]]

    with pytest.raises(PluginError, match="gave 1 encodings for 2 texts"):
        make_data(documents("a", "b"), tmp_path, tokenizer=Short())


def test_an_end_of_text_outside_of_the_vocabulary_is_refused(tmp_path):
    """The tokenizer's eos_id must be one of its ids."""
    with pytest.raises(PluginError, match="eos_id is 300"):
        make_data(documents("a"), tmp_path, tokenizer=ByteTokens(eos_id=300))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (ByteTokens(eos_id=None), "eos_id is None, expected an integer"),
        (ByteTokens(eos_id=1.0), "eos_id is 1.0, expected an integer"),
        (ByteTokens(vocab_size=None), "vocab_size is None, expected an integer"),
    ],
)
def test_sizes_and_ids_that_are_no_integers_are_refused(tmp_path, tokenizer, message):
    """An eos_id or a vocab_size that is no integer is a PluginError, whoever asks first."""
    with pytest.raises(PluginError, match=message):
        default_fingerprint(tokenizer, "mine")
    with pytest.raises(PluginError, match=message):
        make_data(documents("a"), tmp_path, tokenizer=tokenizer)


def test_something_else_than_documents_is_refused(tmp_path):
    """A dataset that gives strings breaks its contract."""
    with pytest.raises(PluginError, match="gave a str"):
        make_data(["text"], tmp_path)


def test_a_dataset_that_changes_while_it_is_read_is_refused(tmp_path):
    """Files that change between two passes are noticed, and nothing is kept."""

    class Shrinking:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(documents("first", "second")[: 3 - self.passes])

    with pytest.raises(
        InputError, match="changed while it was read: 2 documents the first time, 1 the second"
    ):
        make_data(Shrinking(), tmp_path)
    assert not list((tmp_path / "tokens").glob("*/meta.json"))


def test_a_dataset_that_can_be_read_only_once_is_refused(tmp_path):
    """A generator is refused before anything is read."""
    read = []
    docs = (read.append(document) or document for document in documents("first", "second"))
    with pytest.raises(PluginError, match="gave a generator, which can be gone through only once") as caught:
        make_data(docs, tmp_path)
    assert "list" in caught.value.remedy
    assert not read


# ── the cache ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_unchanged_data_is_not_built_again(tmp_path):
    """The same documents, tokenizer, options and seed never reach the tokenizer a second time."""
    tokenizer = CountingTokens()
    first = make_data(documents(*WORDS), tmp_path, tokenizer=tokenizer, validation_fraction=0.2)
    asked = len(tokenizer.texts)
    report = RecordingReporter()
    second = make_data(
        documents(*WORDS), tmp_path, tokenizer=tokenizer, report=report, validation_fraction=0.2
    )
    assert len(tokenizer.texts) == asked == len(WORDS)
    assert [name for name, _ in report.events] == ["data_reused"]  # the corpus is not even looked at
    assert second.report == first.report
    assert second.fingerprint == first.fingerprint


CHANGES = {
    "a text": {"docs": documents(*WORDS[:-1], "another")},
    "an id": {"docs": [attrs.evolve(documents(*WORDS)[0], id="other"), *documents(*WORDS)[1:]]},
    "a group": {"docs": [attrs.evolve(documents(*WORDS)[0], group="other"), *documents(*WORDS)[1:]]},
    "a prompt": {"docs": [attrs.evolve(documents(*WORDS)[0], prompt="other"), *documents(*WORDS)[1:]]},
    "a boundary": {
        "docs": documents("document number 0 has some words of its ow", "n" + WORDS[1], *WORDS[2:])
    },
    "the order": {"docs": documents(*WORDS)[::-1]},
    "the seed": {"seed": 2},
    "the tokenizer": {"fingerprint": "other"},
    "the vocabulary": {"tokenizer": ByteTokens(vocab_size=300)},
    "the length": {"seq_len": 9},
    "the ratio": {"validation_fraction": 0.3},
    "duplicates": {"duplicates": "keep"},
    "overflow": {"on_overflow": "drop", "seq_len": 60},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_tokens_is_in_the_key(tmp_path, change):
    """A change of documents, seed, tokenizer or an option leads to another folder."""
    settings = {"docs": documents(*WORDS), "validation_fraction": 0.2, **CHANGES[change]}
    first = make_data(documents(*WORDS), tmp_path, validation_fraction=0.2)
    other = make_data(settings.pop("docs"), tmp_path, **settings)
    assert key_of(first) != key_of(other)


def test_the_fingerprint_is_that_of_the_batches(tmp_path):
    """Two stores with equal batches have one fingerprint, and another seed or text has another one."""
    first = make_data(documents("one text", "two"), tmp_path)
    renamed = [attrs.evolve(document, id="x" + document.id) for document in documents("one text", "two")]
    same = make_data(renamed, tmp_path)
    assert key_of(same) != key_of(first)
    assert same.fingerprint == first.fingerprint
    assert make_data(documents("one text", "two"), tmp_path, seed=2).fingerprint != first.fingerprint
    assert make_data(documents("one text", "too"), tmp_path).fingerprint != first.fingerprint


def fill_with_zeros(path):
    """Give a file other content of the same length."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {
    "zeros for tokens": lambda folder: fill_with_zeros(folder / "train.tokens"),
    "zeros for pieces": lambda folder: fill_with_zeros(folder / "train.pieces"),
    "zeros for meta.json": lambda folder: fill_with_zeros(folder / "meta.json"),
    "a shortened file": lambda folder: os.truncate(folder / "train.tokens", 5),
    "a missing file": lambda folder: (folder / "train.pieces").unlink(),
    "an empty meta.json": lambda folder: (folder / "meta.json").write_text(""),
    "a missing meta.json": lambda folder: (folder / "meta.json").unlink(),
    "another format": lambda folder: (folder / "meta.json").write_text('{"format": 99}'),
    "a list": lambda folder: (folder / "meta.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tokens_are_built_again(tmp_path, damage):
    """A store that is not what its meta.json says is built anew, with a warning, and is whole afterwards."""
    first = make_data(documents(*WORDS), tmp_path)
    expected = first.train.gather(np.arange(len(first.train))).input_ids_BT
    folder = tmp_path / "tokens" / key_of(first)
    DAMAGES[damage](folder)
    report = RecordingReporter()
    again = make_data(documents(*WORDS), tmp_path, report=report)
    assert len(report.warnings) == 1
    assert "damaged" in report.warnings[0]
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.gather(np.arange(len(again.train))).input_ids_BT, expected)
    assert "data_reused" in dict(rebuilt_events(tmp_path))


def rebuilt_events(cache):
    """Return the events of building the same data once more."""
    report = RecordingReporter()
    make_data(documents(*WORDS), cache, report=report)
    return report.events


def test_two_builders_build_once(tmp_path):
    """Of two processes that want the same data at once, one builds and the other waits and reads."""
    code = """
        import sys
        from pathlib import Path
        from codex_kernel.testing import RecordingReporter
        from token_builders import documents, make_data

        report = RecordingReporter()
        print("ready", flush=True)
        sys.stdin.readline()
        data = make_data(documents(*(f"text number {n}" for n in range(3000))), Path(sys.argv[1]), report=report)
        print(report.events[-1][0], data.fingerprint)
    """
    processes = [child(code, tmp_path, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(answer[0] for answer in answers) == ["data_built", "data_reused"]
    assert answers[0][1] == answers[1][1]


@pytest.mark.parametrize("moment", ["encode", "commit"])
def test_a_killed_builder_leaves_nothing_half_valid(tmp_path, moment):
    """After SIGKILL in the middle of encoding or before the rename, the next builder builds, and cleans up."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from codex_kernel.data import kept
        from token_builders import ByteTokens, documents, make_data

        def die(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)

        class Deadly(ByteTokens):
            def encode(self, text):
                if sys.argv[2] == "encode" and text.startswith("text number 900"):
                    die()
                return super().encode(text)

        if sys.argv[2] == "commit":
            kept.sync_folder = lambda folder: die() if "tokens" in str(folder) else None
        docs = documents(*(f"text number {n}" for n in range(1000)))
        make_data(docs, Path(sys.argv[1]), tokenizer=Deadly())
    """
    process = child(code, tmp_path, moment)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert [path for path in (tmp_path / "tokens").iterdir() if path.name.startswith(".")]
    report = RecordingReporter()
    docs = documents(*(f"text number {n}" for n in range(1000)))
    data = make_data(docs, tmp_path, report=report)
    assert report.events[-1][0] == "data_built"
    assert data.report["splits"]["train"]["documents"] == 1000
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {key_of(data), f"{key_of(data)}.lock"}


def test_a_full_disk_is_explained(tmp_path):
    """Where the files cannot grow, the error says where, how much is needed and free, and nothing is left behind."""
    code = """
        import resource, sys
        from pathlib import Path
        from codex_kernel.errors import StorageError
        from token_builders import documents, make_data

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        docs = documents(*(f"{n:07} " * 1000 for n in range(400)))
        try:
            make_data(docs, Path(sys.argv[1]))
        except StorageError as error:
            print(error.message, error.remedy)
    """
    process = child(code, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert str(tmp_path / "corpora") in out
    assert "are free" in out
    assert [path.suffix for path in (tmp_path / "corpora").iterdir()] == [".lock"]


def test_a_cache_that_is_a_file_is_explained(tmp_path):
    """A cache path that cannot be a folder is a StorageError, not a traceback."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(StorageError, match="cannot keep the data"):
        make_data(documents("text"), tmp_path / "cache")


def test_errors_of_reading_are_not_errors_of_storing(tmp_path):
    """Whatever the dataset raises is a PluginError that says how far it came, an OSError of its files as well."""

    class Vanishing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from documents("text")
            if self.passes > 1:
                raise FileNotFoundError(2, "gone")

    with pytest.raises(PluginError, match="failed after 1 documents, the last one 'd0': FileNotFoundError"):
        make_data(Vanishing(), tmp_path)


def test_stores_can_be_moved(tmp_path):
    """A store is valid wherever the cache lies: nothing in it is a path."""
    first = make_data(documents(*WORDS), tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    report = RecordingReporter()
    assert make_data(documents(*WORDS), tmp_path / "there", report=report).fingerprint == first.fingerprint
    assert report.events[-1][0] == "data_reused"


# ── texts for a tokenizer ─────────────────────────────────────────────────────────────────────────────────────────


def test_tokenizers_are_trained_on_the_training_split_alone(tmp_path):
    """The training texts are those of the training split, each once, with their prompts, as often as asked."""
    docs = [
        *documents(*WORDS),
        Document("twice", "elsewhere", WORDS[0]),
        Document("p", "p", "text", "prompt "),
    ]
    texts = make_corpus(docs, tmp_path, seed=5, validation_fraction=0.3).texts()
    assert list(texts) == list(texts)
    tokenizer = CountingTokens()
    data = make_data(docs, tmp_path, seed=5, validation_fraction=0.3)
    assert len(list(texts)) == data.report["splits"]["train"]["documents"]
    make_data(
        [document for document in docs if document.prompt + document.text in set(texts)],
        tmp_path,
        tokenizer=tokenizer,
    )
    assert len(set(texts)) == len(list(texts))
    assert ("prompt text" in set(texts)) == ("text" in tokenizer.texts)


def test_a_tokenizer_without_a_fingerprint_gets_one():
    """Description, vocabulary size, end-of-text and the ids of a probe decide the default fingerprint."""

    class Reversed(ByteTokens):
        def encode(self, text):
            return super().encode(text)[::-1]

    prints = [
        default_fingerprint(ByteTokens(), "bytes"),
        default_fingerprint(ByteTokens(), "other"),
        default_fingerprint(ByteTokens(vocab_size=300), "bytes"),
        default_fingerprint(ByteTokens(eos_id=5), "bytes"),
        default_fingerprint(Reversed(), "bytes"),
    ]
    assert len(set(prints)) == len(prints)
    assert default_fingerprint(ByteTokens(), "bytes") == prints[0]


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_options_load_no_numpy():
    """Reading the options of a manifest does not import numpy."""
    process = child("import sys, codex_kernel.data.options; print('numpy' in sys.modules)")
    assert process.communicate(timeout=60)[0] == "False\n"


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """A corpus of 300 MB of text is built by a process that may hold far less than that."""
    code = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from codex_kernel.interfaces import Document
        from token_builders import ByteTokens, make_data

        class Fast(ByteTokens):
            def encode(self, text):
                return np.frombuffer(text.encode(), np.uint8)

        class Large:
            def __iter__(self):
                for n in range(300):
                    yield Document(f"d{n}", f"g{n}", f"{n:09} " * 100_000)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        data = make_data(Large(), Path(sys.argv[1]), tokenizer=Fast(), seq_len=256)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(data.report["bytes"], grown)
    """
    process = child(code, tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    size, grown = map(int, out.split())
    assert size == 300_000_000
    assert grown < 150, f"{grown} MiB"
