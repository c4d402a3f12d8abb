"""Each probe finds the one fault it is for, in a model or in data that have exactly that fault."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_model import HeadedToy, ToyTransformer
from training import options, training

from codex_kernel import IGNORE_INDEX, Batch, InputError, PluginError, Probes
from codex_kernel.testing.training import VOCABULARY, ToyData, ToyTokenizer
from codex_torch import probe_data
from codex_torch.plugin import LoopTrainer

EOS = ToyTokenizer().eos_id
NAMES = [
    "targets",
    "end-of-text",
    "vocabulary",
    "loss",
    "evaluation",
    "causality",
    "packing",
    "padding",
    "accumulation",
    "gradients",
    "checkpoint",
]


@frozen(eq=False)
class Documents:
    """Blocks of documents that end with the end-of-text token; what they hold can be spoilt."""

    count: int = 20
    seq_len: int = 24
    documents: int = 3
    trains_eos: bool = True
    has_eos: bool = True
    empty: frozenset[int] = frozenset()
    """Blocks without a target."""
    highest: int = EOS - 1
    restarts_positions: bool = True
    ragged: bool = True
    """Documents are of different lengths, so that there is padding."""
    rows: list[Batch] = field(init=False)

    def __attrs_post_init__(self) -> None:
        chance = random.Random(5)
        object.__setattr__(self, "rows", [self._row(chance, number) for number in range(self.count)])

    @property
    def target_tokens(self) -> int:
        return sum(int((row.targets_BT != IGNORE_INDEX).sum()) for row in self.rows)

    def __len__(self) -> int:
        return self.count

    def text_bytes(self, sample_ids_B: Any) -> float:
        return 2.0 * int((self.gather(sample_ids_B).targets_BT != IGNORE_INDEX).sum())

    def gather(self, sample_ids_B: Any) -> Batch:
        names = ("input_ids_BT", "targets_BT", "position_ids_BT", "document_ids_BT", "sample_ids_B")
        rows = [self.rows[int(number)] for number in sample_ids_B]
        return Batch(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in names})

    def _row(self, chance: random.Random, number: int) -> Batch:
        length = self.seq_len // self.documents
        ids, targets, positions, documents = [], [], [], []
        for document in range(self.documents):
            tokens = [
                chance.randrange(self.highest) for _ in range(length - chance.randrange(1 + self.ragged))
            ]
            if number == 3:
                tokens[0] = self.highest
            tokens = [*tokens[:-1], EOS] if self.has_eos else tokens
            ids += tokens
            last = EOS if self.trains_eos else IGNORE_INDEX
            targets += [last if token == EOS else token for token in tokens[1:]] + [IGNORE_INDEX]
            start = 0 if self.restarts_positions else len(positions)
            positions += range(start, start + len(tokens))
            documents += [document] * len(tokens)
        rest = self.seq_len - len(ids)
        ids += [0] * rest
        positions += [0] * rest
        targets += [IGNORE_INDEX] * rest
        documents += [-1] * rest
        if number in self.empty:  # a prompt that fills it
            ids, targets = [1] * self.seq_len, [IGNORE_INDEX] * self.seq_len
            positions, documents = list(range(self.seq_len)), [0] * self.seq_len
        columns = ([ids], [targets], [positions], [documents], [number])
        return Batch(*(np.array(column, dtype=np.int64) for column in columns))


def data(**spoilt: Any) -> ToyData:
    """Toy data in that order, from such documents."""
    return ToyData(train=Documents(**spoilt), validation=None)  # type: ignore[arg-type]


def toy(cls: type[nn.Module] = ToyTransformer, **changes: Any) -> nn.Module:
    """A model whose weights follow from a seed."""
    torch.manual_seed(3)
    return cls(**changes)


def probed(folder: Path, module: nn.Module | None = None, blocks: ToyData | None = None, **changes: Any):
    """What the probes of a run say, by name."""
    run = training(folder, toy() if module is None else module, blocks or data(), **changes)
    return {found.name: found for found in run.trainer.probe()}


def verdicts(found: dict[str, Any]) -> dict[str, bool | None]:
    """Name → passed, of those that did not pass."""
    return {name: one.passed for name, one in found.items() if one.passed is not True}


# ── what is right ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cls", [ToyTransformer, HeadedToy])
def test_a_healthy_model_passes_all(tmp_path, cls):
    """Each probe says yes, with what it measured."""
    found = probed(tmp_path, toy(cls))
    assert list(found) == NAMES
    assert verdicts(found) == {}
    assert "all 20 blocks read" in found["end-of-text"].detail
    assert "60 ends of documents" in found["end-of-text"].detail
    assert "3 documents of a packed block" in found["packing"].detail
    assert "at most 1e-04 is allowed" in found["accumulation"].detail


def test_a_large_vocabulary_goes_the_way_of_the_loop(tmp_path):
    """With a vocabulary for which the loss is taken by chunks, all pass as well."""
    found = probed(tmp_path, toy(HeadedToy, vocabulary=1500), data(seq_len=160), micro_batch_size=4)
    assert verdicts(found) == {}


def test_half_precision_weights_are_compared_in_full(tmp_path):
    """A model in bf16 is lifted to fp32 on its copy, and keeps its own type."""
    module = toy().to(torch.bfloat16)
    assert verdicts(probed(tmp_path, module)) == {}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_probing_leaves_no_trace(tmp_path):
    """Weights, modes, gradients, generators, threads and records are as before, while it goes on and after it."""
    module = toy()
    module.layers[0].eval()
    module.layers[1].requires_grad_(requires_grad=False)
    run = training(tmp_path, module, data(), threads=torch.get_num_threads() + 1)
    assert isinstance(run.trainer, Probes)

    def state():
        named = [*module.named_parameters(), *module.named_buffers()]
        return (
            {name: tensor.detach().clone() for name, tensor in named},
            [(tensor.requires_grad, tensor.grad, tensor.data_ptr()) for _, tensor in named],
            [part.training for part in module.modules()],
            (torch.get_num_threads(), torch.is_grad_enabled(), random.getstate()),
            (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()),  # noqa: NPY002 - models may draw from it
            (list(run.records), list(run.run.report.events), list(run.run.report.warnings)),
            sorted(path.name for path in run.run.folder.rglob("*")),
        )

    def same(one, other):
        assert one[0].keys() == other[0].keys()
        assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
        assert one[1:] == other[1:]

    before = state()
    for _ in run.trainer.probe():
        same(state(), before)
    same(state(), before)


def test_the_same_is_found_twice(tmp_path):
    """What the probes say follows from the run's seed."""
    assert probed(tmp_path / "one") == probed(tmp_path / "two")


# ── what is wrong with the data ───────────────────────────────────────────────────────────────────────────────────


def test_a_masked_end_of_text_is_found(tmp_path):
    """Where the end-of-text token is read and never a target, that is said with the counts."""
    found = probed(tmp_path, blocks=data(trains_eos=False))
    assert verdicts(found) == {"end-of-text": False}
    assert f"token {EOS} is a target at 0 of 60 ends" in found["end-of-text"].detail


def test_documents_that_never_end_are_found(tmp_path):
    """Where documents end without the token, the model would never learn to stop."""
    found = probed(tmp_path, blocks=data(has_eos=False))
    assert verdicts(found) == {"end-of-text": False}
    assert "documents end without the end-of-text token" in found["end-of-text"].detail


def test_blocks_in_which_nothing_ends_are_no_fault(tmp_path):
    """Documents longer than any block that was read tell nothing."""
    found = probed(tmp_path, blocks=data(has_eos=False, documents=1, seq_len=8, ragged=False))
    assert found["end-of-text"].passed is None


def test_a_step_without_a_target_is_found(tmp_path):
    """Such a step ends the run, so it is an error before the run."""
    blocks = data()
    second = frozenset(int(number) for number in blocks.samples(4, 4))
    found = probed(tmp_path, blocks=data(empty=second), max_steps=5)
    assert verdicts(found) == {"targets": False}
    assert "optimizer step 2 has no target" in found["targets"].detail
    assert "4 of 20 blocks (20.0%)" in found["targets"].detail


def test_a_few_blocks_without_a_target_are_a_note(tmp_path):
    """Their share and their numbers are said; many of them are an error."""
    few = probed(tmp_path / "few", blocks=data(empty=frozenset({7, 8})))["targets"]
    assert few.passed is True
    assert "2 of 20 blocks (10.0%) train nothing: samples " in few.detail
    assert {"7", "8"} <= set(few.detail.replace(",", "").replace(";", "").split())
    many = probed(tmp_path / "many", blocks=data(empty=frozenset({7, 8, 9})))["targets"]
    assert many.passed is False
    assert "at most 10%" in many.detail


def test_blocks_that_the_run_never_comes_to_do_not_count(tmp_path):
    """Two steps of four blocks read eight."""
    found = probed(tmp_path, max_steps=2)
    assert "all 8 blocks" in found["targets"].detail


def test_a_vocabulary_that_is_too_small_is_found(tmp_path):
    """A token id without a row in the model is named, and the model is not fed with it."""
    found = probed(tmp_path, toy(vocabulary=20))
    assert verdicts(found) == {"vocabulary": False} | dict.fromkeys(NAMES[3:])
    assert f"the highest token id is {EOS}" in found["vocabulary"].detail
    assert "but the model has 20 rows" in found["vocabulary"].detail
    assert found["gradients"].detail == "not run, since vocabulary failed"


def test_an_embedding_smaller_than_the_head_is_found(tmp_path):
    """The rows that count are those of the embedding that reads the ids, not those of any other."""
    module = toy(vocabulary=40)
    module.embed = nn.Embedding(25, 16)
    module.positions = nn.Embedding(64, 16)
    assert "but the model has 25 rows" in probed(tmp_path, module)["vocabulary"].detail


def test_a_tokenizer_with_more_ids_than_rows_is_found(tmp_path):
    """Also where no block holds such an id: a text to come may."""
    run = training(tmp_path, toy(), data())
    parts = evolve(run.parts, tokenizer=ToyTokenizer(vocab_size=VOCABULARY + 8))
    found = {one.name: one for one in LoopTrainer(options(), run.run, parts).probe()}
    assert found["vocabulary"].passed is False
    assert "the tokenizer has 40 ids" in found["vocabulary"].detail


def test_data_of_another_tokenizer_is_found(tmp_path):
    """An id that the tokenizer does not know cannot have come from it."""
    found = probed(tmp_path, toy(vocabulary=99), data(highest=VOCABULARY + 5))
    assert verdicts(found)["vocabulary"] is False
    assert "encoded by another one" in found["vocabulary"].detail


def test_positions_that_do_not_restart_are_found(tmp_path):
    """A packed document whose positions go on gets other logits than alone."""
    assert verdicts(probed(tmp_path, blocks=data(restarts_positions=False))) == {"packing": False}


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4
    )
)
def test_ends_of_documents_are_counted_as_one_would_by_hand(layout):
    """Whatever lies in the blocks, the counts are those of a walk over their documents."""
    seq_len, expected, rows = 12, [0, 0, 0], []
    for pieces in layout:
        ids, documents = [], []
        for number, (length, closed) in enumerate(pieces):
            fits = [1] * length + [EOS] * closed
            ids, documents = ids + fits, documents + [number] * len(fits)
        ids, documents = ids[:seq_len], documents[:seq_len]
        if len(ids) < seq_len:
            ids += [0] * (seq_len - len(ids))
            documents += [-1] * (seq_len - len(documents))
        for number in set(documents) - {-1}:
            places = [place for place in range(seq_len) if documents[place] == number]
            if len(places) > 1:
                closed = ids[places[-1]] == EOS
                expected[0] += closed
                expected[1] += closed and number % 2 == 0
                expected[2] += not closed and places[-1] < seq_len - 1
        masked = [
            IGNORE_INDEX if document % 2 or document < 0 else following
            for document, following in zip(documents, [*ids[1:], 0], strict=True)
        ]
        rows.append((ids, masked, documents))
    columns = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    ids_BT, targets_BT, documents_BT = columns
    batch = Batch(ids_BT, targets_BT, documents_BT * 0, documents_BT, np.arange(len(rows)))
    assert probe_data._ends(batch, EOS).tolist() == expected


def test_reading_ends_in_time(monkeypatch):
    """A large split is read for so long only, and how much is said."""
    now = iter(range(100))
    monkeypatch.setattr(probe_data, "clock", lambda: next(now))
    monkeypatch.setattr(probe_data, "_CHUNK_TOKENS", 24 * 2)
    found = probe_data.scan(data(), 20, 4, EOS, seconds=2.5)
    assert found.looked_at == "6 of 20 blocks"
    assert len(found.has_target_N) == 6


# ── what is wrong with the model ──────────────────────────────────────────────────────────────────────────────────


class AcrossDocuments(ToyTransformer):
    """Sees the documents before its own."""

    def _hidden(self, input_ids_BT, position_ids_BT, document_ids_BT):
        return super()._hidden(input_ids_BT, position_ids_BT, document_ids_BT.clamp(max=0))


class LooksAhead(ToyTransformer):
    """Sees the next token of its document."""

    def _hidden(self, input_ids_BT, position_ids_BT, document_ids_BT):
        hidden_BTD = super()._hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        same_BT1 = (document_ids_BT == document_ids_BT.roll(-1, dims=1))[..., None]
        same_BT1 = same_BT1 & (position_ids_BT < position_ids_BT.roll(-1, dims=1))[..., None]
        return hidden_BTD + torch.where(same_BT1, self.embed(input_ids_BT).roll(-1, dims=1), 0.0)


class SeesPadding(ToyTransformer):
    """Adds what stands in the padding to each token of the row."""

    def _hidden(self, input_ids_BT, position_ids_BT, document_ids_BT):
        hidden_BTD = super()._hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        padding_BT1 = (document_ids_BT < 0)[..., None]
        return hidden_BTD + (self.embed(input_ids_BT) * padding_BT1).sum(dim=1, keepdim=True)


class CountsTokens(ToyTransformer):
    """Divides by the length of the row, padding included, and so by what is no token."""

    def _hidden(self, input_ids_BT, position_ids_BT, document_ids_BT):
        hidden_BTD = super()._hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        return hidden_BTD * (1 + (document_ids_BT < 0).sum(dim=1)[:, None, None])


class BatchStatistics(ToyTransformer):
    """Normalises over the batch while it trains."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.batch = nn.BatchNorm1d(16)

    def _hidden(self, *inputs):
        hidden_BTD = super()._hidden(*inputs)
        return self.batch(hidden_BTD.transpose(1, 2)).transpose(1, 2)


class BatchStatisticsAndDropout(BatchStatistics):
    """The same, with dropout that is no module."""

    def _hidden(self, *inputs):
        return nn.functional.dropout(super()._hidden(*inputs), 0.2, self.training)


class FunctionalDropout(ToyTransformer):
    """A healthy model whose dropout is no module."""

    def _hidden(self, *inputs):
        return nn.functional.dropout(super()._hidden(*inputs), 0.2, self.training)


class AlwaysDrops(ToyTransformer):
    """Draws at random in evaluation too."""

    def _hidden(self, *inputs):
        return nn.functional.dropout(super()._hidden(*inputs), 0.2, training=True)


class NotFinite(ToyTransformer):
    """Gives NaN."""

    def forward(self, *inputs):
        return super().forward(*inputs) * float("nan")


class CutOff(ToyTransformer):
    """Has a layer that the loss does not depend on."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.more = nn.Linear(16, 16)

    def _hidden(self, *inputs):
        hidden_BTD = super()._hidden(*inputs)
        return hidden_BTD + self.more(hidden_BTD).detach()


class Counting(ToyTransformer):
    """Changes a frozen parameter while it trains."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.count = nn.Parameter(torch.zeros(1), requires_grad=False)

    def _hidden(self, *inputs):
        if self.training:
            self.count.data += 1
        return super()._hidden(*inputs)


class Kept(ToyTransformer):
    """A model that says itself what is kept of it: the parameters that `keeps` allows."""

    weights_file = "kept.safetensors"

    def keeps(self, name):
        return True

    def weights(self):
        return {name: tensor.detach() for name, tensor in self.named_parameters() if self.keeps(name)}

    def load_weights(self, weights):
        own = self.weights()
        if own.keys() != weights.keys():
            raise ValueError("other names")
        for name, tensor in own.items():
            tensor.copy_(weights[name])

    def config_files(self):
        return {"config.json": b"{}"}


class Adapted(Kept):
    """A frozen model with an adapter that begins as nothing: only the adapter is trained and kept."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.requires_grad_(requires_grad=False)
        self.down = nn.Linear(16, 2, bias=False)
        self.up = nn.Linear(2, 16, bias=False)
        nn.init.zeros_(self.up.weight)

    def keeps(self, name):
        return name.startswith(("down", "up"))

    def _hidden(self, *inputs):
        hidden_BTD = super()._hidden(*inputs)
        return hidden_BTD + self.up(self.down(hidden_BTD))


class Forgetful(Kept):
    """Leaves a trained parameter out of what is kept."""

    def keeps(self, name):
        return name != "layers.1.out.weight"


class KeepsTwice(Kept):
    """Cannot load what it saved."""

    def load_weights(self, weights):
        raise ValueError("no place for it")


class ForgetsBuffers(Kept):
    """Keeps its parameters, and not the buffer that training changes."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.register_buffer("seen", torch.zeros(1))

    def _hidden(self, *inputs):
        if self.training:
            self.seen += 1
        return super()._hidden(*inputs) * (1 + self.seen)


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (LooksAhead, "causality", "a token sees later ones"),
        (AcrossDocuments, "packing", "cross from one to the next"),
        (SeesPadding, "padding", "padding is seen"),
        (CountsTokens, "padding", "padding is seen"),
        (BatchStatistics, "accumulation", "blocks see one another"),
        (BatchStatisticsAndDropout, "accumulation", "in evaluation mode"),
        (CutOff, "gradients", "2 tensors without a gradient in 3 passes: more.bias, more.weight"),
        (Counting, "gradients", "1 tensor frozen, but changed by a step: count"),
        (Forgetful, "checkpoint", "1 tensor of the trained ones not in what is saved: layers.1.out.weight"),
        (KeepsTwice, "checkpoint", "no place for it"),
        (ForgetsBuffers, "checkpoint", "something else that training changes is not kept"),
    ],
)
def test_a_fault_of_the_model_is_found(tmp_path, cls, name, words):
    """The probe for it fails and no other one does."""
    found = probed(tmp_path, toy(cls))
    assert verdicts(found) == {name: False}
    assert words in found[name].detail


@pytest.mark.parametrize("cls", [Kept, Adapted, FunctionalDropout])
def test_what_is_unusual_is_no_fault(tmp_path, cls):
    """A model with a format of its own, one with an adapter that begins as nothing, one whose dropout is a function."""
    assert verdicts(probed(tmp_path, toy(cls))) == {}


def test_a_model_that_draws_in_evaluation_is_found(tmp_path):
    """What would be compared by it then means nothing, and is not run; gradients and checkpoints still are."""
    found = probed(tmp_path, toy(AlwaysDrops))
    skipped = ("causality", "packing", "padding", "accumulation")
    assert verdicts(found) == {"evaluation": False} | dict.fromkeys(skipped)
    assert "of the logits, expected none" in found["evaluation"].detail


def test_a_loss_that_is_not_finite_is_found(tmp_path):
    """Nothing else is asked of such a model."""
    found = probed(tmp_path, toy(NotFinite))
    assert verdicts(found) == {"loss": False} | dict.fromkeys(NAMES[4:])
    assert "nan nats per token" in found["loss"].detail


def test_a_high_loss_is_a_note(tmp_path):
    """A model that is sure of the wrong tokens may be meant so."""
    module = toy()
    with torch.no_grad():
        module.embed.weight.mul_(100)
    found = probed(tmp_path, module)["loss"]
    assert found.passed is True
    assert "note: above 1.5 · ln V" in found.detail


def test_an_adapter_that_is_frozen_by_mistake_is_found(tmp_path):
    """It is kept in checkpoints as an adapter is, and would never be trained."""
    module = toy(Adapted)
    module.down.requires_grad_(requires_grad=False)
    found = probed(tmp_path, module)
    assert verdicts(found) == {"gradients": False}
    assert "1 tensor kept in checkpoints but frozen: down.weight" in found["gradients"].detail


def test_a_frozen_layer_of_a_whole_model_is_meant(tmp_path):
    """Where all of the model is kept, a frozen layer is nobody's mistake."""
    module = toy(Kept)
    module.layers[0].requires_grad_(requires_grad=False)
    assert verdicts(probed(tmp_path, module)) == {}


def test_a_step_of_one_block_accumulates_nothing(tmp_path):
    """The probe does not apply, and a model with batch statistics is as right as any."""
    found = probed(tmp_path, toy(BatchStatistics), global_batch_size=1, micro_batch_size=1)
    assert verdicts(found) == {"accumulation": None}


def test_long_blocks_are_packed_by_hand(tmp_path):
    """Where no block holds two documents, halves of one stand for them."""
    blocks = data(documents=1, seq_len=48)
    assert verdicts(probed(tmp_path / "right", blocks=blocks)) == {}
    found = probed(tmp_path / "wrong", toy(AcrossDocuments), blocks)
    assert verdicts(found) == {"packing": False}
    assert "two halves of a block" in found["packing"].detail


class NeedsAnOperation(ToyTransformer):
    """Needs an operation that has no deterministic algorithm."""

    def _hidden(self, *inputs):
        hidden_BTD = super()._hidden(*inputs)
        return hidden_BTD + torch.zeros(2).put_(torch.tensor([0]), torch.ones(1)).sum()


def test_what_determinism_rules_out_is_said_before_the_run(tmp_path):
    """The probes compute as the run will: under strict determinism such a model is an error, relaxed it passes."""
    with pytest.raises(InputError, match="no deterministic algorithm"):
        probed(tmp_path / "strict", toy(NeedsAnOperation), determinism="strict")
    assert not torch.are_deterministic_algorithms_enabled()
    assert verdicts(probed(tmp_path / "relaxed", toy(NeedsAnOperation), determinism="relaxed")) == {}


def test_a_model_that_cannot_be_trained_is_an_error(tmp_path):
    """No torch module, no weights, nothing to train: that is said before anything is probed."""
    with torch.device("meta"):
        shapes = ToyTransformer()
    frozen_model = copy.deepcopy(toy()).requires_grad_(requires_grad=False)
    for module, words in (
        (str, "torch.nn.Module"),
        (shapes, "without its weights"),
        (frozen_model, "requires a gradient"),
    ):
        run = training(tmp_path, module, data())
        with pytest.raises(PluginError, match=words):
            next(run.trainer.probe())
