"""The contract of adapter plugins: what a trainer relies on, as tests; it adapts a small transformer of its own.

    class TestMine(AdapterContract):
        def make(self, folder):
            return MyAdapter(rank=4)

An adapter that works with the models of one library alone gives one of these by `base`.

One rule: all that holds for a model holds for an adapted one. It needs pytest and torch, which it imports by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_kernel.errors import InputError
from codex_kernel.hookspecs import hookimpl
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.model import ModelContract, ToyTokenizer, _inputs, _logits
from codex_kernel.testing.toy_transformer import ToyTransformer
from codex_kernel.testing.toys import make_run


@frozen
class _FailingModel:
    @hookimpl
    def codex_model(self) -> Any:
        raise InputError("no weights", remedy="give some")


class AdapterContract(ModelContract):
    """What holds for every adapter plugin, beside all that holds for models; subclass it and give `make`."""

    kind = "adapter"

    def make(self, folder: Path) -> Any:
        """Return the adapter; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def base(self, folder: Path) -> Any:  # noqa: ARG002 - a model may read files
        """Return the plugin of the model that is adapted: a transformer of two layers, without dropout."""
        return ToyTransformer()

    def plugins(self, folder: Path) -> Sequence[Any]:
        """Return the model and the adapter."""
        return [self.base(folder), self.make(folder)]

    def plugin(self, folder: Path) -> Any:
        """Return the adapter."""
        return self.make(folder)

    def use(self, plugin: Any, folder: Path) -> None:
        """Adapt a model."""
        hooks = hooks_of(self.base(folder), plugin)
        hooks.codex_model(run=make_run(folder), tokenizer=ToyTokenizer(), materialize=True)

    def test_it_wraps_the_model(self, tmp_path: Path) -> None:
        """It is a wrapper of `codex_model`: alone, without a model to adapt, it gives none and does not fail."""
        adapter = self._plugin(tmp_path)
        [implementation] = hooks_of(adapter).codex_model.get_hookimpls()
        assert implementation.wrapper, "write @hookimpl(wrapper=True)"
        run, tokenizer = make_run(tmp_path), ToyTokenizer()
        assert hooks_of(adapter).codex_model(run=run, tokenizer=tokenizer, materialize=True) is None

    def test_an_error_of_the_model_passes_through(self, tmp_path: Path) -> None:
        """Where the model cannot be built, the user reads why: the adapter hides no error."""
        hooks = hooks_of(_FailingModel(), self._plugin(tmp_path))
        try:
            hooks.codex_model(run=make_run(tmp_path), tokenizer=ToyTokenizer(), materialize=True)
        except InputError as error:
            assert error.message == "no weights"
        else:
            raise AssertionError("the adapter hid the error of the model")

    def test_it_leaves_something_to_train(self, tmp_path: Path) -> None:
        """At least one parameter of the adapted model is trainable."""
        trainable = [name for name, p in self.model(tmp_path).named_parameters() if p.requires_grad]
        assert trainable, "all parameters are frozen"

    def test_training_changes_nothing_that_is_frozen(self, tmp_path: Path) -> None:
        """A step of an optimizer over the trainable parameters leaves all others, and all buffers, bit by bit."""
        torch: Any = import_module("torch")
        model = self.model(tmp_path)
        model.train()
        before = {
            name: tensor.detach().clone()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if not tensor.requires_grad
        }
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(*_inputs([[1, 2, 3, 4]], [[0] * 4])).float().logsumexp(-1).sum().backward()
            optimizer.step()
        after = dict((*model.named_parameters(), *model.named_buffers()))
        changed = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
        assert not changed, f"frozen, and changed by training: {', '.join(changed[:3])}"

    def test_evaluation_is_the_same_each_time(self, tmp_path: Path) -> None:
        """In evaluation the adapted model gives the same logits for the same tokens: no dropout is left on."""
        torch: Any = import_module("torch")
        model = self.model(tmp_path)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        one, other = (_logits(model, [[1, 2, 3, 4]], [[0] * 4]) for _ in range(2))
        assert torch.equal(one, other)

    def test_two_runs_in_one_process_share_no_weights(self, tmp_path: Path) -> None:
        """What one run trains is not a part of another run's model."""
        first, second = self.model(tmp_path / "first"), self.model(tmp_path / "second")
        places = [{p.data_ptr() for p in model.parameters() if p.numel()} for model in (first, second)]
        assert not places[0] & places[1]
