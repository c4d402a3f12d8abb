"""What is read of the machine, and how one reading that fails leaves the others standing.

One rule: a value that cannot be read is left out and named once; no number is made up for it. Units end the names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

Reader = Callable[[], Mapping[str, float]]
"""Reads some values, by their names; may leave any out, may raise."""


@define(eq=False)
class Sampler:
    """Asks all readers; `unreadable` is told the first failure of each, by name."""

    readers: Mapping[str, Reader]
    unreadable: Callable[[str, Exception], None]
    _failed: set[str] = field(init=False, factory=set)

    def sample(self) -> dict[str, float]:
        """Return what can be read now."""
        values: dict[str, float] = {}
        for name, read in self.readers.items():
            try:
                values.update(read())
            except Exception as error:  # noqa: BLE001 - whatever a kernel, container or driver raises
                if name not in self._failed:
                    self._failed.add(name)
                    self.unreadable(name, error)
        return values


@define(eq=False)
class Rates:
    """Turns counters that only grow into changes per second; the first call gives none."""

    read: Callable[[], Mapping[str, float]]
    clock: Callable[[], float] = time.monotonic
    _before: tuple[float, Mapping[str, float]] | None = field(init=False, default=None)

    def __call__(self) -> dict[str, float]:
        """Return `NAME_per_second` of each counter since the last call; one that went back is left out."""
        now, values = self.clock(), self.read()
        then, before = self._before or (now, {})
        self._before = (now, values)
        if now <= then:
            return {}
        return {
            f"{name}_per_second": (value - before[name]) / (now - then)
            for name, value in values.items()
            if name in before and value >= before[name]
        }


def host_readers(psutil: Any, folder: Path) -> dict[str, Reader]:
    """Make the readers of the machine and of this process; `folder` is on the disk whose free space counts."""
    process = psutil.Process()  # kept: its cpu_percent is the mean since the last call on the same object
    psutil.cpu_percent()
    process.cpu_percent()
    return {
        "cpu": lambda: {"cpu_percent": psutil.cpu_percent()},
        "process cpu": lambda: {"process_cpu_percent": process.cpu_percent()},
        "load": lambda: {"load_1m": psutil.getloadavg()[0]},
        "memory": lambda: _memory(psutil.virtual_memory()),
        "process memory": lambda: {"process_rss_bytes": float(process.memory_info().rss)},
        "disk space": lambda: {"disk_free_bytes": float(psutil.disk_usage(str(folder)).free)},
        "disk": Rates(lambda: _disk(psutil.disk_io_counters())),
        "network": Rates(lambda: _network(psutil.net_io_counters())),
    }


def _memory(memory: Any) -> dict[str, float]:
    return {"memory_used_bytes": float(memory.used), "memory_percent": float(memory.percent)}


def _disk(counters: Any) -> dict[str, float]:
    """Name the counters; psutil gives None where there is no disk to be seen, as in some containers."""
    if counters is None:
        return {}
    return {"disk_read_bytes": counters.read_bytes, "disk_write_bytes": counters.write_bytes}


def _network(counters: Any) -> dict[str, float]:
    if counters is None:
        return {}
    return {"net_received_bytes": counters.bytes_recv, "net_sent_bytes": counters.bytes_sent}
