"""The tokenizer `spm`: what it gives back, what it refuses, and that training is a pure function of the corpus."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import BatchTokenizer, InputError, PluginError, SavedTokenizer, StorageError
from codex_kernel.testing.source_files import files_changed, read_source, standard_library
from codex_kernel.testing.tokenizer import TokenizerContract
from codex_kernel.testing.toys import make_run
from codex_spm.tokenizer import SentencePieceTokenizer
from codex_spm.training import Counts, check_specials, check_symbols, sentences
from codex_spm.vocabulary import PROBES, Vocabulary, open_model


def corpus() -> list[str]:
    """Two hundred short Python functions."""
    return [
        f"def add_{number}(left, right):\n    total = left + right\n\tif total > {number}:\n"
        f"        return total\r\n    return 'value_{number}'  # café\n"
        for number in range(200)
    ]


def train(folder: Path, texts: list[str], **options) -> Vocabulary:
    """Train through the plugin, as a run does."""
    options = {"vocab_size": 400, **options}
    return SentencePieceTokenizer(**options).codex_tokenizer(make_run(folder), texts, None)


def trained_model(**changes) -> bytes:
    """Train a model as someone else would, past the plugin."""
    import io

    import sentencepiece

    options = {
        "vocab_size": 320,
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(corpus()).splitlines()), model_writer=writer, **(options | changes)
    )
    return writer.getvalue()


@cache
def vocabulary(model_type: str) -> Vocabulary:
    """Train once for all tests that only read."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), corpus(), model_type=model_type, vocab_size=340)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@given(text=st.text() | st.text(alphabet=" \t\r\n\0\u2581\u2585\ue000\ue001<s>/é😀"))
def test_any_text_comes_back(model_type, text):
    """Encoding and decoding gives back any Unicode text, U+2581, NUL and private-use characters included."""
    tokenizer = vocabulary(model_type)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(texts=st.lists(st.text(alphabet="ab \n\u2581\ue000\0")))
def test_a_batch_is_the_texts_one_by_one(texts):
    """encode_batch gives the same ids as encode, also where some texts hold U+2581."""
    tokenizer = vocabulary("bpe")
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_the_protocols_are_kept():
    """The vocabulary encodes batches, can be saved, and its ids lie below vocab_size."""
    tokenizer = vocabulary("bpe")
    assert isinstance(tokenizer, BatchTokenizer)
    assert isinstance(tokenizer, SavedTokenizer)
    assert tokenizer.vocab_size == 340
    assert 0 <= tokenizer.eos_id < tokenizer.vocab_size
    assert all(0 <= token < tokenizer.vocab_size for text in PROBES for token in tokenizer.encode(text))


def test_end_of_text_and_control_pieces_in_a_text_are_only_text():
    """The end-of-text id stands for no text, and the text `</s>` does not become that id."""
    tokenizer = vocabulary("bpe")
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.eos_id, *tokenizer.encode("b")]) == "ab"
    assert tokenizer.eos_id not in tokenizer.encode("</s><s><unk>")


def test_indentation_is_learnt():
    """Runs of spaces are pieces of their own, so that four spaces of indentation are one token."""
    assert len(vocabulary("bpe").encode("    ")) == 1


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_the_same_corpus_gives_the_same_bytes(tmp_path, model_type):
    """Training twice gives one model, bit for bit."""
    first = train(tmp_path, corpus(), model_type=model_type, vocab_size=340)
    again = train(tmp_path, corpus(), model_type=model_type, vocab_size=340)
    assert first.model == again.model
    assert first.fingerprint() == again.fingerprint()


def test_another_corpus_or_option_changes_the_fingerprint(tmp_path):
    """The fingerprint follows what decides the ids."""
    first = train(tmp_path, corpus())
    assert train(tmp_path, corpus()[:150]).fingerprint() != first.fingerprint()
    assert train(tmp_path, corpus(), vocab_size=360).fingerprint() != first.fingerprint()


def test_a_saved_vocabulary_is_equal(tmp_path):
    """What save writes, the plugin loads in place of training, with the same fingerprint and ids."""
    first = vocabulary("bpe")
    folder = tmp_path / "saved"
    folder.mkdir()
    first.save(folder)
    loaded = SentencePieceTokenizer(vocab_size=9999).codex_tokenizer(make_run(tmp_path), None, folder)
    assert (loaded.fingerprint(), loaded.eos_id) == (first.fingerprint(), first.eos_id)
    assert loaded.encode(corpus()[0]) == first.encode(corpus()[0])


def test_a_damaged_saved_vocabulary_is_refused(tmp_path):
    """One flipped bit in the saved model is found."""
    vocabulary("bpe").save(tmp_path)
    model = tmp_path / "tokenizer.model"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(StorageError, match=r"tokenizer\.model: damaged"):
        SentencePieceTokenizer().codex_tokenizer(make_run(tmp_path), None, tmp_path)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_vocabulary_too_large_for_the_corpus_names_the_largest(tmp_path, model_type):
    """Too high a vocab_size is an error that names the highest possible, and that one works."""
    with pytest.raises(InputError, match=r"at most \d+ pieces, got 100000") as caught:
        train(tmp_path, corpus(), model_type=model_type, vocab_size=100_000)
    highest = int(caught.value.message.split("at most ")[1].split()[0])
    assert caught.value.remedy is not None
    assert str(highest) in caught.value.remedy
    assert train(tmp_path, corpus(), model_type=model_type, vocab_size=highest).vocab_size == highest


def test_a_vocabulary_too_small_for_the_characters_says_so(tmp_path):
    """Too low a vocab_size is an error that names what the bytes and characters need."""
    with pytest.raises(InputError, match=r"alone are \d+ pieces, got 100"):
        train(tmp_path, corpus(), vocab_size=100)


@pytest.mark.parametrize("texts", [[], [""], ["\n\n", "\t"]])
def test_an_empty_corpus_is_refused(tmp_path, texts):
    """There is nothing to train on, and the message says so."""
    with pytest.raises(InputError, match="has no text to train"):
        train(tmp_path, texts)


def test_without_a_corpus_there_must_be_a_saved_vocabulary(tmp_path):
    """A run that only reads cannot train one."""
    with pytest.raises(InputError, match="no saved tokenizer"):
        SentencePieceTokenizer().codex_tokenizer(make_run(tmp_path), None, None)


def test_an_error_of_the_corpus_is_not_hidden(tmp_path):
    """What the corpus raises while it is read reaches the caller as it is."""

    def broken():
        yield corpus()[0]
        raise StorageError("the disk fails")

    with pytest.raises(StorageError, match="the disk fails"):
        train(tmp_path, broken())


def test_lone_surrogates_are_refused_with_their_place(tmp_path):
    """A string that UTF-8 cannot carry is named, in a text to encode and in the corpus."""
    with pytest.raises(InputError, match=r"lone surrogate '\\ud800' at character 2"):
        vocabulary("bpe").encode("ab\ud800")
    with pytest.raises(InputError, match=r"document 2 of the training split.* at character 0"):
        train(tmp_path, ["fine", "\udfff"])


def test_long_lines_are_cut_counted_and_reported(tmp_path):
    """No line is skipped for its length: its end is trained too, and the run says how many were cut."""
    run = make_run(tmp_path)
    long = "x = 1; " * 5000 + "marker_at_the_end " * 50
    tokenizer = SentencePieceTokenizer(vocab_size=300).codex_tokenizer(run, [*corpus()[:1], long], None)
    assert len(tokenizer.encode("marker_at_the_end")) < len("marker_at_the_end")
    assert any(
        "1 lines of the corpus are longer than 4192 bytes" in message for message in run.report.warnings
    )
    name, fields = run.report.events[-1]
    assert (name, fields["cut_lines"], fields["documents"]) == ("tokenizer_trained", 1, 2)


@given(texts=st.lists(st.text(alphabet="aé😀\n\t\0\u2581\u2585 ")), limit=st.integers(16, 64))
def test_sentences_hold_all_text_within_the_limit(texts, limit):
    """Between the characters that part sentences nothing is lost, and no sentence is too long."""
    counts = Counts()
    found = list(sentences(texts, limit, counts))
    kept = "".join(texts)
    for character in "\n\t\0\u2581\u2585":
        kept = kept.replace(character, "")
    assert "".join(found) == kept
    assert all(0 < len(sentence.encode()) <= limit for sentence in found)
    assert (counts.sentences, counts.documents) == (len(found), len(texts))


def test_symbols_of_the_user_are_one_token(tmp_path):
    """A user-defined symbol is one token wherever it stands, and its text comes back."""
    tokenizer = train(tmp_path, corpus(), user_defined_symbols=("<|fim_prefix|>",))
    ids = tokenizer.encode("a<|fim_prefix|>b")
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "a<|fim_prefix|>b"


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_every_symbol_that_is_accepted_is_one_token(tmp_path, model_type):
    """Symbols that look reserved, hold separators of lists, or are parts of one another are one token each."""
    symbols = ("<s>", "<pad>", "<0x4a>", "a,b", 'q"q', "def", "<|x", "<|x|>", "\u200b", "é")
    tokenizer = train(tmp_path, corpus(), model_type=model_type, vocab_size=345, user_defined_symbols=symbols)
    assert [len(tokenizer.encode(symbol)) for symbol in symbols] == [1] * len(symbols)
    text = "\u2581".join(symbols)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_symbol_that_is_not_one_token_is_an_error():
    """What training makes of a symbol is looked at, not assumed."""
    with pytest.raises(PluginError, match=r"expected '<another>' to be one token, got [0-9]+"):
        check_symbols(vocabulary("bpe"), ["<another>"])


def test_a_foreign_model_with_a_dummy_prefix_loses_nothing(tmp_path):
    """A Llama-style model file puts a space before each text; text, U+2581 included, still comes back."""
    (tmp_path / "other.model").write_bytes(trained_model())
    tokenizer = SentencePieceTokenizer(path="other.model").codex_tokenizer(make_run(tmp_path), None, None)
    for text in (*PROBES, *corpus()[:3], "\u2581", " \u2581 a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"byte_fallback": False, "vocab_size": 100}, "no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes text"),
        ({"remove_extra_whitespaces": True}, "changes text"),
        ({"eos_id": -1}, "names no end-of-text piece"),
    ],
)
def test_a_foreign_model_that_would_lose_text_is_refused(tmp_path, changes, message):
    """The round-trip gate refuses models that normalise, squeeze spaces, lack bytes or an end of text."""
    (tmp_path / "other.model").write_bytes(trained_model(**changes))
    with pytest.raises(InputError, match=message):
        SentencePieceTokenizer(path="other.model").codex_tokenizer(make_run(tmp_path), None, None)


def test_the_end_of_text_of_a_foreign_model_can_be_named():
    """eos_piece takes a control piece, and nothing else."""
    model = trained_model(eos_id=-1, control_symbols=["<|endoftext|>"])
    tokenizer = open_model(model, origin="other", eos="<|endoftext|>")
    assert tokenizer.decode([tokenizer.eos_id]) == ""
    with pytest.raises(InputError, match="expected the end-of-text piece to be a control piece"):
        open_model(model, origin="other", eos="return")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"<xml/>", trained_model()[:-100]], ids=["empty", "zeros", "xml", "cut"]
)
def test_a_file_that_is_no_model_is_refused(tmp_path, data):
    """Bytes that are no SentencePiece model are an input error that names the file."""
    (tmp_path / "bad.model").write_bytes(data)
    with pytest.raises(InputError, match=r"bad\.model"):
        SentencePieceTokenizer(path="bad.model").codex_tokenizer(make_run(tmp_path), None, None)


def test_a_pinned_file_must_have_its_digest(tmp_path):
    """With sha256 only exactly that file is loaded."""
    model = trained_model()
    (tmp_path / "a.model").write_bytes(model)
    digest = hashlib.sha256(model).hexdigest()
    run = make_run(tmp_path)
    assert (
        SentencePieceTokenizer(path="a.model", sha256=digest).codex_tokenizer(run, None, None).vocab_size
        == 320
    )
    with pytest.raises(InputError, match="expected the digest"):
        SentencePieceTokenizer(path="a.model", sha256="0" * 64).codex_tokenizer(run, None, None)


def test_preflight_names_the_missing_file(tmp_path):
    """A path that leads nowhere is known before the run starts."""
    (problem,) = SentencePieceTokenizer(path="none.model").codex_preflight(tmp_path)
    assert "none.model is not a file" in problem
    assert SentencePieceTokenizer().codex_preflight(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"path": "a.model", "vocab_size": 100},
        {"path": "a.model", "model_type": "unigram"},
        {"sha256": "00"},
        {"eos_piece": "</s>"},
        {"path": "a.model", "special_tokens": ("<a>",)},
        {"special_tokens": ("</s>",)},
        {"special_tokens": ("<a>", "<a>")},
        {"special_tokens": ("<a>",), "user_defined_symbols": ("<a>",)},
        {"pad_token": "<a>", "user_defined_symbols": ("<a>",)},
        {"pad_token": "</s>"},
        {"pad_token": ""},
        {"vocab_size": 0},
        {"character_coverage": 1.5},
        {"user_defined_symbols": ("a\nb",)},
        {"user_defined_symbols": ("",)},
        {"user_defined_symbols": ("two words",)},
        {"user_defined_symbols": ("a\u3000b",)},
        {"user_defined_symbols": ("<unk>",)},
        {"user_defined_symbols": ("</s>",)},
        {"user_defined_symbols": ("<ok>", "<0x4A>")},
        {"user_defined_symbols": ("\ue000",)},
        {"user_defined_symbols": ("a\u2581b",)},
        {"user_defined_symbols": ("a\ud800",)},
        {"user_defined_symbols": ("<a>", "<a>")},
    ],
)
def test_options_that_mean_nothing_together_are_refused(options):
    """No option is left unread, and none is out of its bounds."""
    with pytest.raises(ValueError, match="expected"):
        SentencePieceTokenizer(**options)


def test_every_option_explains_itself():
    """Each field carries its help."""
    assert all(field.metadata.get("codex.help") for field in attrs.fields(SentencePieceTokenizer))


def test_training_is_silent_and_the_plugin_class_is_light():
    """Nothing is written past the run's report, and importing the plugin class imports no SentencePiece."""
    code = (
        "import sys, pathlib, tempfile\n"
        "from codex_spm.tokenizer import SentencePieceTokenizer\n"
        "assert not {'sentencepiece', 'numpy', 'torch'} & set(sys.modules)\n"
        "from codex_kernel.testing.toys import make_run\n"
        "run = make_run(pathlib.Path(tempfile.mkdtemp()))\n"
        "texts = [f'def f{n}():  return {n}' + ' ' * 9000 for n in range(99)]\n"
        "SentencePieceTokenizer(vocab_size=280).codex_tokenizer(run, texts, None)\n"
        "try: SentencePieceTokenizer(vocab_size=99999).codex_tokenizer(run, texts, None)\n"
        "except Exception as error: assert error.exit_code == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ── special tokens, offsets, files ────────────────────────────────────────────────────────────────────────────────


def specials(folder: Path, **options) -> Vocabulary:
    """Train with special tokens, some of which list syntax or one another hold, and a padding token."""
    names = ("<|fim_prefix|>", "<|fim|", "a,b", "<s>", "<|pad|>")
    return train(folder, corpus(), special_tokens=names, pad_token="<|pad|>", **options)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_special_tokens_are_control_pieces(tmp_path, model_type):
    """What spells a special token is only text; the token itself is one id, and padding is one of them."""
    tokenizer = specials(tmp_path, model_type=model_type, vocab_size=345)
    assert set(tokenizer.special_tokens) == {"</s>", "<|fim_prefix|>", "<|fim|", "a,b", "<s>", "<|pad|>"}
    assert tokenizer.special_tokens["<|pad|>"] == tokenizer.pad_id
    text = "x<|fim_prefix|>y a,b</s>"
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([tokenizer.special_tokens["a,b"], *tokenizer.encode("x")]) == "x"


def test_special_tokens_change_the_fingerprint_and_outlive_the_run(tmp_path):
    """They belong to the vocabulary, and are the same after loading; so is that it was trained."""
    first = specials(tmp_path)
    assert first.fingerprint() != train(tmp_path, corpus()).fingerprint()
    first.save(tmp_path)
    again = SentencePieceTokenizer().codex_tokenizer(make_run(tmp_path), None, tmp_path)
    assert (again.special_tokens, again.pad_id) == (first.special_tokens, first.pad_id)
    assert again.fingerprint() == first.fingerprint()
    assert first.trained
    assert again.trained


def test_a_special_token_that_was_not_made_is_an_error():
    """What training makes of the special tokens is looked at, not assumed."""
    with pytest.raises(PluginError, match="expected '<another>' to become a control piece"):
        check_specials(vocabulary("bpe"), SentencePieceTokenizer(special_tokens=("<another>",)))


def test_padding_of_a_loaded_model_is_its_own_or_named(tmp_path):
    """A model file's padding piece counts; one without may name a control piece, and nothing else."""
    (tmp_path / "own.model").write_bytes(trained_model(pad_id=3))
    (tmp_path / "none.model").write_bytes(trained_model(control_symbols=["<|fill|>"]))
    run = make_run(tmp_path)

    def load(path, **options):
        return SentencePieceTokenizer(path=path, **options).codex_tokenizer(run, None, None)

    assert load("own.model").pad_id == 3
    assert not load("own.model").trained
    bare, named = load("none.model"), load("none.model", pad_token="<|fill|>")
    assert bare.pad_id is None
    assert named.pad_id == named.special_tokens["<|fill|>"]
    assert named.fingerprint() != bare.fingerprint()
    with pytest.raises(InputError, match="expected the padding piece to be a control piece, got 'return'"):
        load("none.model", pad_token="return")


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@given(text=st.text() | st.text(alphabet=" \t\n\0\u2581\ue000é😀a"))
def test_offsets_name_the_characters(model_type, text):
    """Every token covers the characters that it spells, the bytes of a character all of it, in any text."""
    tokenizer = vocabulary(model_type)
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    pieces = "".join(
        text[start:end] for n, (start, end) in enumerate(spans) if n == 0 or spans[n - 1] != (start, end)
    )
    assert pieces == text
    for token, (start, end) in zip(ids, spans, strict=True):
        part = tokenizer.decode([token])
        assert part == text[start:end] or (part == "\ufffd" and end - start == 1)


@given(texts=st.lists(st.text(alphabet="ab é\u2581")))
def test_decoding_a_batch_is_decoding_each(texts):
    """decode_batch gives the same texts as decode, also where some sequences are empty."""
    tokenizer = vocabulary("bpe")
    assert tokenizer.decode_batch([tokenizer.encode(text) for text in texts]) == texts


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_threads_do_not_change_the_model(tmp_path, model_type):
    """Two trainings at the same time, on two threads, give the bytes that one alone gives."""
    alone = train(tmp_path, corpus(), model_type=model_type, vocab_size=340)
    with ThreadPoolExecutor(2) as threads:
        both = threads.map(
            lambda _: train(tmp_path, corpus(), model_type=model_type, vocab_size=340).model, range(2)
        )
        assert list(both) == [alone.model] * 2


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    """Two gigabytes that are a hole in a file are refused by their size, before any memory is taken."""
    path = tmp_path / "huge.model"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"at most 268,435,456 bytes, got 2,147,483,648"):
        SentencePieceTokenizer(path="huge.model").codex_tokenizer(make_run(tmp_path), None, None)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_a_flipped_bit_is_an_error_or_a_model_that_loses_nothing(tmp_path):
    """A damaged file is refused; where SentencePiece cannot tell, it gives back every text, and its digest shows it."""
    whole = trained_model()
    digest = hashlib.sha256(whole).hexdigest()
    run = make_run(tmp_path)
    refused = 0
    for place in range(0, len(whole), len(whole) // 40):
        (tmp_path / "bad.model").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"bad\.model: expected the digest"):
            SentencePieceTokenizer(path="bad.model", sha256=digest).codex_tokenizer(run, None, None)
        plugin = SentencePieceTokenizer(path="bad.model")
        try:
            tokenizer = plugin.codex_tokenizer(run, None, None)
        except InputError:
            refused += 1
            continue
        assert tokenizer.decode(tokenizer.encode(corpus()[0])) == corpus()[0]
    assert refused > 20


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("every", [60, pytest.param(1, marks=pytest.mark.slow)])
def test_the_standard_library_comes_back(tmp_path, model_type, every):
    """Every file of Python's library comes back, byte for byte, from a vocabulary trained on a few of them."""
    files = standard_library(every)
    assert len(files) > 1000 // every
    some = [read_source(file)[:20_000] for file in standard_library(100)]
    tokenizer = train(tmp_path, some, model_type=model_type, vocab_size=800)
    assert files_changed(tokenizer, files) == []


class TestTrainedBPE(TokenizerContract):
    def make(self, folder):
        return SentencePieceTokenizer(vocab_size=400)


class TestTrainedUnigram(TokenizerContract):
    def make(self, folder):
        return SentencePieceTokenizer(
            vocab_size=340, model_type="unigram", special_tokens=("<s>", "<|im_end|>"), pad_token="<pad>"
        )


class TestLoaded(TokenizerContract):
    def make(self, folder):
        (folder / "llama.model").write_bytes(trained_model())
        return SentencePieceTokenizer(path="llama.model")
