"""Streams that deliver frames at a fixed rate, and what becomes of each: when it came out, or that it was dropped.

Nothing here knows of GPUs or networks: what edits a batch is a function, and time is a clock, so that a test can simulate both.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


class Batch(Protocol):
    """Frames under work."""

    def is_done(self) -> bool:
        """Whether all have come out; never waits."""


Start = Callable[[Sequence[int]], Batch]
"""Begins to edit a frame of each of these streams."""


class Leaving(Protocol):
    """An edited frame on its way out, as to become a packet."""

    def out_s(self) -> float | None:
        """When it came out, by the clock; None while it has not. Never waits."""


Out = Callable[[int], Leaving]
"""Begins to take the oldest edited frame of a stream out."""


@dataclass(frozen=True, slots=True)
class Pace:
    """streams: each with so many frames a second, their phases spread evenly. frames: of each stream. rows: most frames of a batch.
    wait_s: how long a frame waits for others to share its batch. depth: batches under work at a time. held: frames of a stream that
    are begun and not out at a time.

    A stream keeps one frame waiting: when the next comes before it was begun, it is dropped.
    """

    streams: int
    fps: float
    frames: int
    rows: int
    wait_s: float = 0.004
    depth: int = 2
    held: int = 3

    def due_s(self, stream: int, frame: int) -> float:
        """When a frame comes, from the start."""
        return (frame + stream / self.streams) / self.fps


@dataclass(slots=True)
class Delivered:
    """latencies_s: of each frame that came out, in this order: from when it was due, so that a late start counts. batches: their rows."""

    latencies_s: list[float] = field(default_factory=list)
    drops: int = 0
    batches: list[int] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> float:
        """Of the latencies; infinite where nothing came out."""
        return float(1e3 * np.percentile(self.latencies_s, percent)) if self.latencies_s else float("inf")

    def skip(self, count: int) -> Delivered:
        """Without the first frames, which found everything cold."""
        return Delivered(self.latencies_s[count:], self.drops, self.batches)


def run_paced(
    start: Start,
    pace: Pace,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    out: Out | None = None,
    poll_s: float = 2e-4,
) -> Delivered:
    """Deliver all frames, edit what is waiting in batches, the oldest first, and wait for the last. A frame is out once its batch is
    edited, or when `out` says so, which the next batch does not wait for.
    """
    arrivals = deque(sorted((pace.due_s(s, f), s) for s in range(pace.streams) for f in range(pace.frames)))
    waiting: dict[int, float] = {}  # stream -> when its frame was due; the oldest first
    under_work: deque[tuple[Batch, list[tuple[int, float]]]] = deque()
    leaving: list[tuple[Leaving, int, float]] = []
    begun: Counter[int] = Counter()  # frames of a stream that are not out
    found, begin = Delivered(), clock()
    while arrivals or waiting or under_work or leaving:
        now = clock() - begin
        while under_work and under_work[0][0].is_done():
            for stream, due in under_work.popleft()[1]:
                if out is not None:
                    leaving.append((out(stream), stream, due))
                    continue
                found.latencies_s.append(now - due)
                begun[stream] -= 1
        for frame in list(leaving):
            if (at := frame[0].out_s()) is not None:
                leaving.remove(frame)
                found.latencies_s.append(at - begin - frame[2])
                begun[frame[1]] -= 1
        while arrivals and arrivals[0][0] <= now:
            due, stream = arrivals.popleft()
            found.drops += waiting.pop(stream, None) is not None
            waiting[stream] = due
        ready = [stream for stream in waiting if begun[stream] < pace.held]
        is_full = len(ready) >= min(pace.rows, pace.streams)
        is_late = bool(ready) and now - waiting[ready[0]] >= pace.wait_s
        if ready and (is_full or is_late or not arrivals) and len(under_work) < pace.depth:
            chosen = sorted(ready[: pace.rows])
            under_work.append((start(chosen), [(stream, waiting.pop(stream)) for stream in chosen]))
            begun.update(chosen)
            found.batches.append(len(chosen))
            continue
        pause = poll_s
        if not under_work and not waiting and not leaving and arrivals:
            pause = max(arrivals[0][0] - now, 0.0)
        sleep(pause)
    return found
