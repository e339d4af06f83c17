"""What a process runs on: device, backend, precision, threads and the cache folder."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast, get_args

from mien.engine.checks import as_number, as_whole
from mien.engine.errors import InputError

Precision = Literal["auto", "float32", "float16", "bfloat16", "float8"]
Execution = Literal["auto", "eager", "graphs", "compiled"]

MAX_THREADS = 256
MAX_BATCH = 64
_WHOLE: dict[str, tuple[int, float, str]] = {
    "threads": (0, MAX_THREADS, f"a whole number from 1 to {MAX_THREADS}, or 0 for all cores"),
    "frames_at_once": (1, math.inf, "a whole number of 1 or more"),
    "batch_size": (1, MAX_BATCH, f"a whole number from 1 to {MAX_BATCH}"),
}
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")


def default_cache_folder() -> Path:
    """Where bundles and engines of this user are kept: $MIEN_CACHE, $XDG_CACHE_HOME/mien or ~/.cache/mien."""
    if own := os.environ.get("MIEN_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "mien"
    return Path("~/.cache/mien").expanduser()


def check_precision(text: str) -> Precision:
    """A precision by its name. Raises InputError."""
    for known in get_args(Precision):
        if text == known:
            return cast(Precision, known)
    raise InputError(f"unknown precision {text!r}: use one of {', '.join(get_args(Precision))}")


def check_execution(text: str) -> Execution:
    """A way of launching by its name. Raises InputError."""
    for known in get_args(Execution):
        if text == known:
            return cast(Execution, known)
    raise InputError(f"unknown execution {text!r}: use one of {', '.join(get_args(Execution))}")


def usable_cores() -> int:
    """How many cores this process may use: its affinity mask, cut by the control group's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the process is; what the user wants done is an `EditSpec`.

    device: "cpu", "cuda" or "cuda:N". backend: a name of `mien.engine.backend.names()`, or "auto": the first usable.
    precision: of the networks' arithmetic; a backend that cannot do it says so. "auto": float32, or int8 where the bundle
    has a network so and the backend runs it; on CUDA float16 in the networks that make pictures. "float8": so too, and e4m3 in the
    UNet's linear layers where that is faster on this CUDA device, see cuda/float8_trial.py. execution: of torch on CUDA;
    "graphs" launches each network as a whole, "compiled" so what torch.compile makes of it, "eager" neither; "auto": graphs.
    threads: per network, 0 for `usable_cores()`. frames_at_once: how many frames the caller may finish at a time, which then
    share the threads. batch_size: most rows of a denoiser call, which faces and frames under work then share (see rows.py); 1
    for calls of their own. batch_wait_s: how long rows wait for others at most.
    cache_folder: where bundles that are not packaged are looked for.
    """

    device: str = "cpu"
    backend: str = "auto"
    precision: Precision = "auto"
    execution: Execution = "auto"
    threads: int = 0
    frames_at_once: int = 1
    batch_size: int = 1
    batch_wait_s: float = 0.05
    cache_folder: Path = field(default_factory=default_cache_folder)

    def __post_init__(self) -> None:
        """Raise InputError for a value outside its range."""
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise InputError(f"unknown device {self.device!r}: use cpu, cuda or cuda:N")
        check_precision(self.precision)
        check_execution(self.execution)
        if self.execution not in (on_cpu := ("auto", "eager")) and self.device == "cpu":
            raise InputError(f"execution is {self.execution!r} on the cpu: use {' or '.join(on_cpu)}, or a CUDA device")
        if self.precision == "float8" and self.device == "cpu":
            known = ", ".join(name for name in get_args(Precision) if name != "float8")
            raise InputError(f"precision is 'float8' on the cpu: use one of {known}, or a CUDA device")
        for name, (low, high, accepted) in _WHOLE.items():
            if (whole := as_whole(getattr(self, name), low, high)) is None:
                raise InputError(f"{name} is {getattr(self, name)!r}: use {accepted}")
            object.__setattr__(self, name, whole)
        wait_s = as_number(self.batch_wait_s)
        if wait_s is None or wait_s < 0.0:
            raise InputError(f"batch_wait_s is {self.batch_wait_s!r}: use a number of seconds of 0 or more")
        object.__setattr__(self, "batch_wait_s", wait_s)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those that networks are made ready for, ascending: every one on the CPU, powers of two where each is captured."""
        if self.device == "cpu":
            return tuple(range(1, self.batch_size + 1))
        return (*(1 << i for i in range(self.batch_size.bit_length()) if 1 << i < self.batch_size), self.batch_size)

    def for_one_frame(self) -> EngineConfig:
        """What is left for each of the frames finished at a time."""
        return replace(self, threads=max(1, self.num_threads // self.frames_at_once), frames_at_once=1)

    @property
    def num_threads(self) -> int:
        """Threads a network may use, at least 1."""
        return self.threads or usable_cores()
