"""All that a run needs to go on: out of a training loop into a CheckpointState, and back.

One rule: it is plain data without pickle, and what is put back gives the same bits as if the run had never stopped.

    model/…                  the weights and configuration, in the format of the model's own library
    optimizer.safetensors    `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`
    rng.safetensors, .json   the random generators: torch's as bytes, Python's and numpy's as numbers
    trainer.json             position, sums, fingerprints, the options that decide the curve, the trained parameters
    report.json              what the reporter needs to rewind the metrics
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict, define, field, frozen
from torch import Tensor, nn

from codex_kernel import CheckpointState, InputError, Parts, RunContext, SavedTokenizer
from codex_torch import rng, weights

if TYPE_CHECKING:
    from codex_torch.hardware import Hardware
    from codex_torch.plugin import TorchTrainer
    from codex_torch.schedule import Length

FORMAT = 1
_CURVE = (
    "global_batch_size",
    "lr",
    "schedule",
    "warmup_steps",
    "min_lr_ratio",
    "weight_decay",
    "betas",
    "max_grad_norm",
)


@define
class Window:
    """Sums since the last record of metrics."""

    loss_sum: float = 0.0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0


@define
class Totals:
    """Where the loop stands: steps done, blocks and targets seen, sums of the window, the last metrics."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    window: Window = field(factory=Window)
    metrics: dict[str, float] = field(factory=dict)


@frozen(eq=False)
class Trained:
    """What changes while a run trains, beside its totals."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def names(self) -> list[str]:
        """Return the names of the optimizer's parameters, in the optimizer's order."""
        by_id = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [
            by_id[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]
        ]


@frozen(eq=False)
class Identity:
    """What a checkpoint must have in common with the run that goes on from it.

    `fingerprints` must be equal, and so must `curve`; where `numerics` differ, the last bits may.
    """

    fingerprints: Mapping[str, str]
    curve: Mapping[str, Any]
    numerics: Mapping[str, Any]

    @classmethod
    def of(
        cls, options: TorchTrainer, run: RunContext, parts: Parts, length: Length, hardware: Hardware
    ) -> Identity:
        """Return the identity of a run."""
        fingerprints = {"data": parts.data.fingerprint}
        if isinstance(parts.tokenizer, SavedTokenizer):
            fingerprints["tokenizer"] = parts.tokenizer.fingerprint()
        curve: dict[str, Any] = {name: getattr(options, name) for name in _CURVE}
        curve["betas"] = list(options.betas or (0.9, 0.95))
        curve |= {
            "seed": run.seed,
            "steps": length.steps,
            "samples": length.samples,
            "precision": hardware.precision,
        }
        return cls(fingerprints, curve, {**hardware.numerics(), "micro_batch_size": options.blocks_at_once})


def capture(trained: Trained, totals: Totals, identity: Identity, run: RunContext) -> CheckpointState:
    """Return the state of a run between two steps; tensors are not copied."""
    model = weights.saved(trained.model)
    generators = rng.capture()
    return CheckpointState(
        tensors={
            **model.tensors,
            "optimizer.safetensors": _optimizer_tensors(trained),
            "rng.safetensors": generators.tensors,
        },
        values={
            **model.values,
            "rng.json": generators.values,
            "trainer.json": {
                "format": FORMAT,
                **asdict(totals),
                **asdict(identity),
                "trained": trained.names(),
            },
            "report.json": dict(run.report.state_dict()),
        },
        files=model.files,
    )


def restore(state: CheckpointState, trained: Trained, identity: Identity, run: RunContext) -> Totals:
    """Put a state back, the metrics of the reporter included; return the totals.

    Raises InputError where the data, the tokenizer, the model or an option that decides the curve is another.
    """
    saved = state.values["trainer.json"]
    if saved["format"] != FORMAT:
        raise InputError(
            f"the checkpoint's trainer.json has format {saved['format']}, expected {FORMAT}",
            remedy="use the version of codex-torch that wrote it",
        )
    _compare(saved, identity, run)
    weights.check_config(trained.model, state, run.report)
    weights.load(trained.model, state)
    _restore_optimizer(trained, state.tensors["optimizer.safetensors"], saved.get("trained"))
    rng.restore(rng.RngState(state.tensors["rng.safetensors"], state.values["rng.json"]))
    run.report.load_state_dict(state.values["report.json"])
    return Totals(
        step=saved["step"],
        position=saved["position"],
        tokens=saved["tokens"],
        window=Window(**saved["window"]),
        metrics=saved["metrics"],
    )


def _compare(saved: Mapping[str, Any], identity: Identity, run: RunContext) -> None:
    for what, digest in identity.fingerprints.items():
        before = saved["fingerprints"].get(what)
        if before != digest:
            raise InputError(
                f"the {what} is not what the run was trained on: its fingerprint was {before}, it is {digest}",
                remedy=f"put the {what} back as it was, or start a new run",
            )
    if changed := _differences(saved["curve"], identity.curve):
        raise InputError(
            f"the checkpoint was saved with other settings: {changed}",
            remedy="put them back as they were, or start a new run",
        )
    if changed := _differences(saved["numerics"], identity.numerics):
        run.report.warning(f"the last bits may differ from those of a run without a break: {changed}")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return `name was x, is y` for each difference."""
    changed = [name for name, value in now.items() if before.get(name) != value]
    return "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in changed)


def _optimizer_tensors(trained: Trained) -> dict[str, Tensor]:
    states = trained.optimizer.state_dict()["state"]
    return {
        f"{key}/{name}": tensor
        for index, name in enumerate(trained.names())
        for key, tensor in states.get(index, {}).items()
    }


def _restore_optimizer(trained: Trained, tensors: Mapping[str, Tensor], names: Sequence[str] | None) -> None:
    """Put the optimizer's state back; a parameter that never had a gradient has none.

    `names` are the parameters that the checkpoint trained, None where it does not say: then those with a state.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, name = full_name.split("/", maxsplit=1)
        # The optimizer keeps what it is given and changes it in place: a checkpoint may be read twice.
        by_name.setdefault(name, {})[key] = tensor.clone()
    index_of = {name: index for index, name in enumerate(trained.names())}
    _compare_trained(list(by_name) if names is None else names, index_of)
    states = {index_of[name]: state for name, state in by_name.items()}
    groups = trained.optimizer.state_dict()["param_groups"]
    trained.optimizer.load_state_dict({"state": states, "param_groups": groups})


def _compare_trained(before: Sequence[str], now: Mapping[str, int]) -> None:
    """Raise InputError where the checkpoint trained other parameters; `before` is empty where it does not say."""
    remedy = "use the model and the adapters that it was saved with"
    known = set(before)
    if gone := [name for name in before if name not in now]:
        raise InputError(
            f"the checkpoint trained {gone[0]} ({len(gone)} in all), which this run does not train",
            remedy=remedy,
        )
    if before and (missing := [name for name in now if name not in known]):
        raise InputError(
            f"the checkpoint did not train {missing[0]} ({len(missing)} in all), which this run trains",
            remedy=remedy,
        )
