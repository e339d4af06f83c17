"""Links, stages and the pipeline: order, back-pressure, drain, dropping, lateness, errors, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator

import pytest

from mien.engine.errors import RunError
from mien.runtime.link import Link, LinkCancelled
from mien.runtime.pipeline import RETRY_AFTER, Pipeline
from mien.runtime.stage import MapStage, ParallelStage


class Collect:
    """A sink that keeps what comes."""

    name = "collect"

    def __init__(self, wait_s: float = 0.0) -> None:
        self.items: list[object] = []
        self.wait_s = wait_s

    def process(self, item: object) -> Iterable[object]:
        time.sleep(self.wait_s)
        self.items.append(item)
        return ()

    def drain(self) -> Iterable[object]:
        self.items.append("end")
        return ()

    def reset(self) -> None:
        self.items.clear()


class Delay:
    """Gives each item two items late, so that a tail is left to drain; sometimes several at once."""

    name = "delay"

    def __init__(self) -> None:
        self.kept: list[int] = []

    def process(self, item: int) -> Iterable[int]:
        self.kept.append(item)
        if item % 3 == 2 and len(self.kept) > 2:
            given, self.kept = self.kept[:-2], self.kept[-2:]
            return given
        return ()

    def drain(self) -> Iterable[int]:
        return self.kept

    def reset(self) -> None:
        self.kept = []


def no_pipeline_threads() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("mien:")]


def test_order_is_kept_and_the_tail_drained() -> None:
    sink = Collect()
    pipeline = Pipeline(range(100), [Delay(), MapStage("double", lambda x: 2 * x), Delay(), sink], capacity=2)
    pipeline.run()
    assert sink.items == [*range(0, 200, 2), "end"]
    assert pipeline.done == 100
    assert pipeline.clocks["double"].calls == 100
    assert pipeline.latency.calls == 100
    assert no_pipeline_threads()


def test_an_empty_source_still_drains() -> None:
    sink = Collect()
    Pipeline([], [Delay(), sink]).run()
    assert sink.items == ["end"]


def test_a_slow_stage_holds_the_source_back() -> None:
    given = 0
    worst = 0

    def source() -> Iterator[int]:
        nonlocal given
        for number in range(40):
            given += 1
            yield number

    class Slow(Collect):
        def process(self, item: object) -> Iterable[object]:
            nonlocal worst
            worst = max(worst, given - len(self.items))
            return super().process(item)

    sink = Slow(wait_s=0.002)
    Pipeline(source(), [MapStage("pass", lambda x: x), sink], capacity=3).run()
    assert sink.items[:-1] == list(range(40))
    # Two links of 3, and one item in the hands of the source, of the stage and of the sink.
    assert worst <= 2 * 3 + 3


def test_latest_drops_the_oldest_and_counts() -> None:
    sink = Collect(wait_s=0.005)
    pipeline = Pipeline(range(200), [sink], capacity=2, policy="latest")
    pipeline.run()
    got = [x for x in sink.items if isinstance(x, int)]
    assert got == sorted(got)
    assert got[-2:] == [198, 199], "the newest are what is kept"
    assert pipeline.dropped == 200 - len(got) > 100


def test_deadline_lets_late_items_through_unworked() -> None:
    class Work:
        name = "work"

        def process(self, item: int) -> Iterable[tuple[str, int]]:
            time.sleep(0.02)
            return [("worked", item)]

        def bypass(self, item: int) -> Iterable[tuple[str, int]]:
            return [("through", item)]

        def drain(self) -> Iterable[tuple[str, int]]:
            return ()

        def reset(self) -> None:
            pass

    sink = Collect()
    pipeline = Pipeline(range(60), [Work(), sink], policy="deadline", deadline_s=0.03)
    pipeline.run()
    rows = [x for x in sink.items if isinstance(x, tuple)]
    assert [number for _, number in rows] == list(range(60)), "nothing is dropped, order is kept"
    through = sum(what == "through" for what, _ in rows)
    assert pipeline.bypassed == through
    assert 60 - through >= 60 // (RETRY_AFTER + 1), "a slow stage is tried again now and then"
    assert through > 10


def test_policies_are_checked() -> None:
    with pytest.raises(ValueError, match="deadline needs one"):
        Pipeline([], [Collect()], policy="deadline")
    with pytest.raises(ValueError, match="the others take none"):
        Pipeline([], [Collect()], deadline_s=1.0)
    with pytest.raises(ValueError, match="at least one stage"):
        Pipeline([], [])
    with pytest.raises(ValueError, match="capacity is 0"):
        Link[int](0)


@pytest.mark.parametrize("place", ["source", "middle", "sink", "drain"])
def test_an_error_anywhere_stops_everything_with_its_own_traceback(place: str) -> None:
    def fail_at_ten(here: str, number: int) -> int:
        if here == place and number == 10:
            raise RunError(f"{here} broke")
        return number

    def source() -> Iterator[int]:
        for number in range(10_000_000):
            if place == "drain" and number == 20:
                return
            yield fail_at_ten("source", number)

    class Tail(Collect):
        def drain(self) -> Iterable[object]:
            if place == "drain":
                raise RunError("drain broke")
            return ()

    stages = [
        MapStage("middle", lambda x: fail_at_ten("middle", x)),
        MapStage("sink", lambda x: fail_at_ten("sink", x)),
        Tail(),
    ]
    with pytest.raises(RunError, match=f"{place} broke") as caught:
        Pipeline(source(), stages).run()
    names = [row.name for row in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == ("drain" if place == "drain" else "fail_at_ten"), names
    assert no_pipeline_threads()


def test_the_source_is_closed_when_a_stage_fails() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    def fail(_: int) -> int:
        raise KeyError("programming error")

    with pytest.raises(KeyError):
        Pipeline(source(), [MapStage("fail", fail)]).run()
    assert closed.is_set()


def test_an_error_in_progress_stops_the_run() -> None:
    def progress(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pipeline(iter(int, 1), [MapStage("wait", lambda x: time.sleep(0.01))]).run(progress)
    assert no_pipeline_threads()


def test_cancel_wakes_both_sides() -> None:
    link: Link[int] = Link(1)
    link.put(1)
    outcomes = []

    def producer() -> None:
        try:
            link.put(2)
        except LinkCancelled:
            outcomes.append("producer")

    thread = threading.Thread(target=producer)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive(), "a full link waits"
    link.cancel()
    thread.join(60)
    assert outcomes == ["producer"]
    with pytest.raises(LinkCancelled):
        next(iter(link))


INTERRUPTED = """
import sys, threading, time
from mien.runtime.pipeline import Pipeline
from mien.runtime.stage import MapStage, ParallelStage

def forever():
    while True:
        yield 0

def work(item):
    time.sleep(0.002)
    return item

first = [True]
def tell(done):
    if first and done:
        first.clear()
        print("ready", flush=True)

try:
    Pipeline(forever(), [MapStage("a", work), MapStage("b", work)]).run(tell)
except KeyboardInterrupt:
    left = [t.name for t in threading.enumerate() if t.name.startswith("mien:")]
    print("interrupted", left, flush=True)
    sys.exit(130)
"""


def test_ctrl_c_stops_every_thread_of_an_endless_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    rest, _ = child.communicate(timeout=300)
    assert child.returncode == 130
    assert rest == "interrupted []\n"


def test_a_parallel_stage_works_at_once_and_keeps_the_order() -> None:
    together, most, lock, out = 0, 0, threading.Lock(), []

    def work(x: int) -> int:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.004 if x % 3 == 0 else 0.001)
        with lock:
            together -= 1
        return x

    pipeline = Pipeline(range(60), [ParallelStage("work", work, 3), MapStage("sink", out.append)])
    pipeline.run()
    assert out == list(range(60)) and pipeline.done == 60
    assert 2 <= most <= 3
    assert pipeline.clocks["work"].calls == 60
    with pytest.raises(ValueError, match="workers is 0"):
        ParallelStage("work", work, 0)


@pytest.mark.parametrize("fails", ["work", "sink"])
def test_an_error_beside_parallel_work_stops_it_all(fails: str) -> None:
    done: list[int] = []

    def step(name: str, x: int) -> int:
        if name == fails and x == 10:
            raise KeyError(name)
        done.append(x)
        return x

    stages = [ParallelStage("work", lambda x: step("work", x), 4), MapStage("sink", lambda x: step("sink", x))]
    with pytest.raises(KeyError, match=fails):
        Pipeline(range(100_000), stages).run()
    assert len(done) < 1000
    assert not [t for t in threading.enumerate() if t.name.startswith("mien:")]
