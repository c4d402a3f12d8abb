"""The logger `sysmon`: real samples under load, GPUs by a stand-in for NVML, and readings that fail."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import Outcome, PluginError
from codex_kernel.testing.logger import LoggerContract
from codex_kernel.testing.toys import make_run
from codex_sysmon.monitor import SystemMonitor, gpu_readers
from codex_sysmon.nvml import open_gpus
from codex_sysmon.sampling import Rates, Sampler, host_readers

OUTCOME = Outcome("completed", 0, "max_steps", 1, 1, 1, 1.0, {}, None, ())


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - NVML's own name
    pass


class FakeNVML:
    """Two GPUs: the first has all fields, the second no power reading."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1

    def __init__(self, *, driver: bool = True, lost: int | None = None) -> None:
        self.driver, self.lost, self.opened, self.lookups = driver, lost, 0, 0

    def nvmlInit(self):  # noqa: N802 - NVML's own names, here and below
        if not self.driver:
            raise NVMLError("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlShutdown(self):  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self.lookups += 1
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"GPU {handle}".encode()

    def _present(self, handle):
        if handle == self.lost:
            raise NVMLError("GPU is lost")

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        self._present(handle)
        return SimpleNamespace(used=2**30, total=2**32)

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        self._present(handle)
        return SimpleNamespace(gpu=70, memory=30)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        if handle == 1:
            raise NVMLError_NotSupported("Not Supported")
        return 250_500

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        return 60 + sensor

    def nvmlDeviceGetClockInfo(self, handle, clock):  # noqa: N802
        return 1980


def samples_under_load(monitor: SystemMonitor, count: int) -> list[dict[str, float]]:
    """Keep this process busy until the monitor has given so many samples."""
    samples = []
    while len(samples) < count:
        sum(math.sqrt(number) for number in range(20_000))
        sample = monitor.codex_collect_metrics()
        if sample is not None:
            samples.append(sample)
    return samples


def test_a_busy_process_is_seen(tmp_path):
    """Under load both CPU percentages are above zero, memory and rates are there, and every name has its unit."""
    run = make_run(tmp_path)
    monitor = SystemMonitor(interval=0.1)
    monitor.codex_run_started(run=run)
    samples = samples_under_load(monitor, 3)
    monitor.codex_run_finished(run=run, outcome=OUTCOME)
    last = samples[-1]
    assert last["cpu_percent"] > 0
    assert last["process_cpu_percent"] > 0
    assert last["process_rss_bytes"] > 1e6
    assert last["memory_used_bytes"] > last["process_rss_bytes"] / 2
    assert 0 < last["memory_percent"] < 100
    assert last["disk_free_bytes"] > 0
    units = ("_percent", "_bytes", "_bytes_per_second", "_1m", "_watts", "_celsius", "_mhz")
    assert all(name.endswith(units) for name in last)
    assert all(isinstance(value, float) and math.isfinite(value) for value in last.values())


def test_a_sample_is_handed_out_once(tmp_path):
    """Asked twice between two samples, the second answer is None, at once."""
    run = make_run(tmp_path)
    monitor = SystemMonitor(interval=3600)
    assert monitor.codex_collect_metrics() is None
    monitor.codex_run_started(run=run)
    samples_under_load(monitor, 1)
    assert monitor.codex_collect_metrics() is None
    monitor.codex_run_finished(run=run, outcome=OUTCOME)


def test_the_thread_ends_with_the_run(tmp_path):
    """No thread is left, however long the interval, and a finish without a start is no error."""
    run = make_run(tmp_path)
    before = threading.active_count()
    monitor = SystemMonitor(interval=3600)
    monitor.codex_run_finished(run=run, outcome=OUTCOME)
    monitor.codex_run_started(run=run)
    monitor.codex_run_finished(run=run, outcome=OUTCOME)
    assert threading.active_count() == before


def test_all_fields_of_all_gpus_are_read():
    """Each GPU has its own metrics with units; one that a GPU lacks is left out, its handle looked up once."""
    nvml = FakeNVML()
    gpus = open_gpus(nvml)
    failures = []
    sampler = Sampler(gpus.readers, lambda name, error: failures.append(name))
    expected = {
        "memory_used_bytes": 2.0**30,
        "memory_percent": 25.0,
        "utilization_percent": 70.0,
        "temperature_celsius": 60.0,
        "sm_clock_mhz": 1980.0,
    }
    wanted = {f"gpu{index}_{name}": value for index in (0, 1) for name, value in expected.items()}
    assert sampler.sample() == sampler.sample() == {**wanted, "gpu0_power_watts": 250.5}
    assert failures == []
    assert gpus.names == ("GPU 0", "GPU 1")
    assert nvml.lookups == 2


def test_a_lost_gpu_leaves_the_others_and_is_named_once_per_field():
    """A field that raises is left out of the sample and comes back when it can be read again."""
    nvml = FakeNVML(lost=0)
    failures = []
    sampler = Sampler(open_gpus(nvml).readers, lambda name, error: failures.append(name))
    for _ in range(3):
        sample = sampler.sample()
        assert "gpu0_memory_used_bytes" not in sample
        assert "gpu1_memory_used_bytes" in sample
        assert sample["gpu0_power_watts"] == 250.5
    assert failures == ["gpu0 memory", "gpu0 utilization"]
    nvml.lost = None
    assert "gpu0_memory_used_bytes" in sampler.sample()


def test_a_gpu_that_cannot_be_opened_does_not_hide_the_other():
    """The device is named as unreadable, the other is sampled."""

    class OneBroken(FakeNVML):
        def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
            if index == 0:
                raise NVMLError("GPU is lost")
            return index

    failures = []
    sample = Sampler(open_gpus(OneBroken()).readers, lambda name, error: failures.append(name)).sample()
    assert failures == ["gpu0"]
    assert "gpu1_utilization_percent" in sample


def test_without_a_driver_one_event_says_so(tmp_path):
    """A machine without GPUs is no error and no warning."""
    run = make_run(tmp_path)
    readers, close = gpu_readers(run, FakeNVML(driver=False))
    close()
    assert readers == {}
    assert run.report.events == [("sysmon_no_gpu", {"reason": "NVML Shared Library Not Found"})]
    assert run.report.warnings == []


def test_nvml_is_closed_again(tmp_path):
    """What was opened is shut down."""
    nvml = FakeNVML()
    run = make_run(tmp_path)
    _, close = gpu_readers(run, nvml)
    close()
    assert nvml.opened == 0
    assert run.report.events == [("sysmon_gpus", {"names": ["GPU 0", "GPU 1"]})]


def test_what_a_container_hides_does_not_stop_the_rest(tmp_path):
    """Readings that raise or give None are left out, each named once; all others stay."""

    def refused(*_arguments):
        raise PermissionError("/proc/stat is not for you")

    hidden = SimpleNamespace(
        Process=psutil.Process,
        cpu_percent=lambda: 1.0,
        getloadavg=refused,
        virtual_memory=refused,
        disk_usage=psutil.disk_usage,
        disk_io_counters=lambda: None,
        net_io_counters=lambda: None,
    )
    failures = []
    sampler = Sampler(host_readers(hidden, tmp_path), lambda name, error: failures.append((name, str(error))))
    for _ in range(3):
        assert set(sampler.sample()) == {
            "cpu_percent",
            "process_cpu_percent",
            "process_rss_bytes",
            "disk_free_bytes",
        }
    assert [name for name, _ in failures] == ["load", "memory"]


def test_a_thread_that_dies_is_reported(tmp_path, monkeypatch):
    """The failure reaches the caller of the hook, once."""

    def broken(*_arguments):
        raise OSError("no /proc here")

    monkeypatch.setattr(psutil, "Process", broken)
    run = make_run(tmp_path)
    monitor = SystemMonitor(gpu=False)
    monitor.codex_run_started(run=run)
    monitor._thread.join()
    with pytest.raises(PluginError, match="sampling stopped: OSError: no /proc here"):
        monitor.codex_collect_metrics()
    assert monitor.codex_collect_metrics() is None
    monitor.codex_run_finished(run=run, outcome=OUTCOME)


@given(
    points=st.lists(
        st.tuples(st.floats(0.001, 1e3), st.integers(0, 10**15), st.booleans()), min_size=1, max_size=10
    )
)
def test_rates_are_changes_over_time(points):
    """A rate is never negative, times the time it is the change, and a counter that restarts gives none."""
    now, counter = 0.0, 0
    state = {}
    rates = Rates(lambda: {"sent_bytes": state["counter"]}, clock=lambda: state["now"])
    state.update(now=now, counter=counter)
    assert rates() == {}
    for seconds, change, restart in points:
        before = counter
        now, counter = now + seconds, 0 if restart else counter + change
        state.update(now=now, counter=counter)
        result = rates()
        if counter < before:
            assert result == {}
        else:
            assert result["sent_bytes_per_second"] * seconds == pytest.approx(counter - before, rel=1e-3)


@pytest.mark.parametrize("interval", [0.0, -1.0, 4000.0])
def test_the_interval_has_bounds(interval):
    """An interval that would spin or never sample is refused."""
    with pytest.raises(ValueError, match="expected a number"):
        SystemMonitor(interval=interval)


def test_the_plugin_class_imports_neither_psutil_nor_nvml():
    """Naming the logger in a manifest that is only validated costs nothing."""
    code = "import sys, codex_sysmon.monitor; assert not {'psutil', 'pynvml', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


class TestSystemMonitor(LoggerContract):
    def make(self, folder):
        return SystemMonitor(interval=0.05)
