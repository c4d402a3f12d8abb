"""What the loop computes is what the formulas say, whatever the batch is split into and whatever the model is.

The reference of every test is written out here in plain torch, in float64 where a sum is compared.
"""

import math
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn
from toy_model import HeadedToy
from training import losses, model, training, weights_of

from codex_hf.module import wrap
from codex_kernel import IGNORE_INDEX, EvaluateOptions
from codex_kernel.builtin.evaluation_metrics import BitsPerByte, Perplexity
from codex_kernel.testing.training import VOCABULARY, ToyBlocks, ToyData
from codex_torch.loss import MIN_CHUNKED_VOCABULARY, chunked
from codex_torch.plugin import LoopTrainer

TARGETLESS = 3
"""The number of the block without a target."""


class Ragged(ToyBlocks):
    """Blocks of unequal numbers of targets, one of them without any, as a long prompt is."""

    def gather(self, sample_ids_B):
        batch = ToyBlocks.gather(self, sample_ids_B)
        rows = (np.asarray(sample_ids_B) == TARGETLESS)[:, None]
        return attrs.evolve(batch, targets_BT=np.where(rows, IGNORE_INDEX, batch.targets_BT))


def ragged(count: int = 19, seq_len: int = 24, validation: int | None = None) -> ToyData:
    """Training blocks that eight does not divide: an epoch ends in a step of three."""
    return ToyData(
        Ragged(count, seq_len), None if validation is None else Ragged(validation, seq_len, seed=1)
    )


# ── three kinds of models ─────────────────────────────────────────────────────────────────────────────────────────


class Plain(nn.Module):
    """A plain module that takes its three arguments by any name, and has no other part of the protocols."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(VOCABULARY, 16), nn.Embedding(128, 16)
        self.mix = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, VOCABULARY))

    def forward(self, ids, positions, documents):
        return self.mix(self.embed(ids) + self.positions(positions))


def plain() -> nn.Module:
    """A model without attention and without any protocol but the call."""
    torch.manual_seed(0)
    return Plain()


def headed() -> nn.Module:
    """A model with a large vocabulary that can stop before its head."""
    torch.manual_seed(0)
    return HeadedToy(MIN_CHUNKED_VOCABULARY + 7, dropout=0.0)


def llama(**changes) -> nn.Module:
    """A Llama of transformers, as the model plugin of transformers gives it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**({"vocab_size": VOCABULARY, "max_position_embeddings": 256, **sizes} | changes))
    return wrap(LlamaForCausalLM(config), "a test")


def toy() -> nn.Module:
    """The toy transformer of the other tests, whose dropout would differ with every split."""
    return model(dropout=0.0)


MODELS = {"plain": plain, "toy": toy, "headed": headed, "llama": llama}
SEQ_LEN = {"headed": 150}
"""The loss of two of these blocks is taken by chunks, that of one is not: 300 and 150 tokens."""


def trained(tmp_path: Path, kind: str, micro_batch_size: int, **changes) -> dict[str, torch.Tensor]:
    """The weights after two epochs of nineteen ragged blocks: four steps of eight, the last and short one of six."""
    module = MODELS[kind]()
    run = training(
        tmp_path,
        module,
        ragged(seq_len=SEQ_LEN.get(kind, 24)),
        **({"epochs": 2, "global_batch_size": 8, "lr": 1e-3} | changes),
        micro_batch_size=micro_batch_size,
    )
    assert run.trainer.fit(None).progress.samples == 38
    return weights_of(module)


# ── any split of a step ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_any_split_of_ragged_steps_gives_the_same_weights(tmp_path, kind, micro_batch_size):
    """8×1, 4×2, 3+3+2 and 2×4 end five steps with the weights of 1×8 to 1e-6, though targets are spread unevenly."""
    whole = trained(tmp_path, kind, 8)
    split = trained(tmp_path, kind, micro_batch_size)
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, atol=1e-6, rtol=0)


def test_the_splits_of_the_headed_model_take_both_ways_to_the_loss():
    """What is compared above is the loss by chunks with the loss by all logits."""
    assert chunked(headed(), 2 * SEQ_LEN["headed"])
    assert not chunked(headed(), SEQ_LEN["headed"])


def test_the_splits_would_differ_if_each_micro_batch_had_a_mean_of_its_own():
    """The blocks are ragged enough: a mean of means of their losses is far from the mean over all targets."""
    batch = ragged().train.gather(range(8))
    module = toy()
    sums, counts = zip(*(nll_of(module, batch, [row]) for row in range(8)), strict=True)
    assert 0 in counts
    mean_of_means = np.mean([total / count for total, count in zip(sums, counts, strict=True) if count])
    assert abs(mean_of_means - sum(sums) / sum(counts)) > 1e-3


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_split_gives_the_same_bits(tmp_path, kind, micro_batch_size):
    """Trained twice with one split, every bit of the weights is equal; that is so for no two different splits."""
    first, second = (trained(tmp_path, kind, micro_batch_size) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_micro_batch_size_is_the_default_one_to_the_bit(tmp_path):
    """`micro_batch_size: null` is eight blocks at once where a step has eight."""
    given, default = (trained(tmp_path, "toy", size) for size in (8, None))
    assert all(torch.equal(given[name], default[name]) for name in given)


def test_the_last_split_may_be_larger_than_a_short_step(tmp_path):
    """A step of six blocks by eight at once is taken at once: the bits are those of six at once in a run of its own."""
    data = ToyData(Ragged(6, 24), None)
    weights = []
    for size, micro in ((8, 8), (6, 6)):
        module = toy()
        training(
            tmp_path, module, data, epochs=1, global_batch_size=size, micro_batch_size=micro
        ).trainer.fit(None)
        weights.append(weights_of(module))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# ── the loss ──────────────────────────────────────────────────────────────────────────────────────────────────────


def nll_of(module: nn.Module, batch, rows) -> tuple[float, int]:
    """The summed negative log likelihood of the targets of some blocks, in float64, and how many targets they are."""
    inputs = [
        torch.from_numpy(array[rows])
        for array in (batch.input_ids_BT, batch.position_ids_BT, batch.document_ids_BT)
    ]
    targets_BT = torch.from_numpy(batch.targets_BT[rows])
    module.eval()
    with torch.no_grad():
        log_p_BTV = F.log_softmax(module(*inputs).double(), dim=-1)
    kept = targets_BT != IGNORE_INDEX
    return -float(log_p_BTV[kept].gather(1, targets_BT[kept][:, None]).sum()), int(kept.sum())


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_the_first_loss_is_the_mean_over_all_targets(tmp_path, kind, micro_batch_size):
    """The loss in the metrics is the summed log likelihood of all targets over their number, computed by hand."""
    data = ragged(seq_len=SEQ_LEN.get(kind, 24))
    total, count = nll_of(MODELS[kind](), data.train.gather(data.samples(0, 8)), range(8))
    run = training(
        tmp_path,
        MODELS[kind](),
        data,
        max_steps=1,
        global_batch_size=8,
        micro_batch_size=micro_batch_size,
    )
    assert run.trainer.fit(None).progress.tokens == count
    assert losses(run) == [pytest.approx(total / count, rel=1e-6)]


def evaluated(tmp_path: Path, micro_batch_size: int, data: ToyData, **changes):
    """The validation metrics of the trained model by the kernel's own metric plugins, and the model."""
    module = toy()
    run = training(
        tmp_path, module, data, max_steps=3, micro_batch_size=micro_batch_size, global_batch_size=8, **changes
    )

    def metrics(evaluation):
        loss = {"loss": evaluation.loss_sum / evaluation.tokens}
        return loss | Perplexity().codex_metric(evaluation) | BitsPerByte().codex_metric(evaluation)

    parts = attrs.evolve(run.parts, evaluation_metrics=metrics)
    result = LoopTrainer(run.trainer.options, run.run, parts).fit(None)
    return {name.removeprefix("validation/"): value for name, value in result.metrics.items()}, module


def test_perplexity_is_the_exponential_of_the_loss(tmp_path):
    """Perplexity, loss and bits per byte of an evaluation are those of the log likelihood computed by hand."""
    data = ragged(validation=7)
    metrics, module = evaluated(tmp_path, 3, data)
    total, count = nll_of(module, data.validation.gather(range(7)), range(7))
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert metrics["perplexity"] == math.exp(metrics["loss"])
    size = data.validation.text_bytes(range(7))
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-6)


def test_an_evaluation_does_not_depend_on_how_it_is_split(tmp_path):
    """Blocks with many, few and no targets weigh by their targets, however many go through the model at once."""
    data = ragged(validation=7)
    frozen = {"lr": 1e-12, "weight_decay": 0.0}  # the same weights in all of them
    found = [evaluated(tmp_path, size, data, **frozen)[0]["loss"] for size in (1, 2, 3, 8)]
    assert found == [pytest.approx(found[0], rel=1e-6)] * 4


def test_max_blocks_evaluates_the_first_ones(tmp_path):
    """With `max_blocks` the loss is that of the first blocks alone, by hand."""
    data = ragged(validation=7)
    metrics, module = evaluated(tmp_path, 2, data, evaluate=EvaluateOptions(max_blocks=3))
    total, count = nll_of(module, data.validation.gather(range(3)), range(3))
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-6)


# ── the steps ─────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(module: nn.Module, data: ToyData, steps: int, warmup: int, lr: float) -> list[float]:
    """Train as one would write it down: mean loss, gradient clipped to 1, AdamW on matrices and vectors, cosine."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    found = []
    for step in range(1, steps + 1):
        batch = data.train.gather(data.samples(8 * (step - 1), 8))
        inputs = (batch.input_ids_BT, batch.position_ids_BT, batch.document_ids_BT)
        logits_BTV = module(*map(torch.from_numpy, inputs))
        loss = F.cross_entropy(
            logits_BTV.flatten(0, 1), torch.from_numpy(batch.targets_BT).flatten(), ignore_index=-100
        )
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        passed = (step - warmup) / (steps - warmup)
        factor = step / warmup if step <= warmup else 0.1 + 0.9 * (1 + math.cos(math.pi * passed)) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr * factor
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("micro_batch_size", [2, 3, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_twenty_steps_are_those_of_a_loop_written_by_hand(tmp_path, kind, micro_batch_size):
    """AdamW, clipping, warm-up and cosine with torch's own parts: the losses agree to 1e-6, the weights to 1e-5."""
    data, lr = ragged(40, seq_len=SEQ_LEN.get(kind, 24)), 3e-3
    reference, module = MODELS[kind](), MODELS[kind]()
    expected = by_hand(reference, data, 20, warmup=4, lr=lr)
    run = training(
        tmp_path,
        module,
        data,
        max_steps=20,
        warmup_steps=4,
        schedule="cosine",
        lr=lr,
        global_batch_size=8,
        micro_batch_size=micro_batch_size,
    )
    run.trainer.fit(None)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(losses(run), expected, rtol=1e-6, atol=1e-6)
    theirs = weights_of(reference)
    for name, weight in weights_of(module).items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-5, rtol=0)


def test_a_llama_overfits_one_batch_by_accumulation(tmp_path):
    """Eight ragged blocks, one at a time, are learnt by heart: a loss below 0.05."""
    run = training(
        tmp_path,
        llama(),
        ToyData(Ragged(8), None),
        max_steps=60,
        global_batch_size=8,
        micro_batch_size=1,
        schedule="constant",
        weight_decay=0.0,
    )
    run.trainer.fit(None)
    assert losses(run)[-1] < 0.05


def test_the_seed_decides_the_bits(tmp_path):
    """With dropout, one seed gives the same weights to the bit, whatever was drawn before, and another one others."""
    weights = []
    for seed in (17, 17, 18):
        module = model(dropout=0.1)
        run = training(tmp_path, module)
        torch.rand(len(weights) + 1)
        np.random.rand(len(weights) + 1)  # noqa: NPY002 - the generator that models draw from
        LoopTrainer(run.trainer.options, attrs.evolve(run.run, seed=seed), run.parts).fit(None)
        weights.append(weights_of(module))
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
