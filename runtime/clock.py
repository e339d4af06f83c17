"""Where the time went: per-stage counts, totals and percentiles, in memory that does not grow with the run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOWEST_S = 1e-6
_RATIO = 1.02
_BINS = 1 + math.ceil(math.log(1e9) / math.log(_RATIO))


class StageClock:
    """Durations of one stage in a fixed histogram: 1 us to 1,000 s in bins 2 % wide, so percentiles are within 1 %.

    `add` belongs to one thread at a time; reading is safe from any.
    """

    __slots__ = ("_counts", "_max_s", "_min_s", "calls", "total_s")

    def __init__(self) -> None:
        self.calls = 0
        self.total_s = 0.0
        self._counts = [0] * _BINS
        self._min_s, self._max_s = math.inf, 0.0

    def add(self, seconds: float) -> None:
        """Count one call."""
        self.calls += 1
        self.total_s += seconds
        self._min_s, self._max_s = min(self._min_s, seconds), max(self._max_s, seconds)
        place = int(math.log(max(seconds, _LOWEST_S) / _LOWEST_S) / math.log(_RATIO))
        self._counts[min(place, _BINS - 1)] += 1

    def add_tail(self, seconds: float) -> None:
        """Count time of no single call, such as emptying an encoder: in the total, not in the percentiles."""
        self.total_s += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the body as one call, also when it raises."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - start_s)

    def percentile_s(self, percent: float) -> float:
        """The smallest duration that `percent` of the calls do not exceed, within 1 %; 0 without calls."""
        if not 0 <= percent <= 100:
            raise ValueError(f"percent is {percent}: give 0 to 100")
        wanted, seen = max(1, math.ceil(self.calls * percent / 100)), 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                middle_s = _LOWEST_S * math.pow(_RATIO, place + 0.5)
                return min(max(middle_s, self._min_s), self._max_s)
        return 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds."""
        return {f"p{p}": round(1000 * self.percentile_s(p), 3) for p in (50, 95, 99)}


class StageClocks:
    """One StageClock per name, made when first named. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clocks: dict[str, StageClock] = {}
        self._here = threading.local()

    def __getitem__(self, name: str) -> StageClock:
        with self._lock:
            return self._clocks.setdefault(name, StageClock())

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """Whatever this thread times as a part in the body is a part of that stage."""
        self._here.stage = stage
        try:
            yield
        finally:
            del self._here.stage

    def add_part(self, part: str, seconds: float) -> None:
        """Count a part of the stage that this thread is within: the engine's listener. Listed as STAGE/PART."""
        clock = self[f"{getattr(self._here, 'stage', 'other')}/{part}"]
        with self._lock:
            clock.add(seconds)

    def table(self) -> dict[str, dict[str, float | int]]:
        """Per stage: calls, total_s, share of all stages' time, p50_ms, p95_ms, p99_ms; parts share in the same sum."""
        with self._lock:
            clocks = dict(self._clocks)
        whole_s = sum(clock.total_s for name, clock in clocks.items() if "/" not in name)
        return {
            name: {
                "calls": clock.calls,
                "total_s": round(clock.total_s, 6),
                "share": round(clock.total_s / whole_s, 4) if whole_s else 0.0,
                **{f"{key}_ms": value for key, value in clock.percentiles_ms().items()},
            }
            for name, clock in sorted(clocks.items())
        }
