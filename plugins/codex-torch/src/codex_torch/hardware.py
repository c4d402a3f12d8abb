"""Where a run computes, in which precision, and what decides the bits of its result.

One rule: `auto` chooses and says what it chose; anything else is done as asked, or is an error.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import frozen

from codex_kernel import InputError, Reporter

Precision = Literal["fp32", "bf16", "fp16"]
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_VOLTA = (7, 0)
"""The first NVIDIA architecture with units for fp16 matrices."""
_BITS = (
    "another version of torch",
    "another processor or GPU",
    "another number of threads",
    "another micro_batch_size",
    "compile switched on or off",
    "relaxed determinism",
)
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@frozen
class Hardware:
    """The device of a run, its precision, and whether the same seed gives the same bits on it."""

    device: torch.device
    precision: Precision
    deterministic: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass: mixed precision over fp32 weights, or none."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_HALF[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Return what keeps gradients within the range of fp16; in any other precision it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @contextmanager
    def deterministic_algorithms(self) -> Iterator[None]:
        """Have torch take deterministic algorithms alone in the block, where that was asked for; else do nothing.

        An operation that has none raises RuntimeError, see `explain`.
        """
        if not self.deterministic:
            yield
            return
        before = _determinism()
        _set_determinism(_Determinism(algorithms=True, workspace=before.workspace or ":4096:8"))
        try:
            yield
        finally:
            _set_determinism(before)

    def numerics(self) -> dict[str, Any]:
        """Return what may change the bits of a result without changing what is computed."""
        return {
            "torch": torch.__version__,
            "device": self.name,
            "threads": torch.get_num_threads(),
            "determinism": self.determinism,
        }

    @property
    def determinism(self) -> str:
        """`strict` or `relaxed`, as in the manifest."""
        return "strict" if self.deterministic else "relaxed"

    @property
    def void_by(self) -> tuple[str, ...]:
        """What would give the same seed other bits."""
        return _BITS if self.deterministic else ("every run: relaxed determinism promises no bits",)

    @property
    def name(self) -> str:
        """The device's model: what the bits depend on, not its number."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def choose(device: str, precision: str, threads: int | None, determinism: str, report: Reporter) -> Hardware:
    """Return the hardware of a run and set the number of torch's threads; report what `auto` has chosen.

    Raises InputError where the device asked for is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = _device(device)
    strict = determinism == "strict" or (determinism == "auto" and where.type == "cpu")
    chosen = Hardware(where, _precision(precision, where), strict)
    if precision == chosen.precision:
        for warning in _slowness(chosen):
            report.warning(warning)
    report.event(
        "hardware",
        device=str(chosen.device),
        model=chosen.name,
        precision=chosen.precision,
        threads=torch.get_num_threads(),
        determinism=chosen.determinism,
        void_by=list(chosen.void_by),
    )
    return chosen


def explain(error: BaseException) -> InputError | None:
    """Return what to tell the user of an operation without a deterministic algorithm; None for any other error."""
    if not isinstance(error, RuntimeError) or "use_deterministic_algorithms" not in str(error):
        return None
    named = re.search(r"(\S+) does not have a deterministic", str(error))
    return InputError(
        f"the model needs {named[1] if named else 'an operation'}, which has no deterministic algorithm on this device",
        remedy="set trainer.determinism: relaxed; the same seed may then give other bits",
    )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory in use so far: of the GPU by tensors, or of the process where the device is the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        # A process begins with the ru_maxrss of the one that started it; this number is its own.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# ── determinism ───────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class _Determinism:
    """torch's switches; all but the first default to what strict determinism sets."""

    algorithms: bool
    warn_only: bool = False
    # Filling what is then overwritten costs time (9 % of a small step), and would hide a read of it behind NaN.
    fill: bool = False
    cudnn_deterministic: bool = True
    cudnn_benchmark: bool = False
    workspace: str | None = None


def _determinism() -> _Determinism:
    return _Determinism(
        algorithms=torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        fill=torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined] # the module makes it
        cudnn_deterministic=torch.backends.cudnn.deterministic,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        workspace=os.environ.get(_CUBLAS),
    )


def _set_determinism(to: _Determinism) -> None:
    torch.use_deterministic_algorithms(to.algorithms, warn_only=to.warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = to.fill  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = to.cudnn_deterministic
    torch.backends.cudnn.benchmark = to.cudnn_benchmark
    if to.workspace is None:
        os.environ.pop(_CUBLAS, None)
    else:
        os.environ[_CUBLAS] = to.workspace


# ── device and precision ──────────────────────────────────────────────────────────────────────────────────────────


def _precision(asked: str, device: torch.device) -> Precision:
    if asked == "fp16":
        return "fp16"
    if asked == "bf16" or (asked == "auto" and has_fast_bf16(device)):
        return "bf16"
    return "fp32"


def _slowness(chosen: Hardware) -> Iterator[str]:
    """Say where the precision that was asked for is slow on this device."""
    has_unit = {"fp32": lambda _: True, "bf16": has_fast_bf16, "fp16": has_fast_fp16}[chosen.precision]
    if not has_unit(chosen.device):
        yield (
            f"precision {chosen.precision} is slow on {chosen.name}: it has no {chosen.precision} unit, "
            "steps may take 20 times as long; use precision: fp32"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                f"trainer.device is {name!r}, but torch {torch.__version__} sees {count} CUDA devices",
                remedy="use device: auto or cpu, or install a torch with CUDA and its driver",
            )
        device = torch.device("cuda", device.index or 0)
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether the device multiplies bf16 in hardware; without that it is up to 20 times slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def has_fast_fp16(device: torch.device) -> bool:
    """Say whether the device multiplies fp16 in hardware; hardly any CPU does."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _VOLTA
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(unit, False) for unit in ("avx512_fp16", "amx_fp16", "fp16"))
    return False
