"""Stage clocks: percentiles from a fixed histogram, and the table a report shows."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mien.runtime.clock import StageClock, StageClocks


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_two_percent(seed: int) -> None:
    durations = np.random.default_rng(seed).lognormal(-4, 1.2, 5000)
    clock = StageClock()
    for seconds in durations:
        clock.add(float(seconds))
    for percent in (0, 1, 50, 95, 99, 100):
        exact = np.percentile(durations, percent, method="inverted_cdf")
        assert clock.percentile_s(percent) == pytest.approx(exact, rel=0.02)
    assert clock.calls == 5000
    assert clock.total_s == pytest.approx(durations.sum())


def test_memory_is_flat() -> None:
    clock = StageClock()
    bins = len(clock._counts)
    for number in range(20_000):
        clock.add(number * 1e-5)
    assert len(clock._counts) == bins < 2000


def test_extremes_and_nothing() -> None:
    clock = StageClock()
    assert clock.percentile_s(50) == 0.0
    for seconds in (0.0, 1e-9, 5000.0):
        clock.add(seconds)
    assert clock.percentile_s(1) <= 1.02e-6
    assert clock.percentile_s(100) <= 5000.0
    with pytest.raises(ValueError, match="percent is 101"):
        clock.percentile_s(101)


def test_the_table_has_shares_and_parts() -> None:
    clocks = StageClocks()
    clocks["decode"].add(1.0)
    clocks["edit"].add(2.0)
    clocks["edit"].add_tail(1.0)
    with clocks.within("edit"):
        clocks.add_part("crop", 0.5)
    table = clocks.table()
    assert list(table) == ["decode", "edit", "edit/crop"]
    assert table["decode"]["share"] == 0.25
    assert table["edit"]["share"] == 0.75
    assert table["edit/crop"]["share"] == 0.125
    assert set(table["edit"]) == {"calls", "total_s", "share", "p50_ms", "p95_ms", "p99_ms"}
    assert table["edit"]["calls"] == 1
    assert table["decode"]["p50_ms"] == pytest.approx(1000, rel=0.02)


def test_parts_belong_to_the_stage_of_their_thread() -> None:
    clocks = StageClocks()

    def work(stage: str) -> None:
        with clocks.within(stage):
            for _ in range(500):
                clocks.add_part("net", 0.001)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: row["calls"] for name, row in clocks.table().items()} == {"a/net": 500, "b/net": 500}
