"""The tokenizer object of this distribution: a `tokenizers.Tokenizer` behind codex's tokenizer protocols.

One rule: text is text. A special token that is spelt out in a document is encoded as the characters it consists of,
so decoding gives back what was encoded; special ids are set by the kernel alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_hf.chat_template import TEMPLATE_FILE, read_template, require_tokens, token_variables
from codex_hf.fast_path import FastPath, raise_refusal
from codex_kernel import ChatIds, InputError, Message, Reporter, StorageError

if TYPE_CHECKING:
    import tokenizers

    from codex_hf.chat import ChatEncoder

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_SHOWN_TOKENS = 20


@define(eq=False, slots=False)
class FastTokenizer:
    """A vocabulary of the `tokenizers` library; thread-safe, as the library is.

    `pad_id` None: the vocabulary names no padding token. `trained`: made of the run's corpus, no file was read.
    `chat_template` is Jinja; None: there is none. `files` are written beside `tokenizer.json` by `save`, for other
    tools to open the folder. `report` is told how batches are encoded; None: nobody asks.
    """

    backend: tokenizers.Tokenizer
    eos_id: int
    files: Mapping[str, bytes] = field(factory=dict)
    pad_id: int | None = None
    trained: bool = False
    chat_template: str | None = None
    report: Reporter | None = None
    vocab_size: int = field(init=False)
    special_tokens: Mapping[str, int] = field(init=False)
    _ids: frozenset[int] | range = field(init=False, repr=False)
    _path: FastPath = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Make the vocabulary encode plain text, whatever was stored with it."""
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        _make_special(self.backend, [self.eos_id, *([] if self.pad_id is None else [self.pad_id])])
        ids = frozenset(self.backend.get_vocab(with_added_tokens=True).values())
        # Ids may have gaps, so the count of tokens would be too small for the embedding.
        self.vocab_size = 1 + max(ids)
        self._ids = range(self.vocab_size) if len(ids) == self.vocab_size else ids
        added = self.backend.get_added_tokens_decoder()
        self.special_tokens = {token.content: i for i, token in sorted(added.items()) if token.special}
        self._path = FastPath(self.backend, self.report)

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, without special tokens; raise InputError for a lone surrogate."""
        return self._path.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the ids of many texts, on as many threads as there are processors; lists, or uint32 arrays."""
        return self._path.encode_batch(texts)

    def encode_with_offsets(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the ids of the text, and for each the characters [start, end) that it covers."""
        try:
            encoding = self._untrimmed.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise_refusal(text, error)
            raise
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; special tokens stand for no text. Raises InputError for ids it has not."""
        text: str = self.backend.decode(self._known(ids), skip_special_tokens=True)
        return text

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> Sequence[str]:
        """Return the texts of many sequences, on the library's threads."""
        known = [self._known(ids) for ids in sequences]
        texts: list[str] = self.backend.decode_batch(known, skip_special_tokens=True)
        return texts

    def encode_chats(self, conversations: Sequence[Sequence[Message]]) -> Sequence[ChatIds]:
        """Return the tokens of each conversation, by the chat template, and which of them are trained.

        Raises InputError where there is no template, ConversationError where one cannot be made tokens.
        """
        return self._chats.encode(conversations)

    def use_template(self, file: Path) -> None:
        """Make conversations by the chat template of a file, from before the first one on.

        Raises InputError where it cannot be read, is no template, or has special tokens that the vocabulary has not.
        """
        self.chat_template = read_template(file)
        require_tokens(self.chat_template, self.special_tokens)
        self._chats.renderer.check()
        self.trained = False  # the cache would not see that the file has changed

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the files beside it; raise StorageError where the disk refuses."""
        files = {TOKENIZER_FILE: self.backend.to_str(pretty=True).encode(), **self.files}
        if self.chat_template is not None:
            files[TEMPLATE_FILE] = self.chat_template.encode()
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise StorageError(f"cannot write the tokenizer to {folder}: {error}") from error

    def fingerprint(self) -> str:
        """Hex digest of vocabulary, merges, normaliser, pre-tokeniser, decoder, special tokens and chat template."""
        stored = json.loads(self.backend.to_str())
        decisive = {name: part for name, part in stored.items() if name not in {"truncation", "padding"}}
        optional: dict[str, Any] = {"pad_id": self.pad_id, "chat_template": self.chat_template}
        if self.chat_template is not None:
            optional["chat_tokens"] = self._template_variables
        given = {name: value for name, value in optional.items() if value is not None}
        canonical = json.dumps(
            [decisive, self.eos_id, *([given] if given else [])],
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def unk_id(self) -> int | None:
        """The token for what the vocabulary cannot spell; None: it has none."""
        model = json.loads(self.backend.to_str())["model"]
        token = model.get("unk_token")
        return model.get("unk_id") if token is None else self.backend.token_to_id(token)

    @cached_property
    def _untrimmed(self) -> tokenizers.Tokenizer:
        """The same vocabulary without post-processor: those of byte-level vocabularies trim spaces off the offsets."""
        if self.backend.post_processor is None:
            return self.backend
        import tokenizers

        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        plain.post_processor = None
        return plain

    @cached_property
    def _chats(self) -> ChatEncoder:
        from codex_hf.chat import ChatEncoder
        from codex_hf.rendering import Renderer

        if self.chat_template is None:
            raise InputError(
                "this tokenizer has no chat template, and conversations need one",
                remedy="give tokenizer.chat_template, a Jinja file (or, where the tokenizer has several templates, "
                "tokenizer.chat_template_name)",
            )
        return ChatEncoder(self.backend, self.eos_id, Renderer(self.chat_template, self._template_variables))

    @property
    def _template_variables(self) -> dict[str, str]:
        config = json.loads(self.files.get(CONFIG_FILE, b"{}"))
        return {**token_variables(config), "eos_token": str(self.backend.id_to_token(self.eos_id))}

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Return the ids as the library takes them; it would leave out those that it has not."""
        known: list[int] = ids.tolist() if hasattr(ids, "tolist") else [int(token) for token in ids]
        inside = not known or (min(known) >= 0 and max(known) < self.vocab_size)
        if not inside or not isinstance(self._ids, range):
            for token in known:
                if token not in self._ids:
                    raise InputError(
                        f"there is no token {token} in the vocabulary: expected ids in 0 … {self.vocab_size - 1}"
                    )
        return known


def _make_special(backend: tokenizers.Tokenizer, ids: Sequence[int]) -> None:
    """Let tokens be special, as transformers does with those that a configuration names; they keep their ids."""
    import tokenizers

    added = backend.get_added_tokens_decoder()
    plain = [i for i in ids if i not in added or not added[i].special]
    backend.add_special_tokens(
        [tokenizers.AddedToken(backend.id_to_token(i), special=True, normalized=False) for i in plain]
    )


def id_of_token(backend: tokenizers.Tokenizer, token: str, where: Path, option: str, purpose: str) -> int:
    """Return the id of a token that `option` names; raise InputError where the vocabulary has no such token."""
    number: int | None = backend.token_to_id(token)
    if number is not None:
        return number
    added = [one.content for one in backend.get_added_tokens_decoder().values()]
    more = f" and {len(added) - _SHOWN_TOKENS:,} more" if len(added) > _SHOWN_TOKENS else ""
    shown = ", ".join(map(repr, added[:_SHOWN_TOKENS])) + more
    raise InputError(
        f"{where} has no token {token!r}, which was to {purpose}; its special tokens: {shown or 'none'}",
        remedy=f"name one of its tokens with {option}",
    )


def companion_config(
    eos_token: str, given: Mapping[str, Any] | None = None, pad_token: str | None = None
) -> bytes:
    """Return a `tokenizer_config.json` with these special tokens, for other tools to open the folder."""
    config = dict(given) if given else {"tokenizer_class": "PreTrainedTokenizerFast"}
    config["eos_token"] = eos_token
    if pad_token is not None:
        config["pad_token"] = pad_token
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
