import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_builders import EOS, ByteTokens, documents, make_data, slow_blocks

from codex_kernel.interfaces import IGNORE_INDEX, Document

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=12)
PROMPTED = st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=10)
LENGTHS = st.integers(1, 16)


def built(pairs, seq_len, **options):
    """Build data of (prompt, text) pairs; return it with the documents that were used."""
    docs = [Document(f"d{n}", f"g{n}", text, prompt) for n, (prompt, text) in enumerate(pairs)]
    used = [document for document in docs if document.text or document.prompt]
    folder = tempfile.TemporaryDirectory()
    data = make_data(docs, Path(folder.name), seq_len=seq_len, duplicates="keep", **options)
    return data, used, folder


def trainable(pairs):
    """Say whether there is anything to train on."""
    return any(text or prompt for prompt, text in pairs)


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_gather_equals_a_slow_reference(pairs, seq_len):
    """Inputs, targets, positions and document numbers are those of a token-by-token reference, in any order."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        expected = slow_blocks(used, seq_len)
        assert len(data.train) == len(expected)
        ids = np.array([*reversed(range(len(expected))), 0, 0])
        batch = data.train.gather(ids)
        arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        for found, rows in zip(arrays, zip(*(expected[n] for n in ids), strict=True), strict=True):
            assert found.dtype == np.int64
            assert found.tolist() == [list(row) for row in rows]
        assert np.array_equal(batch.sample_ids_B, ids)


@settings(deadline=None)
@given(TEXTS.filter(any), LENGTHS)
def test_packing_conserves_tokens(texts, seq_len):
    """Without prompts every token but the first of each document is a target once, and inputs are the stream."""
    data, used, folder = built([("", text) for text in texts], seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        real = batch.document_ids_BT >= 0
        stream = [token for document in used for token in [*document.text.encode(), EOS]]
        inputs = batch.input_ids_BT[real].tolist()
        assert inputs == stream[: len(inputs)]
        assert len(stream) - len(inputs) <= 1  # the last token may be no more than a target
        targets = batch.targets_BT[batch.targets_BT != IGNORE_INDEX]
        expected = [token for document in used for token in [*document.text.encode(), EOS][1:]]
        assert targets.tolist() == expected
        assert data.train.target_tokens == len(expected)
        facts = data.report["splits"]["train"]
        assert facts["tokens"] == len(stream)
        assert facts["padding_slots"] == int((~real).sum())


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_targets_never_cross_documents(pairs, seq_len):
    """A document's own end-of-text is the last target in it: nothing is predicted across its border."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        ends = (batch.targets_BT == EOS).sum()
        assert ends == len(used)
        after_end = batch.targets_BT[batch.input_ids_BT == EOS]
        assert (after_end == IGNORE_INDEX).all()


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_prompts_are_not_trained(pairs, seq_len):
    """The targets are the bytes of the texts, first ones after a prompt included, and each end-of-text."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        expected = [
            token
            for document in used
            for token in [*document.prompt.encode(), *document.text.encode(), EOS][
                max(1, len(document.prompt.encode())) :
            ]
        ]
        assert batch.targets_BT[batch.targets_BT != IGNORE_INDEX].tolist() == expected
        assert data.train.target_tokens == len(expected)


def test_a_document_over_two_blocks_loses_no_target(tmp_path):
    """The last position of a block predicts the first token of the next one, if that is of the same document."""
    data = make_data(documents("abcdefgh"), tmp_path, seq_len=4)
    batch = data.train.gather([0, 1])
    assert batch.targets_BT.tolist() == [list(b"bcde"), [*b"fgh", EOS]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_bytes_per_token_counts_utf8(tmp_path):
    """Bytes per target are the UTF-8 bytes of the texts over the targets."""
    data = make_data(documents("é" * 6, "ab"), tmp_path)
    assert data.train.bytes_per_token == pytest.approx((12 + 2) / (12 + 2))


def test_large_vocabularies_are_kept_whole(tmp_path):
    """Ids that need more than sixteen bits come back as they are."""

    class Wide(ByteTokens):
        def encode(self, text):
            return [ord(character) for character in text]

    data = make_data(documents("🙂漢a"), tmp_path, tokenizer=Wide(vocab_size=0x110000), seq_len=4)
    assert data.train.gather([0]).input_ids_BT.tolist() == [[0x1F642, 0x6F22, 0x61, EOS]]
    assert data.report["splits"]["train"]["blocks"] == 1


@pytest.mark.parametrize("ids", [[-1], [99], [0, -5]])
def test_a_block_that_is_not_there_is_refused(tmp_path, ids):
    """A number outside of the split is an IndexError, never another block."""
    data = make_data(documents("some text that fills a few blocks"), tmp_path)
    with pytest.raises(IndexError):
        data.train.gather(ids)
