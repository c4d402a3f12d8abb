"""The tokenizer object of this distribution: a `tokenizers.Tokenizer` behind codex's tokenizer protocols.

One rule: text is text. A special token that is spelt out in a document is encoded as the characters it consists of,
so decoding gives back what was encoded; special ids are set by the kernel alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_kernel import InputError, StorageError

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
PROBE = "def f(x):\r\n\tif x:\r\n\t\treturn 'naïve 🦊 e\u0301'  # <|endoftext|>\n\n\n    \t  y  =  0x1F\n"
"""Code with what tokenizers lose: tabs, CRLF, runs of spaces, emoji, combining marks, a special token as text."""


@define(eq=False)
class FastTokenizer:
    """A vocabulary of the `tokenizers` library; thread-safe, as the library is.

    `files` are written beside `tokenizer.json` by `save`, for other tools to open the folder.
    """

    backend: tokenizers.Tokenizer
    eos_id: int
    files: Mapping[str, bytes] = field(factory=dict)
    vocab_size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the vocabulary encode plain text, whatever was stored with it."""
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        # Ids may have gaps, so the count of tokens would be too small for the embedding.
        self.vocab_size = 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, without special tokens."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the ids of many texts, on the library's threads."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; special tokens stand for no text."""
        text: str = self.backend.decode(ids, skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the files beside it; raise StorageError where the disk refuses."""
        files = {TOKENIZER_FILE: self.backend.to_str(pretty=True).encode(), **self.files}
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise StorageError(f"cannot write the tokenizer to {folder}: {error}") from error

    def fingerprint(self) -> str:
        """Hex digest of the vocabulary, merges, normaliser, added tokens and the end-of-text id."""
        stored = json.loads(self.backend.to_str())
        decisive = {name: part for name, part in stored.items() if name not in {"truncation", "padding"}}
        canonical = json.dumps(
            [decisive, self.eos_id], sort_keys=True, separators=(",", ":"), ensure_ascii=True
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_fast_tokenizer(
    file: Path, eos_token: str, files: Mapping[str, bytes] | None = None
) -> FastTokenizer:
    """Read a `tokenizer.json`; raise InputError where it is missing, damaged or lacks `eos_token`."""
    import tokenizers

    if not file.is_file():
        raise InputError(
            f"there is no tokenizer file {file}",
            remedy=f"give the path of a {TOKENIZER_FILE} of the tokenizers library",
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise InputError(
            f"{file} is not a {TOKENIZER_FILE} that the tokenizers library can read: {error}"
        ) from error
    return FastTokenizer(backend, eos_id=eos_id_of(backend, eos_token, file), files=files or {})


def eos_id_of(backend: tokenizers.Tokenizer, eos_token: str, file: Path) -> int:
    """Return the id of the end-of-text token; raise InputError where the vocabulary has no such token."""
    eos_id: int | None = backend.token_to_id(eos_token)
    if eos_id is not None:
        return eos_id
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    raise InputError(
        f"{file} has no token {eos_token!r}, which was to end each document; its special tokens: {added or 'none'}",
        remedy="name one of its tokens with eos_token",
    )


def first_loss(tokenizer: FastTokenizer, texts: Iterable[str]) -> tuple[str, str] | None:
    """Return the first text that does not come back from encoding and decoding, and what came back; None: all do."""
    for text in texts:
        decoded = tokenizer.decode(tokenizer.encode(text))
        if decoded != text:
            return text, decoded
    return None


def shown_loss(text: str, decoded: str) -> str:
    """Show where two texts first differ, in one line."""
    start = next(
        (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b),
        min(len(text), len(decoded)),
    )
    begin = max(0, start - 10)
    return f"{text[begin : start + 20]!r} became {decoded[begin : start + 20]!r}"


def companion_config(eos_token: str, given: Mapping[str, Any] | None = None) -> bytes:
    """Return a `tokenizer_config.json` with this end-of-text token, for other tools to open the folder."""
    config = dict(given) if given else {"tokenizer_class": "PreTrainedTokenizerFast"}
    config["eos_token"] = eos_token
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
