import json

import attrs
import pytest
from attrs import define, field, frozen
from token_builders import CountingTokens, documents, make_corpus, make_data

from codex_kernel.data import kept
from codex_kernel.data.clean import CleaningStep
from codex_kernel.data.survey import ContentDigest
from codex_kernel.errors import InputError, PluginError, StorageError
from codex_kernel.interfaces import BadRecord, Cleaned, Document, Message
from codex_kernel.testing import RecordingReporter


@define(eq=False)
class Shout:
    """Drops texts with a word, and makes the others loud; counts what it has seen."""

    word: str = "bad"
    seen: int = field(init=False, default=0)

    def clean(self, document):
        self.seen += 1
        if self.word in document.text:
            return Cleaned(None, {f"has {self.word}": 1})
        if document.text.isupper():
            return Cleaned(document)
        return Cleaned(attrs.evolve(document, text=document.text.upper()), {"made loud": 1, "letters": 3})


@frozen
class Answers:
    """Gives the same answer to all."""

    answer: object

    def clean(self, document):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def step(cleaner_type, *arguments, name="shout", description="1"):
    """Return what makes a cleaning step anew."""
    return lambda: CleaningStep(name, description, cleaner_type(*arguments))


def texts_of(corpus, split="train"):
    """Return the texts of a split."""
    return [document.text for document in corpus.stored().documents(split)]


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_documents_come_back_as_they_were(tmp_path):
    """Every field of every document lies in the corpus, in the order of the dataset."""
    docs = [
        Document("a", "g", "text\u2028with\r\nall ends\0", language="python"),
        Document("b", "g", "completion 🙂", "prompt", source="s"),
        Document("c", "h", messages=(Message("user", "é"), Message("assistant", "", trained=False))),
    ]
    docs[0] = attrs.evolve(docs[0], source="s")
    corpus = make_corpus(docs, tmp_path)
    assert list(corpus.stored().documents("train")) == docs
    assert list(corpus.stored().documents("train")) == docs


def test_a_corpus_is_built_once(tmp_path):
    """A second run with the same documents, steps and seed reads the dataset once and cleans nothing."""
    cleaners = []

    def make():
        cleaners.append(Shout())
        return CleaningStep("shout", "1", cleaners[-1])

    docs = documents("one", "two")
    make_corpus(docs, tmp_path, steps=[make]).stored()
    report = RecordingReporter()
    again = make_corpus(docs, tmp_path, steps=[make], report=report)
    assert texts_of(again) == ["ONE", "TWO"]
    assert [name for name, _ in report.events] == ["corpus_reused"]
    assert sum(cleaner.seen for cleaner in cleaners) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"validation_fraction": 0.5},
        {"duplicates": "keep"},
        {"steps": [step(Shout, description="2")]},
        {"steps": []},
        {"docs": documents(*"abcdefghij", "k")},
    ],
)
def test_whatever_decides_a_corpus_is_in_its_key(tmp_path, change):
    """Another dataset, seed, split or cleaning step is another corpus; the length of blocks is not."""
    settings = {"docs": documents(*"abcdefghij"), "steps": [step(Shout)]}
    first = make_corpus(**settings, cache=tmp_path).key
    assert make_corpus(**settings, cache=tmp_path, seq_len=99).key == first
    assert make_corpus(**{**settings, **change}, cache=tmp_path).key != first


@pytest.mark.parametrize("damage", ["bytes", "missing", "meta"])
def test_a_damaged_corpus_is_built_again(tmp_path, damage):
    """A file that is not what was written is found before it is read, and said."""
    first = make_corpus(documents("one", "two"), tmp_path)
    folder = first.stored().folder
    if damage == "bytes":
        data = bytearray((folder / "train.ndjson").read_bytes())
        data[3] ^= 1
        (folder / "train.ndjson").write_bytes(data)
    elif damage == "missing":
        (folder / "train.ndjson").unlink()
    else:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, "splits": None}))
    report = RecordingReporter()
    again = make_corpus(documents("one", "two"), tmp_path, report=report)
    assert texts_of(again) == ["one", "two"]
    assert len(report.warnings) == 1
    assert "is damaged and is built anew" in report.warnings[0]


def test_a_corpus_that_is_lost_while_it_is_read_is_explained(tmp_path):
    """The files of a corpus that were opened before and are gone now are a StorageError."""
    corpus = make_corpus(documents("one", "two"), tmp_path)
    folder = corpus.stored().folder
    (folder / "train.ndjson").unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        texts_of(corpus)


def test_a_corpus_that_cannot_be_read_back_is_a_fault_of_the_disk(tmp_path, monkeypatch):
    """What was written is compared at once; where it is something else, the run ends."""
    commit = kept.commit

    def commit_badly(temporary, folder, *arguments):
        commit(temporary, folder, *arguments)
        (folder / "train.ndjson").write_bytes(b"{}")

    monkeypatch.setattr(kept, "commit", commit_badly)
    with pytest.raises(StorageError, match="the corpus written there cannot be read back") as caught:
        make_corpus(documents("one"), tmp_path).stored()
    assert caught.value.remedy


def test_no_two_sequences_of_documents_have_one_digest():
    """A conversation is not taken for other documents whose fields have the same words in the same order."""
    one, other = ContentDigest(), ContentDigest()
    one.add(Document("i", "g", messages=(Message("r1", "c1"), Message("r2", "c2"))))
    for document in [Document("i", "g"), Document("r1", "c1", "1", "c2", language="1", source="r2")]:
        other.add(document)
    assert one.hex() != other.hex()


def test_tokens_of_another_length_do_not_read_the_dataset_again(tmp_path):
    """Cleaned documents are kept for the next tokenizer, the next seq_len."""
    make_data(documents("one", "two"), tmp_path, seq_len=8)
    report = RecordingReporter()
    make_data(documents("one", "two"), tmp_path, seq_len=9, report=report)
    assert [name for name, _ in report.events] == ["corpus_reused", "data_built"]


def test_a_tokenizer_is_trained_on_all_turns(tmp_path):
    """The training texts of a conversation are the contents of its messages; of the rest prompt and text together."""
    docs = [
        Document("a", "a", "text", "prompt "),
        Document("c", "c", messages=(Message("user", "question"), Message("assistant", "answer"))),
    ]
    texts = make_corpus(docs, tmp_path).texts()
    assert list(texts) == ["prompt text", "question", "answer"]
    assert len(texts) == 3


# ── cleaning ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_pass_documents_on_and_are_counted(tmp_path):
    """Each step gets what those before it have kept; what it did is in the report, by its own words."""
    docs = documents("fine", "bad one", "GOOD", "so so")
    corpus = make_corpus(docs, tmp_path, steps=[step(Shout), step(Shout, "SO", name="second")])
    assert texts_of(corpus) == ["FINE", "GOOD"]
    assert corpus.stored().report["cleaning"] == [
        {
            "type": "shout",
            "documents_in": 4,
            "documents_out": 3,
            "dropped": 1,
            "changed": 2,
            "counts": {"has bad": 1, "letters": 6, "made loud": 2},
        },
        {
            "type": "second",
            "documents_in": 3,
            "documents_out": 2,
            "dropped": 1,
            "changed": 0,
            "counts": {"has SO": 1},
        },
    ]


def test_duplicates_are_dropped_before_cleaning(tmp_path):
    """A step never sees a document twice; it counts as a duplicate, not as cleaned."""
    report = make_corpus(documents("a", "a", "b"), tmp_path, steps=[step(Shout)]).stored().report
    assert (report["duplicates_dropped"], report["cleaning"][0]["documents_in"]) == (1, 2)


def test_a_document_that_is_left_empty_is_dropped(tmp_path):
    """A step that takes all text away has dropped the document."""

    @frozen
    class Emptying:
        def clean(self, document):
            return Cleaned(attrs.evolve(document, text="") if document.text == "b" else document)

    corpus = make_corpus(documents("a", "b"), tmp_path, steps=[step(Emptying)])
    assert texts_of(corpus) == ["a"]
    assert corpus.stored().report["cleaning"][0]["counts"] == {"left empty": 1}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (RuntimeError("no luck"), "step 'shout' failed on document 'd0': RuntimeError: no luck"),
        (None, "gave a NoneType, expected codex_kernel.Cleaned"),
        (Cleaned(Document("other", "g", "text")), "changed more of document 'd0' than its text"),
    ],
)
def test_a_broken_step_is_named(tmp_path, answer, message):
    """What a step must not do is a PluginError with its name and the document; nothing is kept."""
    with pytest.raises(PluginError, match=message):
        make_corpus(documents("a"), tmp_path, steps=[step(Answers, answer)]).stored()
    assert not list((tmp_path / "corpora").glob("*/meta.json"))


def test_a_step_whose_files_change_while_the_run_starts_is_refused(tmp_path):
    """What a step reads decides the key; a corpus that was cleaned by something else is never kept under it."""
    versions = iter("12")

    def make():
        return CleaningStep("shout", next(versions), Shout())

    with pytest.raises(InputError, match="a file that a cleaning step reads changed while the run started"):
        make_corpus(documents("a"), tmp_path, steps=[make]).stored()
    assert not list((tmp_path / "corpora").glob("*/meta.json"))


def test_a_step_that_drops_everything_is_told(tmp_path):
    """The error says which step dropped how many documents."""
    with pytest.raises(InputError, match=r"nothing is left of the dataset: 2 documents.*2 dropped by shout"):
        make_corpus(documents("bad", "too bad"), tmp_path, steps=[step(Shout)]).stored()


# ── records that cannot be read ───────────────────────────────────────────────────────────────────────────────────

BAD = [BadRecord(f"data.jsonl:{n}", "expected an object, got a list", "mend it") for n in (2, 5, 9)]


def test_a_bad_record_ends_the_run(tmp_path):
    """The error says where it is, what is wrong with it, and how many could be skipped."""
    docs = [documents("one")[0], BAD[0]]
    with pytest.raises(InputError, match=r"^data\.jsonl:2: expected an object, got a list$") as caught:
        make_data(docs, tmp_path)
    assert caught.value.remedy.startswith("mend it; or --set data.skip_bad=10")


def test_bad_records_can_be_skipped_and_are_counted(tmp_path):
    """Up to skip_bad of them are left out; data.json counts them and names the first."""
    docs = [documents("one")[0], BAD[0], attrs.evolve(documents("two")[0], id="x"), *BAD[1:]]
    report = RecordingReporter()
    data = make_data(docs, tmp_path, report=report, skip_bad=3)
    assert (data.report["documents"], data.report["documents_bad"]) == (2, 3)
    assert data.report["bad_records"][0] == attrs.asdict(BAD[0])
    assert "3 records cannot be read and are skipped" in report.warnings[0]


def test_one_bad_record_too_many_is_refused(tmp_path):
    """The error names the record that is one too many and the limit."""
    docs = [documents("one")[0], *BAD]
    with pytest.raises(
        InputError, match=r"data\.jsonl:9: .*record 3 that cannot be read, data.skip_bad is 2"
    ):
        make_data(docs, tmp_path, skip_bad=2)


def test_how_many_may_be_skipped_does_not_decide_the_tokens(tmp_path):
    """A higher limit with the same bad records reuses what is there."""
    docs = [documents("one")[0], BAD[0]]
    tokenizer = CountingTokens()
    first = make_data(docs, tmp_path, tokenizer=tokenizer, skip_bad=1)
    second = make_data(docs, tmp_path, tokenizer=tokenizer, skip_bad=7)
    assert first.report["key"] == second.report["key"]
    assert len(tokenizer.texts) == 1


def test_records_that_are_bad_in_another_way_are_told_anew(tmp_path):
    """The report names what is wrong with them now, not what was wrong when the same documents were kept."""
    for problem in ("not an object", "no field text"):
        report = make_data([*documents("one"), BadRecord("f:2", problem)], tmp_path, skip_bad=1).report
        assert [record["problem"] for record in report["bad_records"]] == [problem]


def test_a_dataset_that_repeats_an_id_only_once_has_changed(tmp_path):
    """Where the two documents are looked up to name them and there are no longer two, that is the error."""

    class Changing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(documents("a") * (2 if self.passes == 1 else 1))

    with pytest.raises(
        InputError, match="the dataset changed while it was read: two of 2 documents had one id"
    ):
        make_data(Changing(), tmp_path)


def test_messages_beside_a_text_are_refused(tmp_path):
    """A document is a conversation or a text, never both."""
    with pytest.raises(PluginError, match="'d': expected messages, or text and prompt, got both"):
        make_data([Document("d", "d", "text", messages=(Message("user", "a"),))], tmp_path)


@pytest.mark.parametrize("messages", [("hello",), (Message("user", 5),), ({"role": "user", "content": "a"},)])
def test_messages_that_are_none_are_refused(tmp_path, messages):
    """A message is a codex_kernel.Message of strings."""
    with pytest.raises(PluginError, match=r"messages\[0\]: expected a codex_kernel.Message"):
        make_data([Document("d", "d", messages=messages)], tmp_path)
