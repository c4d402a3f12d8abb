"""Where a run computes and in which precision.

One rule: `auto` chooses and says what it chose; anything else is done as asked, or is an error.
"""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from attrs import frozen

from codex_kernel import InputError, Reporter

Precision = Literal["fp32", "bf16"]


@frozen
class Hardware:
    """The device of a run, its precision, and what else decides the bits of a result."""

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass: mixed precision over fp32 weights, or none."""
        return (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if self.precision == "bf16"
            else nullcontext()
        )

    def numerics(self) -> dict[str, Any]:
        """Return what may change the bits of a result without changing what is computed."""
        return {
            "torch": torch.__version__,
            "device": self.name,
            "threads": torch.get_num_threads(),
        }

    @property
    def name(self) -> str:
        """The device's model: what the bits depend on, not its number."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def choose(device: str, precision: str, threads: int | None, report: Reporter) -> Hardware:
    """Return the hardware of a run and set the number of torch's threads; report what `auto` has chosen.

    Raises InputError where the device asked for is not there.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = Hardware(_device(device), "fp32")
    fast = has_fast_bf16(chosen.device)
    if precision == "bf16" or (precision == "auto" and fast):
        chosen = Hardware(chosen.device, "bf16")
    if precision == "bf16" and not fast:
        report.warning(
            f"precision bf16 is slow on {chosen.name}: it has no bf16 unit, steps may take 20 times as long; "
            "use precision: fp32"
        )
    report.event(
        "hardware",
        device=str(chosen.device),
        model=chosen.name,
        precision=chosen.precision,
        threads=torch.get_num_threads(),
    )
    return chosen


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
