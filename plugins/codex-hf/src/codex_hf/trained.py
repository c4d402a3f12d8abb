"""What the tokenizers that are trained here have in common: their options, and the way to a vocabulary.

One rule: the same corpus and options give the same bytes, and what goes in comes out, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import fields, frozen

from codex_hf.chat_template import template_problems
from codex_hf.fast_tokenizer import CONFIG_FILE, TOKENIZER_FILE, FastTokenizer, companion_config
from codex_hf.tokenizer_file import fast_tokenizer, first_loss, load_fast_tokenizer
from codex_kernel import (
    CorpusText,
    InputError,
    Reporter,
    RunContext,
    hookimpl,
    interruptible,
    option,
)

if TYPE_CHECKING:
    import tokenizers

EOS_TOKEN = "<|endoftext|>"  # noqa: S105 - a token of a vocabulary, no password
_LEARNING = "learn vocabulary"
_BATCH_TEXTS = 256
_BATCH_CHARACTERS = 1 << 20
_OF_A_FILE = ("eos_token", "pad_token", "path", "chat_template")


@frozen(kw_only=True)
class TrainedOptions:
    """The options of all tokenizers that are trained on the run's corpus, or loaded from a file instead."""

    name: ClassVar[str]
    """As the manifest writes it."""
    model: ClassVar[str]
    """As the tokenizers library calls it."""
    base_tokens: ClassVar[int]
    """Tokens that every vocabulary has, special ones aside."""

    vocab_size: int = option(8192, help="Tokens of the vocabulary, special tokens included.", gt=0)
    special_tokens: list[str] = option(
        factory=list, help="Further special tokens, after eos_token, such as those of fill-in-the-middle."
    )
    eos_token: str = option(EOS_TOKEN, help="The token that ends each document.")
    pad_token: str | None = option(
        None, help="The token that fills rows of a batch; null: there is none. Blocks of training need none."
    )
    path: Path | None = option(
        None, help="Load this tokenizer.json instead of training; relative to where the run was started."
    )
    chat_template: Path | None = option(
        None,
        help="Jinja file that makes text of conversations; its special tokens must be in the vocabulary.",
    )

    def __attrs_post_init__(self) -> None:
        """Refuse options that no training could satisfy, and those that a loaded file leaves unread."""
        if self.pad_token == self.eos_token:
            raise ValueError("pad_token: expected another token than eos_token, which is trained")
        if self.path is not None:
            self._check_unread()
        specials = self.all_special_tokens
        if len(set(specials)) != len(specials):
            raise ValueError(
                "special_tokens: expected tokens that differ from one another and from eos_token"
            )
        if not all(specials):
            raise ValueError("special_tokens: expected tokens of at least one character")
        least = self.base_tokens + len(specials)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size: expected at least {least} ({self.base_tokens} tokens for the bytes, and the special "
                f"tokens), got {self.vocab_size}"
            )

    def _check_unread(self) -> None:
        defaults = type(self)()
        names = [field.name for field in fields(type(self)) if field.name not in _OF_A_FILE]
        unread = [name for name in names if getattr(self, name) != getattr(defaults, name)]
        if unread:
            raise ValueError(
                f"expected no {', '.join(unread)} beside path: a loaded vocabulary is not trained"
            )

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens in the order of their ids."""
        specials = [self.eos_token, *self.special_tokens]
        padding = [] if self.pad_token is None or self.pad_token in specials else [self.pad_token]
        return specials + padding

    @property
    def added_tokens(self) -> list[tokenizers.AddedToken]:
        """The special tokens as the library takes them."""
        from tokenizers import AddedToken

        return [AddedToken(token, special=True, normalized=False) for token in self.all_special_tokens]

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the files to load are there, and that a chat template has its special tokens."""
        problems = []
        if self.path is not None and not (base / self.path).is_file():
            problems.append(f"path: there is no file {base / self.path}")
        if self.chat_template is not None:
            specials = self.all_special_tokens if self.path is None else None
            problems += template_problems(base / self.chat_template, specials)
        return [f"tokenizer.{problem}" for problem in problems]

    @hookimpl
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> FastTokenizer:
        """Load the run's tokenizer, else the given file, else train on the corpus."""
        if saved is not None:
            return self._load(saved / TOKENIZER_FILE, run)
        if self.path is not None:
            tokenizer = self._load(run.base / self.path, run)
        elif corpus is not None:
            tokenizer = self._trained(run, corpus)
        else:
            raise InputError(
                f"tokenizer {self.name} has nothing to train on: there is no corpus and no tokenizer of an earlier run",
                remedy="give tokenizer.path, the path of a tokenizer.json",
            )
        self._require_round_trip(tokenizer, corpus or ())
        if self.chat_template is not None:
            tokenizer.use_template(run.base / self.chat_template)
        return tokenizer

    def train(self, run: RunContext, texts: Iterator[list[str]]) -> tokenizers.Tokenizer:
        """Train a vocabulary on batches of texts, of which there is at least one; special tokens included."""
        raise NotImplementedError

    def _load(self, file: Path, run: RunContext) -> FastTokenizer:
        tokenizer = load_fast_tokenizer(
            file, self.eos_token, self._files(), pad_token=self.pad_token, report=run.report
        )
        found = type(tokenizer.backend.model).__name__
        if found != self.model:
            raise InputError(
                f"{file} is a vocabulary of {found}, and tokenizer {self.name} is one of {self.model}",
                remedy="name the tokenizer that the file is of; hf takes any, as the folder of a pretrained model",
            )
        return tokenizer

    def _files(self) -> dict[str, bytes]:
        return {CONFIG_FILE: companion_config(self.eos_token, pad_token=self.pad_token)}

    def _trained(self, run: RunContext, corpus: CorpusText) -> FastTokenizer:
        batches = _batches(run, corpus)
        first = next(batches, None)
        if first is None:
            raise InputError(
                f"tokenizer {self.name}: the corpus holds no text to train on",
                remedy="look at the dataset section",
            )
        backend = self.train(run, chain([first], batches))
        tokenizer = fast_tokenizer(
            backend,
            Path(TOKENIZER_FILE),
            self.eos_token,
            self._files(),
            pad_token=self.pad_token,
            trained=True,
            report=run.report,
        )
        if tokenizer.vocab_size < self.vocab_size:
            run.report.warning(
                f"tokenizer {self.name}: the corpus yields {tokenizer.vocab_size} tokens, fewer than vocab_size "
                f"{self.vocab_size}; the vocabulary has {tokenizer.vocab_size}"
            )
        return tokenizer

    def _require_round_trip(self, tokenizer: FastTokenizer, corpus: CorpusText) -> None:
        """Raise InputError where a probe or a sample of the corpus does not come back as it was."""
        loss = first_loss(tokenizer, corpus)
        if loss is None:
            return
        if self.path is None:
            remedy = "spell special tokens as no text does, such as <|name|>"
        else:
            remedy = "use a byte-level vocabulary without normaliser; leave tokenizer.path out to train one"
        raise InputError(f"the tokenizer loses text: {loss}", remedy=remedy)


def learn(backend: tokenizers.Tokenizer, texts: Iterator[list[str]], trainer: Any, report: Reporter) -> None:
    """Let the library learn a vocabulary, which takes minutes and looks for no signal; Ctrl-C ends it."""

    def waiting(seconds: float) -> None:
        report.activity(_LEARNING, int(seconds), None, "s")

    interruptible(lambda given: backend.train_from_iterator(given, trainer=trainer), texts, waiting)
    report.activity(_LEARNING, 1, 1)


def _batches(run: RunContext, corpus: CorpusText) -> Iterator[list[str]]:
    """Give the texts that are not empty, some at a time, and report how many were read."""
    total = len(corpus) if isinstance(corpus, Sized) else None
    batch: list[str] = []
    count = characters = 0
    run.report.activity("train tokenizer", 0, total, "documents")
    for text in corpus:
        count += 1
        if not text:
            continue
        batch.append(text)
        characters += len(text)
        if len(batch) >= _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            run.report.activity("train tokenizer", count, total, "documents")
            batch, characters = [], 0
    if batch:
        yield batch
    run.report.activity("train tokenizer", count, count, "documents")
