"""Callers in threads, one network: rows are joined and told apart, nobody waits for ever, and time is a fake."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import RunError, ShapeError
from mien.engine.rows import RowBatcher, RowGathering
from mien.engine.types import Array, TensorSpec

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

PATIENCE_S = 30.0  # after which a test has found a deadlock
FOREVER = float("inf")


class Doubling:
    """Answers each row its double, remembers the sizes of its calls; a row of 13 raises."""

    inputs = outputs = {"x": TensorSpec((None, None))}

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.alone = threading.Lock()

    def __call__(self, **arrays: Array) -> Mapping[str, Array]:
        assert self.alone.acquire(blocking=False), "one call at a time"
        try:
            self.sizes.append(len(arrays["x"]))
            if (arrays["x"] == 13).any():
                raise RunError("a row of 13")
            return {"x": 2 * arrays["x"]}
        finally:
            self.alone.release()


class FakeClock:
    """Stands still until it is told; `asked` is set at its second reading, when a caller has been queued and must wait."""

    def __init__(self) -> None:
        self.now_s, self.readings, self.asked = 0.0, 0, threading.Event()

    def __call__(self) -> float:
        self.readings += 1
        if self.readings >= 2:
            self.asked.set()
        return self.now_s


def rows(*values: float) -> Array:
    return np.asarray(values, np.float32)[:, None]


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """Run each in a thread of its own; what each returned or raised."""
    results: list[Any] = [None] * len(tasks)

    def guarded(i: int, task: Callable[[], Any]) -> None:
        try:
            results[i] = task()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=guarded, args=pair, daemon=True) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    return results


def poke(gathering: RowGathering) -> None:
    """Make those who wait look again."""
    with gathering.at_work():
        pass


def test_everybody_waits_for_everybody_at_work() -> None:
    """Three at work, two steps each: two calls of three rows, whoever comes last."""
    gathering = RowGathering((1, 2, 4), FOREVER)
    network = RowBatcher(doubling := Doubling(), gathering)
    begun = threading.Barrier(3)

    def work(value: float) -> list[float]:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            first = network(x=rows(value))["x"]
            return [float(x[0, 0]) for x in (first, network(x=first)["x"])]

    assert together(*(lambda i=i: work(i) for i in range(3))) == [[2 * i, 4 * i] for i in range(3)]  # type: ignore[misc]
    assert doubling.sizes == [4, 4]
    assert gathering.counts().as_dict() == {"calls": 2, "rows": 6, "padded": 2, "mean": 3.0}


def test_frames_of_a_stream_at_different_steps_share_calls() -> None:
    """StreamDiffusion's stream batch: n frames in flight, each a step behind the last; order kept, none lost at the end."""
    for count, steps in ((1, 2), (2, 2), (7, 3), (5, 1)):
        gathering = RowGathering(range(1, steps + 1), FOREVER)
        network = RowBatcher(doubling := Doubling(), gathering)

        def sample(frame: int, steps: int = steps, network: Any = network, gathering: Any = gathering) -> float:
            x = rows(frame + 1)
            with gathering.at_work():
                for _ in range(steps):
                    x = network(x=x)["x"]
            return float(x[0, 0])

        with ThreadPoolExecutor(steps) as pool:
            assert list(pool.map(sample, range(count))) == [(i + 1) * 2**steps for i in range(count)]
        assert sum(doubling.sizes) == count * steps and max(doubling.sizes) <= steps
        assert gathering.counts().padded == 0


def test_one_caller_is_never_kept_waiting() -> None:
    gathering = RowGathering((1, 2, 4, 8), FOREVER)
    network = RowBatcher(doubling := Doubling(), gathering)
    assert network(x=rows(1, 2, 3))["x"].tolist() == [[2], [4], [6]]
    with gathering.at_work(), gathering.at_work():
        assert network(x=rows(5))["x"].tolist() == [[10]]
    assert doubling.sizes == [4, 1] and network.inputs is doubling.inputs and network.outputs is doubling.outputs


def test_an_oldest_call_waits_no_longer_than_the_bound() -> None:
    clock = FakeClock()
    gathering = RowGathering((1, 2), 1000.0, clock=clock)
    network = RowBatcher(doubling := Doubling(), gathering)

    def caller() -> Any:
        with gathering.at_work():
            return network(x=rows(1))["x"].tolist()

    def idler() -> None:
        with gathering.at_work():
            ready.set()
            assert clock.asked.wait(PATIENCE_S)
            assert doubling.sizes == []
            clock.now_s = 999.0
            poke(gathering)
            clock.asked.clear()
            assert clock.asked.wait(PATIENCE_S), "it looked again"
            assert doubling.sizes == []
            clock.now_s = 1000.0
            poke(gathering)
            assert done.wait(PATIENCE_S), "it went without the one who idles"

    ready, done = threading.Event(), threading.Event()

    def timed() -> Any:
        assert ready.wait(PATIENCE_S)
        answer = caller()
        done.set()
        return answer

    assert together(idler, timed) == [None, [[2]]] and doubling.sizes == [1]


def test_whoever_is_not_at_work_goes_at_once_and_takes_others_along() -> None:
    clock = FakeClock()
    gathering = RowGathering((1, 2), FOREVER, clock=clock)
    network = RowBatcher(doubling := Doubling(), gathering)

    def caller() -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            answer = network(x=rows(1))["x"].tolist()
            done.set()
            return answer

    def idler() -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            assert done.wait(PATIENCE_S)

    def visitor() -> Any:
        assert clock.asked.wait(PATIENCE_S)
        return network(x=rows(2))["x"].tolist()

    begun, done = threading.Barrier(2), threading.Event()
    assert together(caller, idler, visitor) == [[[2]], None, [[4]]] and doubling.sizes == [2]


def test_one_who_leaves_holds_nobody_up() -> None:
    gathering = RowGathering((1, 2, 4), FOREVER)
    network = RowBatcher(doubling := Doubling(), gathering)
    begun = threading.Barrier(3)

    def work(value: float) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            if value == 0:
                raise ZeroDivisionError("its own mistake")
            return network(x=rows(value))["x"].tolist()

    failed, *answers = together(*(lambda i=i: work(i) for i in range(3)))  # type: ignore[misc]
    assert isinstance(failed, ZeroDivisionError) and answers == [[[2]], [[4]]]
    assert doubling.sizes == [2]
    assert network(x=rows(7))["x"].tolist() == [[14]]


def test_an_exception_reaches_every_caller_of_its_batch_and_no_other() -> None:
    gathering = RowGathering((1, 2, 4), FOREVER)
    network = RowBatcher(Doubling(), gathering)
    begun = threading.Barrier(3)

    def work(*values: float) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return network(x=np.zeros((1, 2), np.float32) if values == (0,) else rows(*values))["x"]

    first, second, other = together(lambda: work(13), lambda: work(1), lambda: work(0))
    assert isinstance(first, RunError) and second is first
    assert other.tolist() == [[0, 0]], "another shape, another batch"
    assert network(x=rows(3))["x"].tolist() == [[6]], "and the next call is a new one"


def test_a_wrong_call_hurts_its_caller_alone() -> None:
    gathering = RowGathering((1, 2, 4), FOREVER)
    network = RowBatcher(Doubling(), gathering)
    begun = threading.Barrier(2)

    def work(**arrays: Array) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return network(**arrays)

    wrong, right = together(lambda: work(x=rows(1), t=np.zeros(2)), lambda: work(x=rows(2)))
    assert isinstance(wrong, ShapeError) and right["x"].tolist() == [[4]]


def test_an_interrupt_hits_the_caller_it_hits() -> None:
    """The one that led the batch is gone; the other's row runs again."""

    class Interrupted(Doubling):
        def __call__(self, **arrays: Array) -> Mapping[str, Array]:
            answer = super().__call__(**arrays)
            if len(self.sizes) == 1:
                raise KeyboardInterrupt
            return answer

    gathering = RowGathering((1, 2), FOREVER)
    network = RowBatcher(interrupted := Interrupted(), gathering)
    begun = threading.Barrier(2)

    def work(value: float) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return network(x=rows(value))["x"].tolist()

    results = together(lambda: work(1), lambda: work(2))
    (gone,) = [i for i, result in enumerate(results) if isinstance(result, KeyboardInterrupt)]
    assert results[1 - gone] == [[2 * (2 - gone)]] and interrupted.sizes == [2, 1]


def test_ctrl_c_ends_a_wait() -> None:
    """The main thread waits for one at work, who interrupts it, and then works on without its row."""
    clock = FakeClock()
    gathering = RowGathering((1, 2), FOREVER, clock=clock)
    network = RowBatcher(doubling := Doubling(), gathering)
    begun, left, answers = threading.Event(), threading.Event(), list[Any]()

    def other() -> None:
        with gathering.at_work():
            begun.set()
            assert clock.asked.wait(PATIENCE_S)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert left.wait(PATIENCE_S)
            answers.append(network(x=rows(2))["x"].tolist())

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE_S)
    with pytest.raises(KeyboardInterrupt), gathering.at_work():
        network(x=rows(1))
    left.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and answers == [[[4]]] and doubling.sizes == [1]


def test_networks_and_bank_lengths_of_one_gathering_do_not_mix() -> None:
    gathering = RowGathering((1, 2, 4, 8), FOREVER)
    one, two = Doubling(), Doubling()
    networks = (RowBatcher(one, gathering), RowBatcher(two, gathering), RowBatcher(one, gathering))
    begun = threading.Barrier(6)

    def work(i: int) -> Any:
        with gathering.at_work():
            begun.wait(PATIENCE_S)
            return networks[i % 3](x=np.full((1, 1 + i // 3), i, np.float32))["x"].tolist()

    assert together(*(lambda i=i: work(i) for i in range(6))) == [[[2.0 * i] * (1 + i // 3)] for i in range(6)]  # type: ignore[misc]
    assert sorted(one.sizes) == [2, 2] and two.sizes == [1, 1], "two batchers of one network share its calls"


def test_what_cannot_be_gathered_is_refused(network_of: Any) -> None:
    with pytest.raises(ShapeError, match="'luma' is"):
        RowBatcher(network_of(dict, {"luma": TensorSpec((1, 1, None, None))}), RowGathering())
    for wrong in ({"sizes": ()}, {"sizes": (0, 1)}, {"max_wait_s": -1.0}, {"max_wait_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RowGathering(**wrong)  # type: ignore[arg-type]


CALLS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=4)  # (rows, width)
CALLERS = st.lists(st.tuples(CALLS, st.booleans(), st.booleans()), min_size=1, max_size=5)  # at work; fails at the end


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(CALLERS, st.sampled_from([(1,), (4,), (1, 2), (1, 2, 4, 8), (3, 5)]), st.sampled_from([0.0, FOREVER]))
def test_any_schedule_gives_each_row_its_own(callers: Any, sizes: tuple[int, ...], max_wait_s: float) -> None:
    gathering = RowGathering(sizes, max_wait_s)
    network = RowBatcher(doubling := Doubling(), gathering)

    def work(number: int, calls: list[tuple[int, int]], at_work: bool, fails: bool) -> list[bool]:
        right = []
        with gathering.at_work() if at_work else nullcontext():
            for i, (count, width) in enumerate(calls):
                x = 100 * number + 20 * i + np.arange(14, 14 + count * width, dtype=np.float32).reshape(count, width)
                right.append(np.array_equal(network(x=x)["x"], 2 * x))
            if fails:
                raise ZeroDivisionError
        return right

    results = together(*(lambda i=i, caller=caller: work(i, *caller) for i, caller in enumerate(callers)))  # type: ignore[misc]
    for (calls, _, fails), result in zip(callers, results, strict=True):
        assert isinstance(result, ZeroDivisionError) if fails else result == [True] * len(calls)
    counts = gathering.counts()
    assert counts.rows == sum(count for calls, *_ in callers for count, _ in calls)
    assert counts.rows + counts.padded == sum(doubling.sizes) and counts.calls == len(doubling.sizes)
    assert set(doubling.sizes) <= set(sizes)
