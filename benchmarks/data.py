"""What the data costs: encoding, training a vocabulary, packing, reading back, going on, and memory.

    python benchmarks/data.py [encode] [train] [pack] [read] [resume] [memory] [--rounds 3] [--json]
                              [--corpus-mb 320] [--limit-mb 200]

One rule: the ways of doing a thing take turns in one process (or in processes of their own, in turns), and only the
ratio within a round counts: a busy machine changes the times.

`encode`: documents to int64 arrays of ids, by the kernel's encoder over `hf-bpe`, by the call of transformers'
tokenizer and by the tokenizers library's `encode_batch_fast`, all with one vocabulary; the ids must be equal.
`train`: a vocabulary by `hf-bpe` (its round-trip gate included) and by the library's own trainer; they must be equal.
`pack`: share of the slots of all blocks that hold tokens, on single functions, by `data.packing`, and for batches
that are padded to their longest sequence, as most loops do.
`read`: shuffled batches of 32 blocks of 256 tokens a second (of CPU time, for one thread does it), and the same rows
gathered out of a bare memory map.
`resume`: seconds from the start of `codex resume` until the first batch is there, at step 10 and at step 1,000,000.
`memory`: `codex data build` on a corpus larger than the memory that the process may have (RLIMIT_DATA: what it
allocates; files that it maps belong to the system's cache).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict
from data_commands import memory, resume
from source_code import VOCAB_SIZE, documents, functions, texts_of, vocabulary
from turns import Row, in_turns, ratio, shown

from codex_kernel import Document
from codex_kernel.data import order
from codex_kernel.data.build import build
from codex_kernel.data.corpus import Corpus
from codex_kernel.data.encode import Encoder
from codex_kernel.data.options import DataOptions
from codex_kernel.data.store import TokenData
from codex_kernel.testing import make_run

BATCH, SEQ_LEN = 32, 256


def child(case: str, *arguments: object, threads: int = 1, **how: Any) -> Any:
    """Run a case in a process of its own, whose libraries have that many threads, and return what it printed."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, __file__, "--child", case, *map(str, arguments)],
        env={**os.environ, **count, "TOKENIZERS_PARALLELISM": "true"},
        capture_output=True,
        text=True,
        check=False,
        **how,
    )
    if done.returncode:
        raise SystemExit(f"{case} {arguments}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


# ── encode, train ─────────────────────────────────────────────────────────────────────────────────────────────────


def encode(arguments: argparse.Namespace) -> Iterator[Row]:
    """Compare three ways from texts to arrays of ids, with one and with two threads."""
    with tempfile.TemporaryDirectory() as name:
        trained = Path(name, "tokenizer")
        trained.mkdir()
        vocabulary(Path(name), texts_of(4)).save(trained)
        for threads in (1, 2):
            found = child("encode", trained, arguments.rounds, threads=threads)
            for way, seconds in found["seconds"].items():
                ours = way == "codex"
                yield Row(
                    "encode",
                    f"{way}, {threads} thread{'s' if threads > 1 else ''}",
                    found["bytes"] / 1e6 / statistics.median(seconds),
                    "MB/s",
                    ratio(seconds, found["seconds"]["transformers call"]),
                    "transformers call",
                    ">= 3" if ours else "",
                )


def encode_child(trained: str, rounds: str) -> dict[str, Any]:
    """Encode in turns, and compare the ids."""
    from transformers import PreTrainedTokenizerFast

    from codex_hf.tokenizer_file import load_fast_tokenizer

    texts = texts_of(4)
    ours = load_fast_tokenizer(Path(trained, "tokenizer.json"), "<|endoftext|>")
    library = load_fast_tokenizer(Path(trained, "tokenizer.json"), "<|endoftext|>").backend
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(Path(trained, "tokenizer.json")))
    encoder = Encoder(ours, DataOptions(), 0)
    given = [Document(str(number), str(number), text) for number, text in enumerate(texts)]
    ways = {
        "codex": lambda: [encoded.ids for encoded in encoder.encode(given)],
        "transformers call": lambda: [
            np.asarray(ids, np.int64) for ids in theirs(texts, add_special_tokens=False)["input_ids"]
        ],
        "encode_batch_fast": lambda: [
            np.asarray(encoding.ids, np.int64)
            for encoding in library.encode_batch_fast(texts, add_special_tokens=False)
        ],
    }
    mine, reference = ways["codex"](), ways["encode_batch_fast"]()
    for number, (one, other) in enumerate(zip(mine, reference, strict=True)):
        if not np.array_equal(one[:-1], other):  # the kernel has put an end-of-text behind
            raise SystemExit(f"the ids of document {number} differ")
    return {"bytes": sum(len(text.encode()) for text in texts), "seconds": in_turns(ways, int(rounds))}


def train(arguments: argparse.Namespace) -> Iterator[Row]:
    """Compare the plugin's training with the library's own."""
    for threads in (1, 2):
        found = child("train", arguments.rounds, threads=threads)
        for way, seconds in found["seconds"].items():
            yield Row(
                "train",
                f"{way}, {threads} thread{'s' if threads > 1 else ''}",
                statistics.median(seconds),
                "s",
                ratio(seconds, found["seconds"]["tokenizers trainer"]),
                "tokenizers trainer",
                ">= 0.9" if way == "hf-bpe" else "",
            )


def train_child(rounds: str) -> dict[str, Any]:
    """Train in turns, and compare the vocabularies."""
    import tokenizers
    from tokenizers import trainers

    texts = texts_of(4)
    with tempfile.TemporaryDirectory() as name:
        mine = vocabulary(Path(name), texts)

        def library() -> Any:
            fresh = tokenizers.Tokenizer(tokenizers.models.BPE())
            fresh.pre_tokenizer, fresh.decoder = mine.backend.pre_tokenizer, mine.backend.decoder
            trainer = trainers.BpeTrainer(
                vocab_size=VOCAB_SIZE,
                min_frequency=2,
                special_tokens=["<|endoftext|>"],
                initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
            fresh.train_from_iterator(texts, trainer=trainer)
            return fresh

        if library().get_vocab() != mine.backend.get_vocab():
            raise SystemExit("the two vocabularies differ")
        ways = {"hf-bpe": lambda: vocabulary(Path(name), texts), "tokenizers trainer": library}
        return {"seconds": in_turns(ways, int(rounds))}


# ── pack, read ────────────────────────────────────────────────────────────────────────────────────────────────────


def tokens_of(given: list[Document], tokenizer: Any, folder: Path, **options: Any) -> TokenData:
    """Build a token store of documents, as a run does."""
    run = make_run(folder)
    corpus = Corpus.of(
        given,
        DataOptions(validation_fraction=0, **options),
        seed=run.seed,
        make_steps=list,
        cache=run.cache,
        report=run.report,
    )
    return build(corpus, tokenizer, tokenizer_fingerprint="benchmark")


def pack(_: argparse.Namespace) -> Iterator[Row]:
    """Compare ways of filling blocks with functions."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = vocabulary(Path(name), texts_of(4))
        given = functions()
        encoder = Encoder(tokenizer, DataOptions(), 0)
        lengths = np.array([len(encoded.ids) for encoded in encoder.encode(given)])
        for batch, seq_len in ((8, 256), (8, 1024), (32, 2048)):
            for packing in ("whole", "stream", "none"):
                data = tokens_of(given, tokenizer, Path(name), seq_len=seq_len, packing=packing)
                split = data.report["splits"]["train"]
                if split["tokens_dropped"] or split["documents_truncated"] or split["documents_dropped"]:
                    raise SystemExit(f"{packing}: tokens were lost: {split}")
                filled = split["tokens"] / (split["blocks"] * seq_len)
                target = ">= 0.98" if packing == "whole" else ""
                yield Row("pack", f"packing={packing}, {seq_len}", filled, "filled", target=target)
            for what, share in padded(lengths, batch, seq_len).items():
                yield Row("pack", f"padded to the longest, {batch} x {seq_len}: {what}", share, "share")


def padded(lengths_N: Any, batch: int, cap: int) -> dict[str, float]:
    """Return how full shuffled batches are that are padded to their longest sequence, and what a cap cuts off."""
    shuffled = np.random.default_rng(0).permutation(lengths_N)
    kept = np.minimum(shuffled[: len(shuffled) // batch * batch].reshape(-1, batch), cap)
    filled = kept.sum() / (kept.max(axis=1).sum() * batch)
    return {"filled": float(filled), "cut off": float(1 - np.minimum(lengths_N, cap).sum() / lengths_N.sum())}


def read(arguments: argparse.Namespace) -> Iterator[Row]:
    """Gather shuffled batches, as codex does and out of a bare memory map."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = vocabulary(Path(name), texts_of(4))
        for what, given in (("files", documents()), ("functions", functions())):
            data = tokens_of(given, tokenizer, Path(name), seq_len=SEQ_LEN, packing="stream")
            blocks = data.train
            (stream,) = Path(name, "cache", "tokens", data.report["key"]).glob("train.tokens")
            tokens = np.memmap(stream, "<u2", "r")
            rows = np.lib.stride_tricks.as_strided(
                tokens, (len(blocks), SEQ_LEN + 1), (2 * SEQ_LEN, 2), writeable=False
            )
            ids = order.samples(0, BATCH * 4000, n=len(blocks), seed=0).reshape(-1, BATCH)

            def bare(rows: Any = rows, ids: Any = ids) -> None:
                for batch in ids:
                    window = rows[batch]
                    window[:, :-1].astype(np.int64)
                    window[:, 1:].astype(np.int64)

            def gathered(blocks: Any = blocks, ids: Any = ids) -> None:
                for batch in ids:
                    blocks.gather(batch)

            def ordered(data: TokenData = data, steps: int = len(ids)) -> None:
                for step in range(steps):
                    data.train.gather(data.samples(step * BATCH, BATCH))

            ways = {"gather": gathered, "order and gather": ordered, "bare memory map": bare}
            seconds = in_turns(ways, arguments.rounds, time.thread_time)
            for way in ways:
                yield Row(
                    "read",
                    f"{way}, {what}, {len(blocks):,} blocks",
                    len(ids) / statistics.median(seconds[way]),
                    "batches/s",
                    ratio(seconds[way], seconds["bare memory map"]),
                    "bare memory map",
                    ">= 20,000" if way == "order and gather" else "",
                )


# ── all ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CASES = {"encode": encode, "train": train, "pack": pack, "read": read, "resume": resume, "memory": memory}
CHILDREN = {"encode": encode_child, "train": train_child}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--corpus-mb", type=int, default=320)
    parser.add_argument("--limit-mb", type=int, default=200)
    parser.add_argument("--tokenizer", choices=["bytes", "hf-bpe"], action="append", help="of `memory`")
    parser.add_argument("--folder", type=Path, help="where the large corpus is written")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child[0]](*arguments.child[1:])))
        return
    rows = []
    for case in arguments.cases or CASES:
        for row in CASES[case](arguments):
            rows.append(row)
            print(shown(row), file=sys.stderr if arguments.json else sys.stdout, flush=True)
    load = os.getloadavg()[0]
    if arguments.json:
        print(json.dumps({"load": load, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(f"load {load:.1f}")


if __name__ == "__main__":
    main()
