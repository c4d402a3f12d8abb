"""Documents, tokens and tokenizers: what comes before the model.

One rule: nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

IGNORE_INDEX = -100
"""The target of a position that is not trained (torch's own default for `ignore_index`)."""


@frozen
class Message:
    """One turn of a conversation.

    `role` is a word the chat template knows (`system`, `user`, `assistant`). `trained` False: an assistant's turn that
    is only read.
    """

    role: str
    content: str
    trained: bool = True


@frozen
class Document:
    """One document of a dataset: a text, a text after a prompt, or a conversation.

    `id` names it uniquely (a path, `file:line`); documents with the same `group` never fall into different splits.
    `text` is trained; `prompt` stands before it and is only read; an end-of-text token follows the text. `messages` are
    a conversation, and then there is no text and no prompt: the tokenizer's chat template makes tokens of it, and of
    those the assistant's are trained. `language` is a programming language in lower case (`python`); empty: not known.
    `source` names the part of a mixture that the document is from; empty: there is one part only.
    """

    id: str
    group: str
    text: str = ""
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    language: str = ""
    source: str = ""


@frozen
class BadRecord:
    """What a dataset gives in the place of a document that it cannot read; the manifest says how many are bearable.

    `where` is `file:line`, `problem` one sentence: what was expected, what was got. `remedy` None: nothing to advise.
    """

    where: str
    problem: str
    remedy: str | None = None


@frozen
class Cleaned:
    """What a cleaning step made of a document.

    `document` is the same one, a changed one with the same `id` and `group`, or None: dropped. `counts` says why, in
    the step's own fixed words (`redacted aws-access-key`: 2, `licence header`: 1); they are summed in `data.json`.
    """

    document: Document | None
    counts: Mapping[str, int] = {}


@frozen
class Mixing:
    """In what shares the sources of a dataset are trained.

    `weights` maps each source to its share of the training blocks, in any unit; None: in proportion to their blocks.
    `schedule` has (from_tokens, weights), from_tokens rising: from so many training tokens on, blocks of `seq_len`
    tokens counted whole, these weights hold instead.
    """

    weights: Mapping[str, float] | None = None
    schedule: tuple[tuple[int, Mapping[str, float]], ...] = ()


class Cleaner(Protocol):
    """A cleaning step, made anew for each pass over the documents, which it is given in their order.

    What it answers depends on its options and the documents so far alone: never on time, machine or random state.
    """

    def clean(self, document: Document) -> Cleaned:
        """Keep, change or drop one document."""


@frozen(eq=False)
class Batch:
    """Some blocks of tokens, as numpy arrays.

    `input_ids_BT` int64. `targets_BT` int64 holds for each position the *next* token of the same document (no further
    shift is needed), or IGNORE_INDEX; a block may have no target. `position_ids_BT` int64 counts from 0 in each
    document of a block, so it is always below T, also where a document goes on from the block before.
    `document_ids_BT` int64 numbers the documents of a block from 0, and is -1 on padding: attention must not cross
    from one to another. `sample_ids_B` int64 are the blocks' numbers in the split.
    """

    input_ids_BT: Any
    targets_BT: Any
    position_ids_BT: Any
    document_ids_BT: Any
    sample_ids_B: Any


class Blocks(Protocol):
    """One split of the data as blocks of `seq_len` tokens, read from disk as they are asked for."""

    @property
    def seq_len(self) -> int:
        """Tokens of a block (T)."""

    @property
    def target_tokens(self) -> int:
        """Targets of all blocks that are not IGNORE_INDEX."""

    def text_bytes(self, sample_ids_B: Any) -> float:
        """Return the UTF-8 bytes of text that the targets of these blocks stand for.

        Of a document that lies in several blocks, each has a share by its targets; the sum over all blocks is exact.
        """

    def __len__(self) -> int:
        """Blocks of the split."""

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers, in this order."""


class Data(Protocol):
    """What a trainer trains on: two splits, and the order of the training samples."""

    @property
    def train(self) -> Blocks:
        """The training split, never empty."""

    @property
    def validation(self) -> Blocks | None:
        """The validation split; None where the manifest asks for none."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of tokens, boundaries and options: equal exactly where the batches are equal."""

    def samples(self, start: int, count: int) -> Any:
        """Return `count` sample ids (int64) of the endless training order from position `start` on.

        A pure function of the seed and the position: every epoch is a permutation of all training blocks, and epoch
        e takes the positions e·n … (e+1)·n - 1. Of a mixture with weights, every pass over a source is a permutation of
        its blocks. It costs the same at any position and holds no state.
        """


class Tokenizer(Protocol):
    """Turns text into ids and back; `decode(encode(text)) == text` for any text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 … vocab_size - 1; the model's embedding has at least as many rows."""

    @property
    def eos_id(self) -> int:
        """The end-of-text token, put after each document and trained."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; `eos_id` and other control tokens stand for no text."""


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that encodes many texts at once (on its library's own threads)."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return `[encode(text) for text in texts]`, faster; each is a sequence of integers or an integer array."""


@runtime_checkable
class BatchDecoder(Protocol):
    """A tokenizer that decodes many sequences at once."""

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> Sequence[str]:
        """Return `[decode(ids) for ids in sequences]`, faster."""


@runtime_checkable
class OffsetTokenizer(Protocol):
    """A tokenizer that knows where in the text each token lies."""

    def encode_with_offsets(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the ids of `encode(text)`, and for each the characters [start, end) of the text that it covers.

        Tokens that share a character (the bytes of an emoji) each cover all of it.
        """


@runtime_checkable
class SpecialTokens(Protocol):
    """A tokenizer that says what its special tokens are called."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text → id of every special token; none of them is ever in `encode(text)`, and `decode` leaves them out."""

    @property
    def pad_id(self) -> int | None:
        """The token that stands for no text at all in a padded batch; None: the vocabulary has none."""


@frozen(eq=False)
class ChatIds:
    """A conversation as tokens: `ids` and `trained`, which says of each id whether it is trained, have one length.

    `text_bytes` counts the UTF-8 bytes of the text that the trained ids stand for.
    """

    ids: Sequence[int]
    trained: Sequence[bool]
    text_bytes: int


@runtime_checkable
class ChatTokenizer(Protocol):
    """A tokenizer that makes tokens of conversations, by its chat template."""

    def encode_chats(self, conversations: Sequence[Sequence[Message]]) -> Sequence[ChatIds]:
        """Render and encode each conversation, special tokens of the template included.

        Trained are the assistant's turns and the token that ends each of them; never what a user's text merely spells.
        Raises InputError where there is no template, or where it fails or changes what was said.
        """


@runtime_checkable
class FingerprintedTokenizer(Protocol):
    """A tokenizer that can be told from another one.

    Of one without it the kernel takes the plugin's version and options, so that every update of it is another one.
    """

    def fingerprint(self) -> str:
        """Hex digest of all that decides which ids a text gets.

        Vocabulary, merges, normaliser, pre-tokeniser, decoder, special tokens, chat template.
        """


@runtime_checkable
class UnknownToken(Protocol):
    """A tokenizer that may have a token for what it cannot spell, and then loses text."""

    @property
    def unk_id(self) -> int | None:
        """The token that stands for any text that the vocabulary has none for; None: every text can be spelt."""


@runtime_checkable
class SavedTokenizer(FingerprintedTokenizer, Protocol):
    """A tokenizer with state (a vocabulary) that must be kept with the run.

    A tokenizer without it is rebuilt from its options alone.
    """

    def save(self, folder: Path) -> None:
        """Write the files from which the same plugin makes an equal tokenizer; `folder` exists and is empty."""


@runtime_checkable
class TrainedTokenizer(SavedTokenizer, Protocol):
    """A saved tokenizer that says whether its corpus and options alone decide it: then the cache may keep it."""

    @property
    def trained(self) -> bool:
        """True where it was trained on the corpus of this run, and read no file."""


CorpusText = Iterable[str]
"""Training texts that can be gone through more than once."""
