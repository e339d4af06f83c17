"""The arithmetic of timing, with a watch that is told what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from mien.bench.timing import (
    MAX_CALLS,
    MAX_SAMPLES,
    CpuWatch,
    CudaWatch,
    Times,
    calls_in_sample,
    in_turns,
    repeated,
    rotating,
    significant,
    times_faster,
    when_first_called,
)


class ToldWatch:
    """Reads seconds off a table: of the n-th sample of each work."""

    warm_up_s = 0.0

    def __init__(self, seconds: Mapping[str, Callable[[int], float]]) -> None:
        self.seconds, self.orders, self.before = seconds, [], 0

    def samples(
        self,
        works: Mapping[str, Callable[[], object]],
        turns: Sequence[Sequence[str]],
        before: Callable[[], object] | None,
    ) -> dict[str, list[float]]:
        self.orders += [tuple(turn) for turn in turns]
        found: dict[str, list[float]] = {name: [] for name in works}
        for i, turn in enumerate(turns):
            for name in turn:
                if before is not None:
                    before()
                works[name]()
                found[name].append(self.seconds[name](i))
        return found

    def wait(self) -> None:
        pass


def test_percentiles_and_spread_of_samples() -> None:
    times = Times(tuple(i / 1000 for i in range(101)), calls=4)
    assert times.p50_s == pytest.approx(0.05) and times.percentile_s(95) == pytest.approx(0.095)
    assert times.spread == pytest.approx(1.0)  # from 25 to 75 over 50
    row = times.as_dict()
    assert row == {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "spread": 1.0, "samples": 101, "calls_per_sample": 4}
    with pytest.raises(ValueError, match="no samples"):
        Times(())


def test_a_ratio_is_of_each_turn_by_itself() -> None:
    """A clock that falls slows both, and changes nothing."""
    slow_down = [1.0, 1.5, 3.0, 2.0]
    one, other = (Times(tuple(base * slower for slower in slow_down)) for base in (0.5, 1.25))
    assert times_faster(one, other) == (2.5, 2.5, 2.5)
    assert times_faster(one, Times((0.5, 1.5, 6.0, 5.0))) == (1.75, 3.0, 4.25)


def test_works_take_turns_in_an_order_that_rotates() -> None:
    watch = ToldWatch({"a": lambda i: 0.01, "b": lambda i: 0.02 * (i + 1), "c": lambda i: 0.04})
    calls: list[str] = []
    works = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    found = in_turns(works, watch, seconds=0.7, calls={"b": 2})
    assert watch.orders[1:4] == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    assert len(watch.orders) == 1 + 10, "0.07 s a turn, 0.7 s in all"
    assert found["b"].samples[:3] == pytest.approx((0.01, 0.02, 0.03)) and found["b"].calls == 2
    assert found["a"].p50_s == pytest.approx(0.01) and calls[:9] == list("abc") * 3, "three rounds to warm up"


@pytest.mark.parametrize("seconds, count", [(1e-9, 10), (1e9, MAX_SAMPLES)])
def test_never_too_few_samples_and_never_too_many(seconds: float, count: int) -> None:
    assert len(in_turns({"a": lambda: None}, ToldWatch({"a": lambda i: 1.0}), seconds=seconds)["a"].samples) == count


def test_a_sample_lasts_long_enough() -> None:
    def calls(seconds: float, multiple: int = 1) -> int:
        return calls_in_sample(lambda: None, ToldWatch({"": lambda i: seconds}), sample_s=0.01, multiple_of=multiple)

    assert calls(0.003) == 4 and calls(0.003, multiple=3) == 6, "all inputs that take turns, equally often"
    assert calls(1.0) == 1 and calls(1e-12) == MAX_CALLS


def test_calls_rotate_repeat_and_are_made_late() -> None:
    said: list[int] = []
    repeated(rotating([lambda i=i: said.append(i) for i in range(3)]), 5)()
    assert said == [0, 1, 2, 0, 1]
    made: list[str] = []
    late = when_first_called(lambda: made.append("made") or (lambda: "called"))  # type: ignore[func-returns-value]
    assert not made and late() == late() == "called" and made == ["made"]
    with pytest.raises(ValueError, match="no calls"):
        rotating([])


def test_the_clock_of_the_cpu_reads_every_sample() -> None:
    flushed: list[int] = []
    found = CpuWatch().samples(
        {"a": lambda: None, "b": lambda: None}, [("a", "b"), ("b", "a")], lambda: flushed.append(1)
    )
    assert {name: len(samples) for name, samples in found.items()} == {"a": 2, "b": 2} and len(flushed) == 4
    assert all(sample >= 0 for samples in found.values() for sample in samples)


def test_events_lie_around_the_work_and_are_read_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("event")

        def elapsed_time(self, end: object) -> float:
            assert said[-1] == "done"
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append("cover"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("done"))
    works = {name: (lambda name=name: said.append(name)) for name in "ab"}
    found = CudaWatch().samples(works, [("b", "a")], lambda: said.append("flush"))
    assert said == ["cover", "flush", "event", "b", "event", "flush", "event", "a", "event", "done"]
    assert found == {"a": [0.0025], "b": [0.0025]}


def test_figures_are_rounded_by_their_digits() -> None:
    assert significant(123456.0) == 123460.0 and significant(0.00012345678) == 0.00012346
