"""Tokenizers with a fault each, and the tests of the contract that must find it."""

import re
import subprocess
import sys

import pytest

START = """
import json

from codex_kernel import hookimpl
from codex_kernel.builtin.bytes_tokenizer import Utf8Bytes
from codex_kernel.testing import TokenizerContract

END = "<|endoftext|>"


class Plugin:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @hookimpl
    def codex_tokenizer(self, corpus, saved):
        made = self.tokenizer()
        if hasattr(made, "learn"):
            made.learn(corpus, saved)
        return made
"""

FAULTS = {
    "Sound": ("pass", set()),
    "BatchInAnotherOrder": (
        "def encode_batch(self, texts): return super().encode_batch(texts[::-1])[::-1][::-1]",
        {"test_many_at_once_are_as_one_by_one"},
    ),
    "BatchLosesEmptyTexts": (
        "def decode_batch(self, sequences): return [text for text in super().decode_batch(sequences) if text]",
        {
            "test_many_at_once_are_as_one_by_one",
            "test_end_of_text_is_no_text",
            "test_no_text_has_no_ids",
            "test_any_text_comes_back",
        },
    ),
    "OffsetsInBytes": (
        (
            "def encode_with_offsets(self, text):\n"
            "    ids = self.encode(text)\n"
            "    return ids, [(n, n + 1) for n in range(len(ids))]"
        ),
        {"test_offsets_cover_the_text_in_order", "test_tokens_that_share_a_character_all_cover_it"},
    ),
    "OffsetsOfTheLastByteAlone": (
        (
            "def encode_with_offsets(self, text):\n"
            "    ids, spans = super().encode_with_offsets(text)\n"
            "    after = [*spans[1:], None]\n"
            "    return ids, [(a[0], a[0]) if a == b else a for a, b in zip(spans, after)]"
        ),
        {"test_tokens_that_share_a_character_all_cover_it"},
    ),
    "OffsetsLeaveWhiteSpaceOut": (
        (
            "def encode_with_offsets(self, text):\n"
            "    ids, spans = super().encode_with_offsets(text)\n"
            "    return ids, [(a + 1, b) if text[a:b].isspace() else (a, b) for a, b in spans]"
        ),
        {"test_offsets_cover_the_text_in_order"},
    ),
    "SpeltSpecialsAreIds": (
        (
            "def encode(self, text):\n"
            "    head, found, rest = text.partition(END)\n"
            "    return [*head.encode(), *([256] if found else []), *rest.encode()]\n"
            "def decode(self, ids): return b''.join(END.encode() if n == 256 else bytes([n]) for n in ids).decode()\n"
            "encode_batch = encode_with_offsets = decode_batch = None"
        ),
        {
            "test_special_tokens_are_no_text",
            "test_encoding_adds_no_special_token",
            "test_end_of_text_is_no_text",
        },
    ),
    "SpecialsAreText": (
        "def learn(self, corpus, saved): self.special_tokens = {END: 256, '<a>': 97}",
        {"test_special_tokens_are_no_text"},
    ),
    "SpecialsWithoutTheEnd": (
        "def learn(self, corpus, saved): self.special_tokens = {'<x>': 255}",
        {"test_special_tokens_are_no_text"},
    ),
    "PaddingIsZero": ("pad_id = 0", {"test_padding_is_a_special_token_or_there_is_none"}),
    "UnknownIdsAreLeftOut": (
        "def decode(self, ids): return super().decode([n for n in ids if 0 <= n <= 256])",
        {"test_unknown_ids_are_refused"},
    ),
    "SurrogatesAreReplaced": (
        "def encode(self, text): return list(text.encode(errors='replace'))",
        {"test_a_lone_surrogate_is_refused"},
    ),
    "NulEndsTheText": (
        "def encode(self, text): return list(text.partition('\\0')[0].encode())",
        {"test_nul_comes_back_or_is_refused"},
    ),
    "LongTextsAreCut": (
        "def encode(self, text): return super().encode(text)[:65536]",
        {"test_a_long_run_of_one_character_comes_back"},
    ),
    "ThreadsShareAState": (
        (
            "def encode(self, text):\n"
            "    import time\n"
            "    self.text = text\n"
            "    time.sleep(0.001)\n"
            "    return list(self.text.encode())\n"
            "encode_with_offsets = encode_batch = None"
        ),
        {"test_encoding_may_be_done_by_many_threads"},
    ),
    "FingerprintIgnoresTheVocabulary": (
        (
            "def learn(self, corpus, saved):\n"
            "    found = json.loads((saved / 'n').read_text()) if saved else len(list(corpus)) % 7\n"
            "    self.shift = found\n"
            "def encode(self, text): return [(n + self.shift) % 256 for n in text.encode()]\n"
            "def decode(self, ids):\n"
            "    if any(not 0 <= n <= 256 for n in ids): raise ValueError(ids)\n"
            "    return bytes((n - self.shift) % 256 for n in ids if n < 256).decode(errors='replace')\n"
            "def encode_batch(self, texts): return [self.encode(text.encode().decode()) for text in texts]\n"
            "def decode_batch(self, sequences): return [self.decode(ids) for ids in sequences]\n"
            "def encode_with_offsets(self, text): return self.encode(text), super().encode_with_offsets(text)[1]\n"
            "def save(self, folder): (folder / 'n').write_text(json.dumps(self.shift))\n"
            "def fingerprint(self): return 'the same'"
        ),
        {"test_another_vocabulary_has_another_fingerprint"},
    ),
    "SpecialsAreForgotten": (
        (
            "def learn(self, corpus, saved): self.special_tokens = {END: 256} if saved else {END: 256, '<x>': 257}\n"
            "vocab_size = 258\n"
            "def save(self, folder): pass"
        ),
        {"test_a_saved_tokenizer_is_loaded_without_training_texts"},
    ),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> dict[str, set[str]]:
    """Fault → the tests of the contract that fail for it, of one run over all of them."""
    folder = tmp_path_factory.mktemp("faults")
    parts = [START]
    for name, (body, _) in FAULTS.items():
        indented = "".join(f"    {line}\n" for line in body.splitlines())
        parts.append(
            f"class {name}(Utf8Bytes):\n{indented}\n"
            f"class Test{name}(TokenizerContract):\n    examples = 5\n"
            f"    def make(self, folder): return Plugin({name})\n"
        )
    (folder / "test_faults.py").write_text("\n\n".join(parts))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "test_faults.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "ERROR" not in ran.stdout, ran.stdout
    found: dict[str, set[str]] = {name: set() for name in FAULTS}
    for name, test in re.findall(r"^FAILED test_faults.py::Test(\w+)::(\w+)", ran.stdout, re.MULTILINE):
        found[name].add(test)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_test_that_says_so(failed, fault):
    """Each fault fails the tests that speak of it, and no other: what is sound beside it still passes."""
    assert failed[fault] == FAULTS[fault][1]
