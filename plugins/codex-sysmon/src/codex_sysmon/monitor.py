"""The logger `sysmon`: a thread that samples the machine, and a hook that hands out its latest sample.

One rule: the hook only takes what is there; it reads nothing and waits for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_kernel import Outcome, PluginError, RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_sysmon.sampling import Reader

_FIRST_SAMPLE_SECONDS = 0.2  # a short run gets a sample too; less would make the CPU percentages noise
_JOIN_SECONDS = 10.0


@define(eq=False)
class SystemMonitor:
    """Adds metrics of the machine to the run's records, as split `system`.

    On a machine without an NVIDIA driver the GPU metrics are missing, which one event says.
    """

    interval: float = option(1.0, ge=0.05, le=3600.0, help="Time between two samples, in seconds.")
    gpu: bool = option(default=True, help="Sample NVIDIA GPUs too.")
    _stop: threading.Event = field(init=False, factory=threading.Event)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _thread: threading.Thread | None = field(init=False, default=None)
    _latest: dict[str, float] | None = field(init=False, default=None)
    _failure: BaseException | None = field(init=False, default=None)

    @hookimpl
    def codex_run_started(self, run: RunContext) -> None:
        """Start the sampling thread."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._work, args=(run,), name="codex-sysmon", daemon=True)
        self._thread.start()

    @hookimpl
    def codex_collect_metrics(self) -> Mapping[str, float] | None:
        """Return the latest sample, once; raise PluginError where the sampling thread has died."""
        with self._lock:
            latest, self._latest = self._latest, None
            failure, self._failure = self._failure, None
        if failure is not None:
            raise PluginError(f"sysmon: sampling stopped: {type(failure).__name__}: {failure}") from failure
        return latest

    @hookimpl
    def codex_run_finished(self, run: RunContext, outcome: Outcome) -> None:  # noqa: ARG002 - the hook's own words
        """Stop the thread and wait for it."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_JOIN_SECONDS)
            if thread.is_alive():
                run.report.warning(
                    f"sysmon: a reading has not come back for {_JOIN_SECONDS:.0f} s; it is left behind"
                )

    def _work(self, run: RunContext) -> None:
        try:
            self._sample_until_stopped(run)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the hook
            with self._lock:
                self._failure = error

    def _sample_until_stopped(self, run: RunContext) -> None:
        import psutil

        from codex_sysmon.sampling import Sampler, host_readers

        readers, close = _own_gpus(run) if self.gpu else ({}, _nothing)
        sampler = Sampler({**host_readers(psutil, run.folder), **readers}, _reporter(run))
        wait = min(self.interval, _FIRST_SAMPLE_SECONDS)
        while not self._stop.wait(wait):
            sample = sampler.sample()
            with self._lock:
                self._latest = sample
            wait = self.interval
        close()


def _own_gpus(run: RunContext) -> tuple[dict[str, Reader], Callable[[], None]]:
    import pynvml

    return gpu_readers(run, pynvml)


def gpu_readers(run: RunContext, nvml: Any) -> tuple[dict[str, Reader], Callable[[], None]]:
    """Return the readers of the GPUs, none where there is no driver, and what closes them."""
    from codex_sysmon.nvml import open_gpus

    try:
        gpus = open_gpus(nvml)
    except nvml.NVMLError as error:
        run.report.event("sysmon_no_gpu", reason=str(error))
        return {}, _nothing
    run.report.event("sysmon_gpus", names=list(gpus.names))
    return gpus.readers, nvml.nvmlShutdown


def _reporter(run: RunContext) -> Callable[[str, Exception], None]:
    def unreadable(name: str, error: Exception) -> None:
        run.report.event("sysmon_unreadable", what=name, error=f"{type(error).__name__}: {error}")

    return unreadable


def _nothing() -> None:
    """Close what was never opened."""
