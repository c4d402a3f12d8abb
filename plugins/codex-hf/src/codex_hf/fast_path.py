"""Encoding text with a vocabulary of the `tokenizers` library, through tiktoken's core where that gives the same ids.

One rule: the ids are the library's, always. The other path is taken only after it was proven on the vocabulary and on
the first texts that are encoded, and a text that it cannot do alike is encoded by the library, and counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_kernel import InputError, Reporter

if TYPE_CHECKING:
    import tokenizers

SAMPLE_CHARACTERS = 1 << 20
_PARALLEL_CHARACTERS = 1 << 16
_PARTS_PER_THREAD = 4


@define(eq=False)
class FastPath:
    """The way texts take to their ids: by the library at first, through tiktoken's core once that is proven.

    `report` is told of the choice, and of texts that were left to the library; None: nobody is.
    """

    backend: tokenizers.Tokenizer
    report: Reporter | None = None
    by_library: int = field(init=False, default=0)
    """Texts that the library encoded after the choice fell on tiktoken's core."""
    _core: Any = field(init=False, default=None)
    _decided: bool = field(init=False, default=False)
    _sample: list[tuple[str, list[int]]] = field(init=False, factory=list)
    _sampled_characters: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text."""
        if self._core is None:
            return self._encode_by_library([text])[0]
        ids: list[int] = self._one(text).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Return the ids of each text, a list or a uint32 array."""
        first = [] if self._decided else self._sampled(texts)
        rest = texts[len(first) :]
        if not rest:
            return first
        return first + (self._many(rest) if self._core is not None else self._encode_by_library(rest))

    def _sampled(self, texts: Sequence[str]) -> list[Any]:
        """Encode by the library what is still missing of the sample, and decide once there is enough of it."""
        with self._lock:
            taken: list[str] = []
            for text in texts:
                if self._decided or self._sampled_characters >= SAMPLE_CHARACTERS:
                    break
                taken.append(text)
                self._sampled_characters += len(text)
            encoded = self._encode_by_library(taken)
            self._sample.extend(zip(taken, encoded, strict=True))
            if not self._decided and self._sampled_characters >= SAMPLE_CHARACTERS:
                self._decide()
            return encoded

    def _decide(self) -> None:
        """Choose the path for all further texts, and say which."""
        from codex_hf.same_ids import UnfitError, proven_core

        fields: dict[str, Any] = {"texts": len(self._sample), "characters": self._sampled_characters}
        try:
            self._core = proven_core(self.backend, self._sample)
        except UnfitError as unfit:
            fields |= {"encoder": "tokenizers", "reason": str(unfit)}
        else:
            fields |= {"encoder": "tiktoken", "reason": "equal ids, proven on the vocabulary and these texts"}
        self._decided = True
        self._sample.clear()
        if self.report is not None:
            self.report.event("tokenizer_encoder", **fields)

    def _many(self, texts: Sequence[str]) -> list[Any]:
        threads = thread_count()
        characters = sum(map(len, texts))
        if threads == 1 or len(texts) == 1 or characters < _PARALLEL_CHARACTERS:
            return [self._one(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(self._part, _parts(texts, characters // (threads * _PARTS_PER_THREAD)))
            return [ids for part in parts for ids in part]

    def _part(self, texts: Sequence[str]) -> list[Any]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Any:
        """Return the ids of a text as a uint32 array, from the core or, where it declines, from the library."""
        import numpy as np

        try:
            ids = self._core.encode(text)
        except UnicodeEncodeError as error:
            raise_refusal(text, error)
            raise
        if ids is None:
            self._count()
            return np.array(self._encode_by_library([text])[0], np.uint32)
        return ids

    def _count(self) -> None:
        """Count a text that was left to the library; the record has the first, the second, the fourth and so on."""
        with self._lock:
            self.by_library += 1
            count = self.by_library
        if self.report is not None and count & (count - 1) == 0:
            self.report.event("tokenizer_encoder_left", texts=count, encoder="tokenizers")

    def _encode_by_library(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            return [
                encoding.ids
                for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        except BaseException as error:
            if len(texts) > 1 and is_panic(error):  # one of them; which one is found out one by one
                return [self._encode_by_library([text])[0] for text in texts]
            for text in texts:
                raise_refusal(text, error)
            raise


def thread_count() -> int:
    """Return how many threads may encode: the processors of this process, fewer where RAYON_NUM_THREADS says so.

    That variable bounds the threads of the tokenizers library too.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("RAYON_NUM_THREADS", "")
    return max(1, min(processors, int(limit))) if limit.isdigit() and int(limit) else processors


def _parts(texts: Sequence[str], characters: int) -> list[Sequence[str]]:
    """Cut a batch into consecutive parts of about so many characters."""
    parts: list[Sequence[str]] = []
    start = held = 0
    for stop, text in enumerate(texts, 1):
        held += len(text)
        if held >= characters or stop == len(texts):
            parts.append(texts[start:stop])
            start, held = stop, 0
    return parts


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust has panicked, which is no Exception in Python."""
    return type(error).__name__ == "PanicException"


def raise_refusal(text: object, error: BaseException) -> None:
    """Raise InputError where a library cannot encode a text for what the text is: a lone surrogate, a huge run."""
    if not isinstance(text, str):
        return
    try:
        text.encode()
    except UnicodeEncodeError as surrogate:
        raise InputError(
            f"expected Unicode text, got the lone surrogate {text[surrogate.start]!r} at character "
            f"{surrogate.start:,}",
            remedy="decode the file as UTF-8, with errors='replace' where it is damaged",
        ) from error
    if is_panic(error):
        raise InputError(
            f"the tokenizers library cannot encode the text of {len(text):,} characters that begins with "
            f"{text[:40]!r}: {error}",
            remedy="leave the document out, or cut it; millions of the same character in a row are too many for some "
            "expressions that cut text into pieces",
        ) from error
