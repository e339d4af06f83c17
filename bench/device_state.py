"""What a measurement ran on, and how it stood: names, versions, clocks, power, temperature.

By NVML (the package nvidia-ml-py) where it is, else by nvidia-smi, else by torch alone; a row of results says which.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mien.engine.config import usable_cores

FIELDS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "driver_version", "power.limit")
NAMES = ("sm_mhz", "memory_mhz", "power_w", "temperature_c", "driver", "power_limit_w")
SMI_AGE_S = 5.0  # an answer of nvidia-smi, which takes a good part of a second, is good for so long


def processor() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = found.group(1).strip() if found else name
    except OSError:
        pass
    return f"{name} ({usable_cores()} cores)"


def parse_smi(line: str) -> dict[str, float | str]:
    """One line of `nvidia-smi --query-gpu=FIELDS --format=csv,noheader,nounits`; what it does not know is left out."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != len(FIELDS):
        raise ValueError(f"nvidia-smi answered {line!r}, expected {len(FIELDS)} values")
    found: dict[str, float | str] = {}
    for name, part in zip(NAMES, parts, strict=True):
        if name == "driver":
            found[name] = part
        elif re.fullmatch(r"\d+(\.\d+)?", part):
            found[name] = float(part)
    return found


class Probe:
    """Reads a device's state. run: runs a command and gives what it printed; clock: seconds."""

    def __init__(
        self,
        device: str,
        *,
        run: Callable[[Sequence[str]], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self._clock = device, clock
        self._run = run or _output
        self._nvml: Any = None
        self._handle: Any = None
        self._uuid = ""
        self._last: tuple[float, dict[str, float | str]] | None = None
        self.source = "none"
        if device == "cpu":
            return
        self._uuid = f"GPU-{getattr(_properties(device), 'uuid', '')}"
        self.source = self._open()

    def state(self) -> dict[str, float | str]:
        """sm_mhz, memory_mhz, power_w, temperature_c, driver, power_limit_w, as far as they are known, and `source`."""
        if self.source == "nvml":
            return {**self._by_nvml(), "source": "nvml"}
        if self.source == "nvidia-smi":
            now = self._clock()
            if self._last is None or now - self._last[0] > SMI_AGE_S:
                command = [
                    "nvidia-smi",
                    "-i",
                    self._uuid,
                    f"--query-gpu={','.join(FIELDS)}",
                    "--format=csv,noheader,nounits",
                ]
                try:
                    self._last = now, parse_smi(self._run(command).strip().splitlines()[0])
                except (OSError, subprocess.SubprocessError, ValueError, IndexError):
                    return {"source": "none"}
            return {**self._last[1], "source": "nvidia-smi"}
        return {"source": "none"}

    def about(self) -> dict[str, Any]:
        """What does not change while a process runs: name, memory, processors and the like."""
        if self.device == "cpu":
            return {"name": processor(), "kind": "cpu"}
        found, state = _properties(self.device), self.state()
        return {
            "name": found.name,
            "kind": "cuda",
            "capability": f"{found.major}.{found.minor}",
            "processors": found.multi_processor_count,
            "memory_gb": round(found.total_memory / 1e9, 1),
            "l2_mb": round(getattr(found, "L2_cache_size", 0) / 1e6, 1),
            "host": processor(),
            **{key: state[key] for key in ("driver", "power_limit_w") if key in state},
        }

    def _open(self) -> str:
        if find_spec("pynvml") is not None:
            nvml = import_module("pynvml")
            try:
                nvml.nvmlInit()
                self._handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
                self._nvml = nvml
                self._by_nvml()
                return "nvml"
            except nvml.NVMLError:
                self._nvml = None
        return "none" if shutil.which("nvidia-smi") is None else "nvidia-smi"

    def _by_nvml(self) -> dict[str, float | str]:
        nvml = self._nvml
        readings: dict[str, Callable[[], Any]] = {
            "sm_mhz": lambda: float(nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM)),
            "memory_mhz": lambda: float(nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_MEM)),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3,
            "temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)),
            "driver": lambda: _text(nvml.nvmlSystemGetDriverVersion()),
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(self._handle) / 1e3,
        }
        found: dict[str, float | str] = {}
        for name, read in readings.items():
            try:
                found[name] = read()
            except nvml.NVMLError:
                continue  # this device does not tell
        return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _properties(device: str) -> Any:
    import torch

    return torch.cuda.get_device_properties(device)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
