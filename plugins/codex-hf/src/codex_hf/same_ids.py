"""When tiktoken's core gives the ids that the `tokenizers` library gives, and an encoder that knows it.

One rule: whatever is not known to be alike is unfit.

Both cut text by a regular expression and merge each piece. The merges are alike for every piece where merges are
ordered as the ids of their results, a merge uses only tokens before its result, and the merges alone make each token
of its own bytes one token: two neighbours that make up a token are then always the pair that its merge names, because
the pieces of a text merge as they do alone as long as nothing merges across their ends. The expressions are alike where
both engines read them alike (a grammar of what is known) and put each character into the same classes (compared, for
every block of characters that a text has).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_hf.byte_level import BYTE_OF
from codex_hf.fast_path import is_panic

if TYPE_CHECKING:
    import tokenizers

GPT2_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The expression that ByteLevel cuts by where it is told to cut."""

_BLOCK_BITS = 12
_LONG_RUN = 100_000  # of white space; tiktoken's engine cannot step back over a million characters
_SPACE = re.compile(r"\s*")
_SURROGATES = range(0xD800, 0xE000)

_CLASS = r"\\[pP]\{\^?[A-Z][a-z]?\}|\\[sSdD]"
# A literal of a bracket stands for itself in both engines; && and nested brackets do not.
_BRACKETS = rf"\[\^?(?:{_CLASS}|\\[rnt]|[A-Za-z0-9]-[A-Za-z0-9]|[^\\\[\]&~^-])+\]"
# 'ss' and 'st' also match a single letter where case is ignored, in one of the engines.
_IGNORING_CASE = r"\(\?i:(?!\w*s[st])['|\[\]delmrstv]+\)"
_LEXEME = re.compile(
    rf"{_CLASS}|\\[rnt]|{_BRACKETS}|{_IGNORING_CASE}|\((?:\?[:=!]|(?!\?))|[)|]"
    # {{1,3}}+ is possessive in one engine and a repeated repetition in the other.
    r"|[+*?][+?]?|\{\d+(?:,\d*)?\}(?![+?*{])|[A-Za-z0-9 '\"/,;:!@%_=<>-]"
)
_CLASSES = re.compile(_CLASS)


class UnfitError(Exception):
    """tiktoken's core would not, or not certainly, give the ids of the library; the message says why."""


def proven_core(backend: tokenizers.Tokenizer, sample: Sequence[tuple[str, list[int]]]) -> Core:
    """Return an encoder with the ids of `backend`; raise UnfitError where that is not certain.

    sample: texts, and the ids that the library gave them.
    """
    stored = json.loads(backend.to_str())
    ranks = _ranks(stored)
    pattern = _pattern(stored)
    _check_every_token_is_made_by_its_merges(backend, stored["model"], ranks)
    core = Core.of(pattern, ranks)
    probes = _probes()
    for (text, ids), what in [
        *((pair, "of the corpus") for pair in sample),
        *(((text, backend.encode(text, add_special_tokens=False).ids), "to probe it") for text in probes),
    ]:
        ours = core.encode(text)
        if ours is not None and ours.tolist() != ids:
            raise UnfitError(f"other ids for a text {what}: {text[:40]!r}")
    return core


@define(eq=False)
class Core:
    """tiktoken's core with a vocabulary and an expression."""

    characters: Characters
    _encoding: Any
    _lengths: Any

    @classmethod
    def of(cls, pattern: str, ranks: Mapping[bytes, int]) -> Core:
        """Make one; raise UnfitError where tiktoken's engine cannot read the expression."""
        import numpy as np
        import tiktoken

        size = 1 + max(ranks.values())
        missing = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]
        stand_ins = {byte: size + number for number, byte in enumerate(missing)}
        try:
            encoding = tiktoken.Encoding(
                "codex", pat_str=pattern, mergeable_ranks={**ranks, **stand_ins}, special_tokens={}
            )
        except ValueError as error:
            raise UnfitError(f"tiktoken cannot read the expression of the pre-tokeniser: {error}") from error
        lengths = np.zeros(size + len(missing), np.int64)  # what is not in the vocabulary counts as left out
        for token, number in ranks.items():
            lengths[number] = len(token)
        return cls(Characters(sorted(set(_CLASSES.findall(pattern)))), encoding, lengths)

    def encode(self, text: str) -> Any | None:
        """Return the ids as a uint32 array; None: this text is one for the library.

        Raises UnicodeEncodeError where the text has a lone surrogate.
        """
        import numpy as np

        data_bytes = len(text)
        if not text.isascii():
            data_bytes = len(text.encode())
            if not self.characters.alike(text):
                return None
        if len(text) >= _LONG_RUN and _has_long_run(text):
            return None
        try:
            ids = np.array(self._encoding.encode_ordinary(text), np.uint32)
        except BaseException as error:
            if isinstance(error, ValueError) or is_panic(error):
                return None
            raise
        # What the expression does not match is left out by one and kept by the other; so are bytes without a token.
        return ids if int(self._lengths[ids].sum()) == data_bytes else None


def _has_long_run(text: str) -> bool:
    """Whether white space runs on for more than `_LONG_RUN` characters; some shorter runs count too."""
    step = _LONG_RUN // 2
    for place in range(0, len(text), step):
        run = _SPACE.match(text, place)
        if run is not None and run.end() - place >= step:
            return True
    return False


# ── the vocabulary ────────────────────────────────────────────────────────────────────────────────────────────────


def _pattern(stored: Mapping[str, Any]) -> str:
    """Return the expression that a stored tokenizer cuts text by."""
    if stored["normalizer"] is not None:
        raise UnfitError("the tokenizer has a normaliser")
    if any(not token["special"] for token in stored["added_tokens"]):
        raise UnfitError("the tokenizer has added tokens that are text")
    steps = stored["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise UnfitError(f"the pre-tokeniser is {' and '.join(map(str, kinds))}, not an expression and bytes")
    last = steps[-1]
    if last.get("add_prefix_space") or last.get("use_regex", True) != (len(steps) == 1):
        raise UnfitError("the pre-tokeniser adds a space, or cuts twice or not at all")
    if len(steps) == 1:
        return GPT2_PIECES
    split = steps[0]
    pattern = split["pattern"].get("Regex")
    if split["behavior"] != "Isolated" or split["invert"] or not isinstance(pattern, str):
        raise UnfitError("the pre-tokeniser does not cut by the matches of an expression")
    check_pattern(pattern)
    return pattern


def check_pattern(pattern: str) -> None:
    """Raise UnfitError where the expression has something that the two engines may read differently."""
    place = 0
    while place < len(pattern):
        lexeme = _LEXEME.match(pattern, place)
        if lexeme is None:
            raise UnfitError(
                f"the expression of the pre-tokeniser has {pattern[place : place + 12]!r}, which the engines may "
                "read differently"
            )
        place = lexeme.end()


def _ranks(stored: Mapping[str, Any]) -> dict[bytes, int]:
    """Return bytes → id of all tokens of text; raise UnfitError where ids are not the order of the merges.

    Bytes may be missing: trainers leave out those that their corpus has not.
    """
    model = stored["model"]
    odd = [name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)]
    if model["type"] != "BPE" or odd or model.get("byte_fallback"):
        raise UnfitError(
            f"the model is {model['type']}{' with ' if odd else ''}{', '.join(odd)}, not plain BPE"
        )
    vocabulary: dict[str, int] = model["vocab"]
    specials = {token["content"] for token in stored["added_tokens"]}
    made = set()
    last = -1
    for first, second in _merges(model):
        number = vocabulary[first + second]
        if not max(last, vocabulary[first], vocabulary[second]) < number:
            raise UnfitError(f"the merge to {first + second!r} is not in the order of the ids")
        made.add(first + second)
        last = number
    texts = set(vocabulary) - specials
    if others := sorted((texts - made - set(BYTE_OF)) | (made & specials)):
        raise UnfitError(f"tokens are neither bytes nor made by a merge, such as {others[:3]}")
    if not texts:
        raise UnfitError("the vocabulary has no token of text")
    return {bytes(BYTE_OF[character] for character in token): vocabulary[token] for token in texts}


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges, which files write as pairs or, formerly, as one string with a space."""
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in merges]


def _check_every_token_is_made_by_its_merges(
    backend: tokenizers.Tokenizer, model: Mapping[str, Any], ranks: Mapping[bytes, int]
) -> None:
    from tokenizers import models

    plain = backend.model
    if model.get("ignore_merges"):
        plain = models.BPE(vocab=model["vocab"], merges=_merges(model))
    known = set(ranks.values())
    for token, number in model["vocab"].items():
        if number in known and [part.id for part in plain.tokenize(token)] != [number]:
            raise UnfitError(f"the merges do not make the token {token!r} of its bytes")


# ── characters ────────────────────────────────────────────────────────────────────────────────────────────────────


@define(eq=False)
class Characters:
    """Which blocks of 4,096 characters both engines put into the same classes of an expression."""

    classes: Sequence[str]
    _blocks: dict[int, bool] = field(init=False, factory=dict)

    def alike(self, text: str) -> bool:
        """Whether all characters of the text are in blocks that are alike; compares each block once."""
        import numpy as np

        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        blocks = np.flatnonzero(np.bincount(points >> _BLOCK_BITS)).tolist()
        return all(self._block(block) for block in blocks)

    def _block(self, block: int) -> bool:
        known = self._blocks.get(block)
        if known is None:
            points = range(block << _BLOCK_BITS, (block + 1) << _BLOCK_BITS)
            text = "".join(chr(point) for point in points if point not in _SURROGATES)
            # Where case is ignored, letters beyond ASCII may match too.
            classes = [*self.classes, "(?i:[delmrstv])"]
            known = all(_members_by_library(one, text) == _members_by_core(one, text) for one in classes)
            self._blocks[block] = known
        return known


def _members_by_library(expression: str, text: str) -> str:
    """Return the characters of the text that match an expression for one character."""
    import tokenizers
    from tokenizers import pre_tokenizers

    matches = tokenizers.Regex(f"(?:{expression})+")
    split = pre_tokenizers.Split(matches, behavior="removed", invert=True)
    return "".join(piece for piece, _ in split.pre_tokenize_str(text))


def _members_by_core(expression: str, text: str) -> str:
    import tiktoken

    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("class", pat_str=expression, mergeable_ranks=bytes_alone, special_tokens={})
    return bytes(encoding.encode_ordinary(text)).decode()


def _probes() -> list[str]:
    """Return texts of characters that are special to some expression, in every kind of neighbourhood."""
    characters = (
        [chr(point) for point in range(128)]
        + list(" \t\n\r'" * 12)
        + list("\x85\xa0\u2028\u3000\u200b\u200d\ufeff\u180e")
        + list("éß\u017f\u212aİ\u0131ǅ\u02bcﬁﬆªⅷ²½٣\u07c0\u0301\u0903\u20dd漢ひ한๗ह्𝟘𐐀🙂👩\u2126€«»")
    )
    chance = random.Random(20_260_101)
    texts = ["".join(chance.choices(characters, k=chance.randint(1, 40))) for _ in range(1500)]
    words = [
        "'s",
        "'S",
        "'ll",
        "'LL",
        "I'm",
        "don't",
        "  ",
        " \n",
        "\n ",
        "\r\n",
        "\t\t",
        "123456",
        "x = 1",
        "…",
    ]
    texts += ["".join(chance.choices(words, k=chance.randint(1, 12))) for _ in range(300)]
    return texts
