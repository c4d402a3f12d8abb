"""Reading a `tokenizer.json`, and finding out whether it loses text.

One rule: a file that is damaged, or that no text survives, is found before anything is trained on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_hf.byte_level import BYTE_OF
from codex_hf.chat_template import TEMPLATE_FILE
from codex_hf.fast_path import is_panic
from codex_hf.fast_tokenizer import TOKENIZER_FILE, FastTokenizer, id_of_token
from codex_kernel import InputError, Reporter

if TYPE_CHECKING:
    import tokenizers

PROBE = "def f(x):\r\n\tif x:\r\n\t\treturn 'naïve 🦊 e\u0301'  # <|endoftext|>\n\n\n    \t  y  =  0x1F\n"
"""Code with what tokenizers lose: tabs, CRLF, runs of spaces, emoji, combining marks, a special token as text."""

_MOST_BYTES = 128 << 20  # the largest in use have 35 MB
_MOST_MISSING_IDS = 1_000_000
_SAMPLED_TEXTS = 200
_SAMPLED_CHARACTERS = 1 << 18
_LONGEST_CHARACTERS = 1 << 16


def load_fast_tokenizer(
    file: Path,
    eos_token: str,
    files: Mapping[str, bytes] | None = None,
    *,
    pad_token: str | None = None,
    report: Reporter | None = None,
) -> FastTokenizer:
    """Read a `tokenizer.json`, and the chat template beside it.

    Raises InputError where the file is missing, damaged, or lacks `eos_token` or `pad_token`.
    """
    backend = read_backend(file)
    template = file.with_name(TEMPLATE_FILE)
    return fast_tokenizer(
        backend,
        file,
        eos_token,
        files,
        pad_token=pad_token,
        report=report,
        chat_template=read_text(template) if template.is_file() else None,
    )


def fast_tokenizer(
    backend: tokenizers.Tokenizer,
    where: Path,
    eos_token: str,
    files: Mapping[str, bytes] | None = None,
    *,
    pad_token: str | None = None,
    **rest: Any,
) -> FastTokenizer:
    """Put a vocabulary that was read from `where` behind codex's protocols, with its special tokens."""
    eos_id = id_of_token(backend, eos_token, where, "eos_token", "end each document")
    pad_id = None
    if pad_token is not None:
        pad_id = id_of_token(backend, pad_token, where, "pad_token", "fill rows of a batch")
    return FastTokenizer(backend, eos_id=eos_id, files=files or {}, pad_id=pad_id, **rest)


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json`; raise InputError where it is missing, damaged or much too large."""
    import tokenizers

    content = _content(file)
    try:
        backend = tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise InputError(
            f"{file} is not a {TOKENIZER_FILE} that the tokenizers library can read: {error}"
        ) from error
    _check_chance(backend, file)
    _check_ids(backend, file)
    _check_added(backend, content, file)
    return backend


def _content(file: Path) -> bytes:
    if not file.is_file():
        raise InputError(
            f"there is no tokenizer file {file}",
            remedy=f"give the path of a {TOKENIZER_FILE} of the tokenizers library",
        )
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= _MOST_BYTES else None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if content is None:
        raise InputError(f"{file} is no tokenizer: it has {size:,} bytes, expected at most {_MOST_BYTES:,}")
    return content


def _check_chance(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Raise InputError where merges are left out at random: the same text must have the same ids each time."""
    dropout = getattr(backend.model, "dropout", None)
    if dropout:
        raise InputError(
            f"{file} leaves out merges at random (dropout {dropout:g}), so a text would have other ids each time",
            remedy="set model.dropout to null in a copy of the file",
        )


def _check_ids(backend: tokenizers.Tokenizer, file: Path) -> None:
    """Raise InputError where two tokens share an id, where there is no token, or where most ids have none."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise InputError(f"{file} has an empty vocabulary", remedy="give the file of a trained tokenizer")
    token_of: dict[int, str] = {}
    for token, number in vocabulary.items():
        other = token_of.setdefault(number, token)
        if other != token:
            raise InputError(f"{file} gives two tokens the id {number}: {other!r} and {token!r}")
    missing = 1 + max(token_of) - len(token_of)
    if missing > _MOST_MISSING_IDS:
        raise InputError(
            f"{file} has {len(token_of):,} tokens, but an id of {max(token_of):,}: "
            "a model would need a row of its embedding for each id in between"
        )


def _check_added(backend: tokenizers.Tokenizer, content: bytes, file: Path) -> None:
    """Raise InputError where the library gives an added token another id than the file does, as it does unasked."""
    for token in json.loads(content).get("added_tokens") or []:
        number = backend.token_to_id(token["content"])
        if number != token["id"]:
            raise InputError(
                f"{file} gives the added token {token['content']!r} the id {token['id']:,}, but its place is "
                f"{number:,}: ids of added tokens go on where the vocabulary ends",
                remedy="put the file of the model back; a model was trained with the ids that it names",
            )


def read_text(file: Path) -> str:
    """Return a text file that lies beside a tokenizer; raise InputError where it is no UTF-8."""
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error


# ── what comes back ───────────────────────────────────────────────────────────────────────────────────────────────


def first_loss(tokenizer: FastTokenizer, corpus: Iterable[str]) -> str | None:
    """Say which text does not come back from encoding and decoding, of probes and a sample of the corpus.

    Returns one line that shows where it first differs; None: all come back.
    """
    texts = [PROBE, *_spelt(tokenizer), *_sample(corpus)]
    decoded = tokenizer.decode_batch(tokenizer.encode_batch(texts))
    for text, back in zip(texts, decoded, strict=True):
        if back != text:
            return _shown(text, back)
    return None


def _spelt(tokenizer: FastTokenizer) -> Iterator[str]:
    """Give the texts that spell special tokens: alone, and as the bytes that a byte-level vocabulary writes so."""
    for token in islice(tokenizer.special_tokens, 1000):
        yield token
        if all(character in BYTE_OF for character in token):
            yield bytes(BYTE_OF[character] for character in token).decode(errors="ignore")


def _sample(corpus: Iterable[str]) -> Iterator[str]:
    """Give the beginnings of the first texts, in all about 260,000 characters."""
    characters = 0
    for text in islice(corpus, _SAMPLED_TEXTS):
        yield text[:_LONGEST_CHARACTERS]
        characters += min(len(text), _LONGEST_CHARACTERS)
        if characters > _SAMPLED_CHARACTERS:
            return


def _shown(text: str, decoded: str) -> str:
    start = next(
        (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b),
        min(len(text), len(decoded)),
    )
    begin = max(0, start - 10)
    return f"{text[begin : start + 20]!r} became {decoded[begin : start + 20]!r}"
