"""All that a run needs to go on: out of a training loop into a CheckpointState, and back.

One rule: it is plain data without pickle, and what is put back gives the same bits as if the run had never stopped.

    model/…                  the weights and configuration, in the format of the model's own library; where the run
                             averages its weights these are the averages, which is what one wants of the model
    weights.safetensors      then the weights in training, by the names of the parameters
    optimizer.safetensors    the optimizers' tensors, `<key>/<parameter>`: `exp_avg/…`, `momentum_buffer/…`, `step/…`
    rng.safetensors, .json   the random generators: torch's as bytes, Python's and numpy's as numbers
    trainer.json             position, sums, guards, fingerprints, the options that decide the curve
    report.json              what the reporter needs to rewind the metrics
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import asdict, define, field, frozen

from codex_kernel import CheckpointState, InputError, Parts, RunContext, SavedTokenizer
from codex_torch import rng, weights
from codex_torch.early import Patience
from codex_torch.guard import Spikes
from codex_torch.optimizers import ADAMW_BETAS
from codex_torch.trained import Trained

if TYPE_CHECKING:
    from codex_torch.hardware import Hardware
    from codex_torch.plugin import TorchTrainer
    from codex_torch.schedule import Length

FORMAT = 2
RAW_WEIGHTS = "weights.safetensors"
_CURVE = (
    "global_batch_size",
    "optimizer",
    "lr",
    "schedule",
    "warmup_steps",
    "decay_steps",
    "min_lr_ratio",
    "weight_decay",
    "betas",
    "momentum",
    "max_grad_norm",
    "ema_decay",
    "on_nonfinite",
    "loss_spike",
    "early_stopping",
    "compile",  # where there is dropout, compiled code draws other numbers
)
_KEYS = {
    "seed": ("seed",),
    "steps": ("trainer.max_steps", "trainer.epochs", "trainer.max_tokens", "trainer.global_batch_size"),
    "samples": ("trainer.max_steps", "trainer.epochs", "trainer.max_tokens", "trainer.global_batch_size"),
    "precision": ("trainer.precision", "trainer.device"),
}
"""The keys of the manifest that decide what has no option of the same name."""


@define
class Window:
    """Sums since the last record of metrics."""

    loss_sum: float = 0.0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0


@define
class Totals:
    """Where the loop stands.

    Steps done; `position` in the training order and how much of that was passed over by rollbacks (blocks); targets;
    seconds of training over all resumes; steps left out; sums of the window; the last metrics.
    """

    step: int = 0
    position: int = 0
    passed_over: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    skips_in_a_row: int = 0
    window: Window = field(factory=Window)
    metrics: dict[str, float] = field(factory=dict)

    @property
    def samples(self) -> int:
        """Blocks that the steps were taken over."""
        return self.position - self.passed_over

    def pass_over(self, position: int) -> None:
        """Go on from a later position of the training order."""
        self.passed_over += position - self.position
        self.position = position

    def metrics_of_skips(self) -> dict[str, float]:
        """Return what a record says of steps that were left out; nothing where there were none."""
        return {"skipped_steps": float(self.skipped_steps)} if self.skipped_steps else {}


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
        curve = {name: _plain(getattr(options, name)) for name in _CURVE}
        curve |= {
            "betas": list(options.betas or ADAMW_BETAS),
            "seed": run.seed,
            "steps": length.steps,
            "samples": length.samples,
            "precision": hardware.precision,
        }
        numerics = {
            **hardware.numerics(),
            "micro_batch_size": options.blocks_at_once,
            "activation_checkpointing": options.activation_checkpointing,
        }
        return cls(fingerprints, curve, numerics)


def _plain(value: Any) -> Any:
    """Return an option's value as JSON would give it back."""
    if isinstance(value, tuple):
        return list(value)
    return asdict(value) if hasattr(value, "__attrs_attrs__") else value


def _json(value: float) -> float | str:
    """Return a metric as a JSON value: a string where it is not finite, which JSON has no number for."""
    return value if math.isfinite(value) else str(value)


@frozen(eq=False)
class RunState:
    """Everything that a checkpoint of the run is made of, but for its totals."""

    trained: Trained
    spikes: Spikes | None
    patience: Patience | None
    identity: Identity
    run: RunContext

    def capture(self, totals: Totals) -> CheckpointState:
        """Return the state of the run between two steps; tensors are not copied."""
        trained = self.trained
        with trained.averaged():
            model = weights.saved(trained.model)
        generators = rng.capture()
        tensors = {
            **model.tensors,
            "optimizer.safetensors": trained.optimizer_tensors(),
            "rng.safetensors": generators.tensors,
        }
        if trained.average is not None:
            raw = {name: p.detach() for name, p in zip(trained.names(), trained.parameters, strict=True)}
            tensors[RAW_WEIGHTS] = raw
        values = {
            **model.values,
            "rng.json": generators.values,
            "trainer.json": {
                "format": FORMAT,
                **asdict(totals),
                "metrics": {name: _json(value) for name, value in totals.metrics.items()},
                **asdict(self.identity),
                "trained": trained.names(),
                "average_updates": None if trained.average is None else trained.average.updates,
                "scaler": trained.scaler.state_dict(),
                "spikes": None if self.spikes is None else self.spikes.state(),
                "patience": None if self.patience is None else self.patience.state(),
            },
            "report.json": dict(self.run.report.state_dict()),
        }
        return CheckpointState(tensors, values, model.files)

    def resume(self, state: CheckpointState) -> Totals:
        """Put the state of an earlier process back, where it fits this run; return the totals.

        Raises InputError where the data, the tokenizer or the model is another one, and where an option that decides
        the curve is, unless the run allows that change.
        """
        saved = state.values["trainer.json"]
        if saved["format"] != FORMAT:
            raise InputError(
                f"the checkpoint's trainer.json has format {saved['format']}, expected {FORMAT}",
                remedy="use the version of codex-torch that wrote it",
            )
        _compare(saved, self.identity, self.run)
        weights.check_config(self.trained.model, state, self.run.report)
        return self.restore(state)

    def restore(self, state: CheckpointState) -> Totals:
        """Put a state of this run back, the metrics of the reporter included; return the totals."""
        saved = state.values["trainer.json"]
        trained = self.trained
        weights.load(trained.model, state)
        _compare_trained(saved["trained"], trained.names())
        self._restore_average(state)
        if saved["curve"]["optimizer"] == self.identity.curve["optimizer"]:
            trained.load_optimizer_tensors(state.tensors["optimizer.safetensors"])
        else:
            trained.begin_optimizers_anew()
        if trained.scaler.is_enabled() and saved["scaler"]:
            trained.scaler.load_state_dict(dict(saved["scaler"]))
        if self.spikes is not None and saved["spikes"] is not None:
            self.spikes.load(saved["spikes"])
        if self.patience is not None and saved["patience"] is not None:
            self.patience.load(saved["patience"])
        rng.restore(rng.RngState(state.tensors["rng.safetensors"], state.values["rng.json"]))
        # The last thing: from here on the run has gone on.
        self.run.report.load_state_dict(state.values["report.json"])
        plain = {name: saved[name] for name in ("step", "position", "passed_over", "tokens", "seconds")}
        skips = {name: saved[name] for name in ("skipped_steps", "skips_in_a_row")}
        # NaN and infinity stand as strings; a count stays a whole number.
        metrics = {name: float(v) if isinstance(v, str) else v for name, v in saved["metrics"].items()}
        return Totals(**plain, **skips, window=Window(**saved["window"]), metrics=metrics)

    def _restore_average(self, state: CheckpointState) -> None:
        """Sort the averaged weights from those in training; the model holds what is under `model/`."""
        trained, raw = self.trained, state.tensors.get(RAW_WEIGHTS)
        if trained.average is not None:
            # Without an average in the checkpoint (it was allowed to begin now) it begins with the weights.
            current = dict(zip(trained.names(), (p.detach() for p in trained.parameters), strict=True))
            updates = state.values["trainer.json"]["average_updates"]
            trained.average.load(current, updates or 0)
        if raw is not None:
            with torch.no_grad():
                for name, parameter in zip(trained.names(), trained.parameters, strict=True):
                    parameter.copy_(raw[name])


def _compare(saved: Mapping[str, Any], identity: Identity, run: RunContext) -> None:
    for what, digest in identity.fingerprints.items():
        before = saved["fingerprints"].get(what)
        if before != digest:
            raise InputError(
                f"the {what} is not what the run was trained on: its fingerprint was {before}, it is {digest}",
                remedy=f"put the {what} back as it was, or start a new run",
            )
    changed = _changed(saved["curve"], identity.curve)
    if refused := [name for name in changed if not _is_allowed(name, run.allowed_changes)]:
        flags = " ".join(f"--allow-change {key}" for key in dict.fromkeys(_keys(name)[0] for name in refused))
        raise InputError(
            f"the checkpoint was saved with other settings: {_said(saved['curve'], identity.curve, refused)}",
            remedy=f"put them back as they were, or go on with another curve: codex resume … {flags}",
        )
    if changed:
        said = _said(saved["curve"], identity.curve, changed)
        run.report.warning(f"the curve is not that of a run without a break: {said}")
    if "optimizer" in changed:
        before, now = saved["curve"]["optimizer"], identity.curve["optimizer"]
        run.report.warning(f"the optimizer begins anew: {now} cannot go on with what {before} has kept")
    if changed := _changed(saved["numerics"], identity.numerics):
        said = _said(saved["numerics"], identity.numerics, changed)
        run.report.warning(f"the last bits may differ from those of a run without a break: {said}")


def _keys(name: str) -> tuple[str, ...]:
    """Return the keys of the manifest that decide an entry of the curve."""
    return _KEYS.get(name, (f"trainer.{name}",))


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Say whether a change of an entry is allowed: by its key, or by one below it (`trainer.loss_spike.sigmas`)."""
    return any(one == key or one.startswith(f"{key}.") for key in _keys(name) for one in allowed)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in now.items() if before.get(name) != value]


def _said(before: Mapping[str, Any], now: Mapping[str, Any], names: list[str]) -> str:
    """Return `name was x, is y` for each difference."""
    return "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in names)


def _compare_trained(before: list[str], now: list[str]) -> None:
    """Raise InputError where the checkpoint trained other parameters."""
    remedy = "use the model and the adapters that it was saved with"
    if gone := [name for name in before if name not in set(now)]:
        raise InputError(
            f"the checkpoint trained {gone[0]} ({len(gone)} in all), which this run does not train",
            remedy=remedy,
        )
    if missing := [name for name in now if name not in set(before)]:
        raise InputError(
            f"the checkpoint did not train {missing[0]} ({len(missing)} in all), which this run trains",
            remedy=remedy,
        )
