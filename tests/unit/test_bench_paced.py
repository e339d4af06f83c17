"""Paced streams against a simulated clock: when frames come out, what shares a batch, what is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from mien.bench.latency import figures
from mien.bench.paced import Delivered, Pace, run_paced


@dataclass
class Simulated:
    """A device that takes base_s and row_s for a batch, one batch after another; time passes when somebody sleeps."""

    base_s: float
    row_s: float = 0.0
    now: float = 100.0
    free_s: float = 0.0
    batches: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    def start(self, streams: Sequence[int]) -> object:
        begin = max(self.now, self.free_s)
        self.free_s = done_s = begin + self.base_s + self.row_s * len(streams)
        self.batches.append((self.now - 100.0, tuple(streams)))

        class Batch:
            def is_done(batch) -> bool:
                return self.now >= done_s

        return Batch()

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)

    def run(self, pace: Pace) -> Delivered:
        return run_paced(self.start, pace, clock=lambda: self.now, sleep=self.sleep)  # type: ignore[arg-type]


def test_a_single_stream_waits_for_nobody() -> None:
    device = Simulated(base_s=0.010)
    found = device.run(Pace(streams=1, fps=25, frames=50, rows=8))
    assert found.drops == 0 and found.batches == [1] * 50
    assert max(found.latencies_s) < 0.0105 and min(found.latencies_s) >= 0.010


def test_frames_that_come_together_share_a_batch() -> None:
    """Eight streams, evenly spread over 33 ms: within 5 ms of waiting a frame meets the next one or two."""
    device = Simulated(base_s=0.004, row_s=0.001)
    found = device.run(Pace(streams=8, fps=30, frames=30, rows=8, wait_s=0.005))
    assert found.drops == 0 and sum(found.batches) == 240
    assert 1.9 <= np.mean(found.batches) <= 3 and all(sorted(rows) == list(rows) for _, rows in device.batches)
    assert max(found.latencies_s) < 0.005 + 2 * 0.007 + 0.001


def test_a_full_batch_goes_at_once() -> None:
    device = Simulated(base_s=0.001)
    found = device.run(Pace(streams=2, fps=10, frames=5, rows=1, wait_s=10.0))
    assert found.batches == [1] * 10 and max(found.latencies_s) < 0.0015


def test_a_device_that_is_too_slow_drops_what_is_stale() -> None:
    """A frame takes 100 ms and one comes every 40: with two under work and one waiting the rest is replaced by newer ones."""
    found = Simulated(base_s=0.1).run(Pace(streams=1, fps=25, frames=100, rows=1))
    assert found.drops + len(found.latencies_s) == 100
    assert found.drops == pytest.approx(60, abs=3), "it keeps up with 10 of 25 a second"
    assert max(found.latencies_s) < 0.1 * 3 + 0.04 + 0.001


def test_a_late_start_counts() -> None:
    """The latency runs from when a frame is due, not from when somebody looked."""

    class Stalled(Simulated):
        def start(self, streams: Sequence[int]) -> object:
            self.now += 0.05  # the host hangs
            return super().start(streams)

    found = Stalled(base_s=0.001).run(Pace(streams=1, fps=10, frames=10, rows=1))
    assert min(found.latencies_s) >= 0.051


@dataclass
class Encoding:
    """Encoders behind a simulated device, one a stream: each takes so long for a frame, one after another."""

    device: Simulated
    frame_s: float
    free_s: dict[int, float] = field(default_factory=dict)
    most: int = 0
    ends: dict[int, list[float]] = field(default_factory=dict)

    def out(self, stream: int) -> object:
        begin = max(self.device.now, self.free_s.get(stream, 0.0))
        self.free_s[stream] = done_s = begin + self.frame_s
        self.ends.setdefault(stream, []).append(done_s)
        self.most = max(self.most, sum(end > self.device.now for end in self.ends[stream]))

        class Frame:
            def out_s(frame) -> float | None:
                return done_s if self.device.now >= done_s else None

        return Frame()

    def run(self, pace: Pace) -> Delivered:
        device = self.device
        return run_paced(device.start, pace, clock=lambda: device.now, sleep=device.sleep, out=self.out)  # type: ignore[arg-type]


def test_a_frame_is_out_when_its_packet_is_and_the_next_batch_does_not_wait_for_it() -> None:
    """10 ms of edit and 20 of encoding, every 40 ms of two streams: 30 ms each, though a batch goes every 20 ms."""
    encoding = Encoding(Simulated(base_s=0.010), 0.020)
    found = encoding.run(Pace(streams=2, fps=25, frames=50, rows=1))
    assert found.drops == 0 and found.batches == [1] * 100 and len(found.latencies_s) == 100
    assert 0.030 <= min(found.latencies_s) and max(found.latencies_s) < 0.0305
    busy = Encoding(Simulated(base_s=0.018), 0.030)
    found = busy.run(Pace(streams=2, fps=25, frames=50, rows=1))
    assert found.drops == 0 and max(found.latencies_s) < 0.049, "edit and encoding overlap"


def test_an_encoder_that_is_too_slow_holds_its_stream_back() -> None:
    """A packet takes 100 ms, a frame comes every 40: three are begun and not out, one waits, and the rest is dropped."""
    encoding = Encoding(Simulated(base_s=0.001), 0.100)
    found = encoding.run(Pace(streams=1, fps=25, frames=100, rows=1))
    assert found.drops + len(found.latencies_s) == 100 and found.drops == pytest.approx(60, abs=4)
    assert encoding.most == 3 and max(found.latencies_s) < 4 * 0.100 + 0.045


def test_frames_are_due_evenly() -> None:
    pace = Pace(streams=4, fps=25, frames=3, rows=4)
    due = sorted(pace.due_s(stream, frame) for stream in range(4) for frame in range(3))
    np.testing.assert_allclose(np.diff(due), 0.01)


def test_a_row_of_figures() -> None:
    found = Delivered([0.5, *(i / 1000 for i in range(1, 102))], drops=4, batches=[2, 1])
    row = figures(found.skip(1), Pace(streams=2, fps=30, frames=53, rows=2))
    assert (row["p50_ms"], row["p95_ms"], row["p99_ms"]) == (51.0, 96.0, 100.0)
    assert row["drops"] == 4 and row["frames"] == 106 and row["drop_share"] == 0.03774 and row["rows_per_batch"] == 1.5
    assert figures(Delivered(), Pace(1, 30, 5, 1))["p50_ms"] == float("inf")
