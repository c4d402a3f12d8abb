"""The contract of model and adapter plugins: what a trainer relies on, as tests.

    class TestMine(ModelContract):
        def make(self, folder):
            return [MyModel(layers=2)]

One rule: it knows the hook and the protocols only. It needs pytest and torch, which it imports by name: the kernel
itself works without.

Shapes: B blocks of a batch, T tokens of a block, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_kernel.interfaces import HiddenStates, PretrainedFormat
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.plugin import SpawnedContract
from codex_kernel.testing.toys import make_run

VOCAB_SIZE = 48
_SEED = 17


@frozen
class ToyTokenizer:
    """A tokenizer of 48 ids, for a model to size its embedding by."""

    vocab_size: int = VOCAB_SIZE
    eos_id: int = 0

    def encode(self, text: str) -> Sequence[int]:
        """Return an id for each character."""
        return [1 + ord(character) % (VOCAB_SIZE - 1) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return a letter for each id."""
        return "".join(chr(ord("A") + token) for token in ids if token != self.eos_id)


class ModelContract(SpawnedContract):
    """What holds for every model plugin, with or without adapters around it; subclass it and give `make`."""

    kind = "model"
    tolerance = 1e-4
    """How far two logits may differ that are equal but for the order of sums."""

    def make(self, folder: Path) -> Sequence[Any]:
        """Return the plugins: the model, then its adapters; `folder` is where relative paths start.

        Keep the model tiny: two layers of width 32.
        """
        raise NotImplementedError

    def plugins(self, folder: Path) -> Sequence[Any]:
        """Return the model plugin and the adapters around it."""
        return self.make(folder)

    def plugin(self, folder: Path) -> Any:
        """Return the plugin that is under test."""
        return self.plugins(folder)[0]

    def use(self, plugin: Any, folder: Path) -> None:
        """Build the model."""
        hooks_of(plugin).codex_model(run=make_run(folder), tokenizer=ToyTokenizer(), materialize=True)

    def model(self, folder: Path, *, materialize: bool = True, seed: int = _SEED) -> Any:
        """Ask fresh plugins for a model, as the kernel does: seeded, on the CPU, under `meta` for shapes alone."""
        torch: Any = import_module("torch")
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        hooks = hooks_of(*self.plugins(folder))
        with torch.device("cpu" if materialize else "meta"):
            model = hooks.codex_model(run=make_run(folder), tokenizer=ToyTokenizer(), materialize=materialize)
        assert model is not None, "codex_model gave None"
        return model

    def test_logits_have_a_row_for_each_token(self, tmp_path: Path) -> None:
        """The model is a torch module, and its finite logits have the shape B, T, at least the tokenizer's V."""
        torch: Any = import_module("torch")
        model = self.model(tmp_path)
        assert isinstance(model, torch.nn.Module)
        logits_BTV = _logits(model, [[1, 2, 3, 4], [5, 6, 7, 8]], [[0, 0, 0, 0], [0, 0, 0, 0]])
        assert logits_BTV.shape[:2] == (2, 4)
        assert logits_BTV.shape[2] >= VOCAB_SIZE
        assert logits_BTV.isfinite().all()

    def test_no_token_sees_a_later_one(self, tmp_path: Path) -> None:
        """Changing a token leaves all logits before it as they were, and changes those from it on."""
        model = self.model(tmp_path)
        one = _logits(model, [[1, 2, 3, 4, 5, 6]], [[0] * 6])
        other = _logits(model, [[1, 2, 3, 9, 5, 6]], [[0] * 6])
        assert _distance(one[:, :3], other[:, :3]) <= self.tolerance
        assert _distance(one[:, 5:], other[:, 5:]) > 0

    def test_documents_of_a_block_are_isolated(self, tmp_path: Path) -> None:
        """Documents packed into one block get the logits that each gets alone."""
        model = self.model(tmp_path)
        packed = _logits(model, [[1, 2, 3, 9, 8, 7, 6, 5]], [[0, 0, 0, 1, 1, 1, 1, 2]])
        for tokens, start in (([1, 2, 3], 0), ([9, 8, 7, 6], 3), ([5], 7)):
            alone = _logits(model, [tokens], [[0] * len(tokens)])
            assert _distance(packed[:, start : start + len(tokens)], alone) <= self.tolerance

    def test_rows_of_a_batch_are_isolated(self, tmp_path: Path) -> None:
        """A block gets the same logits whatever lies beside it in the batch, packed or not."""
        model = self.model(tmp_path)
        alone = _logits(model, [[1, 2, 3, 4]], [[0, 0, 0, 0]])
        beside = _logits(model, [[1, 2, 3, 4], [9, 9, 9, 9]], [[0, 0, 0, 0], [0, 1, 1, 2]])
        assert _distance(alone[0], beside[0]) <= self.tolerance

    def test_padding_changes_nothing_and_is_finite(self, tmp_path: Path) -> None:
        """Padding (document -1) after a document, and whole rows of it, change no logits and give no NaN."""
        model = self.model(tmp_path)
        alone = _logits(model, [[1, 2, 3]], [[0, 0, 0]])
        padded = _logits(model, [[1, 2, 3, 0, 0], [0] * 5], [[0, 0, 0, -1, -1], [-1] * 5])
        assert padded.isfinite().all()
        assert _distance(padded[:1, :3], alone) <= self.tolerance

    def test_training_reaches_every_parameter_that_is_to_be_trained(self, tmp_path: Path) -> None:
        """A few steps of descent lower the loss and give every trainable parameter a finite gradient."""
        torch: Any = import_module("torch")
        model = self.model(tmp_path)
        model.train()
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert trainable, "no parameter is trainable"
        optimizer = torch.optim.AdamW(trainable.values(), lr=0.01)
        inputs = _inputs([[token % 7 + 1 for token in range(24)]], [[0] * 24])
        targets_T = torch.tensor([(token + 1) % 7 + 1 for token in range(24)])
        losses, reached = [], set()
        for _ in range(8):
            loss = torch.nn.functional.cross_entropy(model(*inputs)[0].float(), targets_T)
            optimizer.zero_grad()
            loss.backward()
            losses.append(loss.item())
            reached |= {name for name, p in trainable.items() if p.grad is not None}
            assert all(p.grad is None or p.grad.isfinite().all() for p in trainable.values())
            optimizer.step()
        assert losses[-1] < losses[0]
        assert sorted(trainable.keys() - reached) == []

    def test_the_seed_alone_decides_the_start(self, tmp_path: Path) -> None:
        """Two builds with one seed have bit-equal parameters under the same names."""
        torch: Any = import_module("torch")
        first = self.model(tmp_path / "first").state_dict()
        second = self.model(tmp_path / "second").state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_weights_come_back(self, tmp_path: Path) -> None:
        """What the model gives to keep, put into another build of it, gives bit-equal logits."""
        torch: Any = import_module("torch")
        first, second = self.model(tmp_path / "first"), self.model(tmp_path / "second")
        with torch.no_grad():
            for parameter in first.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter.dtype))
        tokens, documents = [[1, 2, 3, 4]], [[0, 0, 1, 1]]
        changed = _logits(first, tokens, documents)
        assert not torch.equal(_logits(second, tokens, documents), changed)
        _load(second, {name: tensor.clone() for name, tensor in _weights(first).items()})
        assert torch.equal(_logits(second, tokens, documents), changed)

    def test_kept_tensors_share_no_storage(self, tmp_path: Path) -> None:
        """No two tensors of `weights()` lie in the same memory: safetensors would refuse them."""
        model = self.model(tmp_path)
        if not isinstance(model, PretrainedFormat):
            return
        places = [
            tensor.untyped_storage().data_ptr() for tensor in model.weights().values() if tensor.numel()
        ]
        assert len(places) == len(set(places))

    def test_weights_of_another_model_are_refused(self, tmp_path: Path) -> None:
        """A tensor too many, one too few and one of another shape raise ValueError and change nothing."""
        torch: Any = import_module("torch")
        model = self.model(tmp_path)
        if not isinstance(model, PretrainedFormat):
            return
        kept = {name: tensor.clone() for name, tensor in model.weights().items()}
        name = max(kept)
        others: list[dict[str, Any]] = [
            {**kept, "stray": torch.zeros(1)},
            {key: torch.zeros_like(tensor) for key, tensor in kept.items() if key != name},
            {key: torch.zeros(3, 1, 2) if key == name else torch.zeros_like(t) for key, t in kept.items()},
        ]
        for other in others:
            assert _refuses(model, other), f"{len(other)} tensors of another model were taken"
        assert all(torch.equal(tensor, kept[key]) for key, tensor in model.weights().items())

    def test_config_files_are_named_and_stable(self, tmp_path: Path) -> None:
        """Two builds give the same small files, byte for byte, and those named *.json are JSON."""
        first, second = self.model(tmp_path / "first"), self.model(tmp_path / "second")
        if not isinstance(first, PretrainedFormat) or not isinstance(second, PretrainedFormat):
            return
        files = dict(first.config_files())
        assert files == dict(second.config_files())
        assert first.weights_file.endswith(".safetensors")
        for name, content in files.items():
            if name.endswith(".json"):
                json.loads(content)

    def test_the_head_is_applied_to_the_hidden_states(self, tmp_path: Path) -> None:
        """Where the model claims it, the logits are `hidden @ head_weight.T`."""
        model = self.model(tmp_path)
        if not isinstance(model, HiddenStates):
            return
        tokens, documents = [[1, 2, 3, 4, 5]], [[0, 0, 0, 1, 1]]
        model.eval()  # type: ignore[attr-defined]
        hidden_BTD = model.hidden(*_inputs(tokens, documents)).detach()
        logits_BTV = hidden_BTD @ model.head_weight().detach().T
        assert _distance(logits_BTV, _logits(model, tokens, documents)) <= self.tolerance

    def test_shapes_alone_need_no_memory(self, tmp_path: Path) -> None:
        """Built for its shapes alone, the model has the same parameters; a plugin may build the real ones."""
        real = self.model(tmp_path / "real")
        shapes = self.model(tmp_path / "shapes", materialize=False)
        assert _shapes(real) == _shapes(shapes)


def _inputs(tokens_BT: list[list[int]], documents_BT: list[list[int]]) -> tuple[Any, Any, Any]:
    """Return a batch's input ids, positions (from 0 in each document; 0 on padding) and document ids."""
    torch: Any = import_module("torch")
    positions_BT = [
        [0 if document < 0 else at - documents.index(document) for at, document in enumerate(documents)]
        for documents in documents_BT
    ]
    return torch.tensor(tokens_BT), torch.tensor(positions_BT), torch.tensor(documents_BT)


def _logits(model: Any, tokens_BT: list[list[int]], documents_BT: list[list[int]]) -> Any:
    torch: Any = import_module("torch")
    model.eval()
    with torch.no_grad():
        return model(*_inputs(tokens_BT, documents_BT))


def _distance(one: Any, other: Any) -> float:
    return float((one.float() - other.float()).abs().max())


def _weights(model: Any) -> Mapping[str, Any]:
    weights: Mapping[str, Any] = (
        model.weights() if isinstance(model, PretrainedFormat) else model.state_dict()
    )
    return weights


def _load(model: Any, weights: Mapping[str, Any]) -> None:
    if isinstance(model, PretrainedFormat):
        model.load_weights(weights)
    else:
        model.load_state_dict(weights)


def _refuses(model: PretrainedFormat, weights: Mapping[str, Any]) -> bool:
    try:
        model.load_weights(weights)
    except ValueError:
        return True
    return False


def _shapes(model: Any) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}
