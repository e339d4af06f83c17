"""How long calls take: warmed up, many times, and in turns where they are compared. By events on a GPU, by the clock on a CPU.

A GPU's calls are either captured in a CUDA graph, several to a sample, which is the device's time alone, or launched one after
another, which is what a caller without graphs waits for. Samples of calls that are compared alternate, and the order changes
from turn to turn, so that a clock that falls in the meantime takes from all of them alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Any

import numpy as np

Call = Callable[[], object]

WARM_UPS = 3
WARM_UP_S = 0.1  # at least, on a GPU: its clock rises with work
SAMPLE_S = 2e-3  # a sample of several calls lasts this long, so that what an event costs does not count
COVER_CYCLES = 100_000  # of the device, while which the first launch of a turn gets to it
MIN_SAMPLES, MAX_SAMPLES = 10, 400
MAX_CALLS = 256  # in a sample


@dataclass(frozen=True)
class Times:
    """Seconds of one call. samples: each the mean of `calls` calls."""

    samples: tuple[float, ...]
    calls: int = 1

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("no samples: nothing was timed")

    def percentile_s(self, percent: float) -> float:
        """Interpolated between samples."""
        return float(np.percentile(self.samples, percent))

    @cached_property
    def p50_s(self) -> float:
        """The median."""
        return self.percentile_s(50)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.percentile_s(75) - self.percentile_s(25)) / self.p50_s if self.p50_s else 0.0

    def as_dict(self) -> dict[str, float | int]:
        """As a row of results has them."""
        found: dict[str, float | int] = {f"p{p}_ms": significant(1e3 * self.percentile_s(p)) for p in (50, 95, 99)}
        return {**found, "spread": round(self.spread, 4), "samples": len(self.samples), "calls_per_sample": self.calls}


def significant(value: float, digits: int = 5) -> float:
    """Rounded to so many digits that count."""
    return float(f"{value:.{digits}g}")


class CpuWatch:
    """Times calls by the clock of this process."""

    warm_up_s = 0.0

    def samples(
        self, works: Mapping[str, Call], turns: Sequence[Sequence[str]], before: Call | None
    ) -> dict[str, list[float]]:
        """Seconds of each work in each turn; turns: the names in the order they run. before: is called before every sample."""
        found: dict[str, list[float]] = {name: [] for name in works}
        for turn in turns:
            for name in turn:
                if before is not None:
                    before()
                begin = time.perf_counter()
                works[name]()
                found[name].append(time.perf_counter() - begin)
        return found

    def wait(self) -> None:
        """Nothing is ever under way."""


class CudaWatch:
    """Times calls by events of the current stream."""

    warm_up_s = WARM_UP_S

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def samples(
        self, works: Mapping[str, Call], turns: Sequence[Sequence[str]], before: Call | None
    ) -> dict[str, list[float]]:
        """As CpuWatch; the device finishes a turn before the next one begins."""
        cuda = self._torch.cuda
        found: dict[str, list[float]] = {name: [] for name in works}
        pairs = {name: (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for name in works}
        for turn in turns:
            cuda._sleep(COVER_CYCLES)
            for name in turn:
                if before is not None:
                    before()
                begin, end = pairs[name]
                begin.record()
                works[name]()
                end.record()
            cuda.synchronize()
            for name, (begin, end) in pairs.items():
                found[name].append(begin.elapsed_time(end) / 1e3)
        return found

    def wait(self) -> None:
        """Until the device has done all."""
        self._torch.cuda.synchronize()


def watch_of(device: str) -> CpuWatch | CudaWatch:
    """The one that fits "cpu", "cuda" or "cuda:N"."""
    return CpuWatch() if device == "cpu" else CudaWatch()


def in_turns(
    works: Mapping[str, Call],
    watch: Any,
    *,
    seconds: float,
    calls: Mapping[str, int] | None = None,
    before: Call | None = None,
    min_samples: int = MIN_SAMPLES,
) -> dict[str, Times]:
    """Time works against each other for about so many seconds in all.

    calls: how many calls one run of a work is, 1 if not given. before: not timed, such as what empties the caches.
    """
    if not works:
        raise ValueError("no works: nothing to time")
    names, begin, rounds = tuple(works), time.perf_counter(), 0
    while rounds < WARM_UPS or time.perf_counter() - begin < min(watch.warm_up_s, seconds / 4):
        for work in works.values():
            work()
        watch.wait()
        rounds += 1
    begin = time.perf_counter()
    first = watch.samples(works, [names], before)
    turn_s = max(time.perf_counter() - begin, sum(times[0] for times in first.values()), 1e-9)
    count = min(max(math.floor(seconds / turn_s), min_samples), MAX_SAMPLES)
    orders = [names[i % len(names) :] + names[: i % len(names)] for i in range(count)]
    found = watch.samples(works, orders, before)
    number = calls or {}
    return {
        name: Times(tuple(s / number.get(name, 1) for s in samples), number.get(name, 1))
        for name, samples in found.items()
    }


def times_faster(one: Times, other: Times) -> tuple[float, float, float]:
    """How many times faster `one` is than `other`: quartile, median and quartile over their turns, each turn by itself."""
    ratios = np.asarray(other.samples) / np.asarray(one.samples)
    low, median, high = (round(float(value), 4) for value in np.percentile(ratios, [25, 50, 75]))
    return low, median, high


def rotating(calls: Sequence[Call]) -> Call:
    """A call that is each of them in turn: inputs that together do not fit a cache are read from memory every time."""
    if not calls:
        raise ValueError("no calls to rotate")
    turn = cycle(calls)
    return calls[0] if len(calls) == 1 else lambda: next(turn)()


def when_first_called(make: Callable[[], Call]) -> Call:
    """What `make` makes, made at its first call."""
    made: list[Call] = []

    def call() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return call


def repeated(call: Call, count: int) -> Call:
    """So many calls of it."""

    def run() -> None:
        for _ in range(count):
            call()

    return run


def calls_in_sample(call: Call, watch: Any, sample_s: float = SAMPLE_S, multiple_of: int = 1) -> int:
    """How many calls last as long as a sample should; a multiple of the number of inputs that rotate."""
    for _ in range(WARM_UPS):
        call()
    watch.wait()
    one_s = float(min(watch.samples({"": call}, [("",)] * 3, None)[""]))
    wanted = math.ceil(sample_s / max(one_s, sample_s / MAX_CALLS))
    return multiple_of * math.ceil(wanted / multiple_of)


def captured(call: Call, count: int) -> Call:
    """A CUDA graph's replay of so many calls."""
    import torch

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            call()
        torch.cuda.synchronize()
        graph.capture_begin()  # torch.cuda.graph would collect garbage first, which takes longer than all the rest
        try:
            for _ in range(count):
                call()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


def cache_flush(device: str) -> Call:
    """A call that fills the last cache with something else: writes twice its size."""
    import torch

    size = 2 * (1 << 25)
    if device != "cpu":
        size = 2 * max(int(torch.cuda.get_device_properties(device).L2_cache_size), 1 << 25)
    buffer = torch.empty(size // 4, dtype=torch.int32, device=device)
    return lambda: buffer.zero_()
