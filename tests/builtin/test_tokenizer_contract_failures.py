"""Tokenizers with a fault each, and the tests of the contract that must find it."""

import textwrap

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import json
from codex_kernel.builtin.bytes_tokenizer import Utf8Bytes
from codex_kernel.testing import TokenizerContract

END = "<|endoftext|>"

@frozen
class Sound:
    tokenizer: ClassVar[type] = Utf8Bytes

    @hookimpl
    def codex_tokenizer(self, corpus, saved):
        made = self.tokenizer()
        if hasattr(made, "learn"):
            made.learn(corpus, saved)
        return made

class Contract(TokenizerContract):
    examples = 5
    made = Sound

    def make(self, folder):
        return self.made()

del TokenizerContract
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


MORE = {
    "LosesCapitals": (
        "def encode(self, text): return list(text.lower().encode())\nencode_batch = None",
        {"test_code_comes_back"},
    ),
    "LosesRareCharacters": (
        "def encode(self, text): return list(text.replace('\\x1c', '').replace('0', '').encode())",
        {"test_any_text_comes_back"},
    ),
    "HasIdsOutOfItsVocabulary": ("vocab_size = 100", {"test_ids_are_in_the_vocabulary"}),
    "EndsEachText": (
        "def encode(self, text): return [*text.encode(), 256]",
        {"test_encoding_adds_no_special_token"},
    ),
    "SpellsItsEnd": (
        "def decode(self, ids): return b''.join(END.encode() if n == 256 else bytes([n]) for n in ids).decode()",
        {"test_end_of_text_is_no_text"},
    ),
    "Remembers": (
        (
            "def encode(self, text):\n"
            "    last, self.last = getattr(self, 'last', ''), text\n"
            "    return list((text if last != text[:1] * 2 else '').encode()) + [len(last) % 7]"
        ),
        {"test_encoding_has_no_memory"},
    ),
    "GivesIdsForNothing": (
        "def encode(self, text): return [32, *text.encode()]",
        {"test_no_text_has_no_ids"},
    ),
    "SharesItsVocabulary": (
        (
            "def learn(self, corpus, saved): type(self).shift = len(list(corpus)) % 7\n"
            "def encode(self, text): return [(n + self.shift) % 256 for n in text.encode()]"
        ),
        {"test_two_runs_in_one_process_do_not_meet"},
    ),
    "TakesAnEmptyFolder": (
        "def save(self, folder): (folder / 'n').write_text('1')\ndef fingerprint(self): return '1'",
        {"test_a_save_that_lost_its_files_is_told"},
    ),
    "IsMadeAnew": (
        (
            "def learn(self, corpus, saved):\n"
            "    import os\n"
            "    self.shift = os.urandom(1)[0] or 1\n"
            "def encode(self, text): return [(n + self.shift) % 256 for n in text.encode()]"
        ),
        {"test_the_same_texts_make_the_same_tokenizer"},
    ),
}
ALL = {
    name: Fault(
        f"class Toy{name}(Utf8Bytes):\n{textwrap.indent(body, '    ')}\n\n"
        f"@frozen\nclass {name}(Sound):\n    tokenizer: ClassVar[type] = Toy{name}\n",
        [check.removeprefix("test_") for check in checks],
        raw=True,
    )
    for name, (body, checks) in {**FAULTS, **MORE}.items()
    if name != "Sound"
}
FAULTY = Faulty("TokenizerContract", HEAD, ALL)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_tokenizers_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound tokenizer passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
