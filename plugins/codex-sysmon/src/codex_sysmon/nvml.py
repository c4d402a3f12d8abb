"""NVIDIA GPUs through NVML.

One rule: handles are looked up once; each field is a reader of its own, so one that a GPU lacks costs only itself.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from codex_sysmon.sampling import Reader


@frozen
class Gpus:
    """The GPUs that were found: their names, and their readers by `gpu0 power` and the like."""

    names: tuple[str, ...]
    readers: dict[str, Reader]


def open_gpus(nvml: Any) -> Gpus:
    """Open NVML and find its devices; `nvml` is the module `pynvml`, or one like it.

    Raises `nvml.NVMLError` where there is no driver. A device that cannot be opened has a reader that raises.
    """
    nvml.nvmlInit()
    names: list[str] = []
    readers: dict[str, Reader] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            names.append(_text(nvml.nvmlDeviceGetName(handle)))
        except nvml.NVMLError as error:
            readers[f"gpu{index}"] = _raiser(error)
            continue
        readers |= {
            f"gpu{index} {field}": read for field, read in _fields(nvml, handle, f"gpu{index}").items()
        }
    return Gpus(tuple(names), readers)


def _fields(nvml: Any, handle: Any, gpu: str) -> dict[str, Reader]:
    """Make a device's readers; a field that it does not support is left out from the start."""

    def memory() -> dict[str, float]:
        info = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            f"{gpu}_memory_used_bytes": float(info.used),
            f"{gpu}_memory_percent": 100.0 * info.used / info.total,
        }

    def utilization() -> dict[str, float]:
        return {f"{gpu}_utilization_percent": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)}

    def power() -> dict[str, float]:
        return {f"{gpu}_power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}

    def temperature() -> dict[str, float]:
        return {
            f"{gpu}_temperature_celsius": float(
                nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            )
        }

    def clock() -> dict[str, float]:
        return {f"{gpu}_sm_clock_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))}

    all_fields: dict[str, Reader] = {
        "memory": memory,
        "utilization": utilization,
        "power": power,
        "temperature": temperature,
        "clock": clock,
    }
    return {name: read for name, read in all_fields.items() if _supported(nvml, read)}


def _supported(nvml: Any, read: Reader) -> bool:
    try:
        read()
    except nvml.NVMLError_NotSupported:
        return False
    except nvml.NVMLError:
        return True  # out of order just now, not missing: it is asked again, and named by the sampler
    return True


def _raiser(error: Exception) -> Reader:
    def read() -> dict[str, float]:
        raise error

    return read


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
