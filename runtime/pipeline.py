"""Runs a source and stages in threads joined by bounded links: order kept, tail drained, errors carried."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mien.runtime.clock import StageClock, StageClocks
from mien.runtime.link import Link, LinkCancelled, Policy
from mien.runtime.stage import Bypassable, ParallelStage, Stage

POLL_S = 0.1
"""How often the waiting caller reports progress."""

RETRY_AFTER = 16
"""Late items let through in a row before one is worked on all the same."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """An item and when it entered the pipeline, in seconds of the performance counter."""

    item: Any
    entered_s: float


_Worked = tuple[float, list[Any]]


class Pipeline:
    """One run of source -> stages, a thread each, more for a ParallelStage; the last stage is the sink and its results are dropped.

    The first link has the policy: `lossless` waits, `latest` drops the oldest waiting item, `deadline` makes a stage
    that is Bypassable let an item through unworked when its age and the time the stage takes of late exceed
    `deadline_s`. Later links wait. `dropped`, `bypassed`, `done` and `latency` (entry to accepted by the last stage)
    may be read at any time.
    """

    def __init__(
        self,
        source: Iterable[Any],
        stages: Sequence[Stage[Any, Any]],
        *,
        clocks: StageClocks | None = None,
        source_name: str = "decode",
        capacity: int = 4,
        policy: Policy = "lossless",
        deadline_s: float | None = None,
    ) -> None:
        if not stages:
            raise ValueError("a pipeline needs at least one stage")
        if (policy == "deadline") != (deadline_s is not None):
            raise ValueError(f"policy {policy} with deadline_s={deadline_s}: deadline needs one, the others take none")
        self.clocks = clocks or StageClocks()
        self.latency = StageClock()
        self.done = 0
        self.bypassed = 0
        self._source, self._source_name, self._stages = source, source_name, list(stages)
        self._deadline_s = deadline_s
        self._links: list[Link[_Parcel]] = [
            Link(capacity, policy if i == 0 else "lossless") for i in range(len(stages))
        ]
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._all_done = threading.Event()
        self._running = 0

    @property
    def dropped(self) -> int:
        """Items dropped under `latest`."""
        return sum(link.dropped for link in self._links)

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Run to the end in the caller's thread's time; `progress(done)` is called from that thread.

        The first error of any stage stops everything and is raised here with its own traceback. KeyboardInterrupt in
        the caller's thread does the same. When this returns or raises, no thread of the pipeline is left.
        """
        tasks: list[tuple[str, Callable[[], None]]] = [(self._source_name, self._feed)]
        tasks += [(stage.name, lambda i=i: self._work(i)) for i, stage in enumerate(self._stages)]  # type: ignore[misc]
        threads = [
            threading.Thread(target=self._guarded, args=(name, task), name=f"mien:{name}", daemon=True)
            for name, task in tasks
        ]
        self._running = len(threads)
        try:
            for thread in threads:
                thread.start()
            while not self._all_done.wait(POLL_S):
                if progress is not None:
                    progress(self.done)
        except BaseException as error:
            self._stop(error)
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error
        if progress is not None:
            progress(self.done)

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
        for link in self._links:
            link.cancel()

    def _guarded(self, name: str, task: Callable[[], None]) -> None:
        try:
            with self.clocks.within(name):
                task()
        except LinkCancelled:
            pass
        except BaseException as error:  # carried to the caller of run(), whatever it is
            self._stop(error)
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    self._all_done.set()

    def _feed(self) -> None:
        clock, link = self.clocks[self._source_name], self._links[0]
        iterator = iter(self._source)
        try:
            while True:
                start_s = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                entered_s = time.perf_counter()
                clock.add(entered_s - start_s)
                link.put(_Parcel(item, entered_s))
            link.finish()
        finally:
            if isinstance(iterator, Iterator) and hasattr(iterator, "close"):
                iterator.close()

    def _work(self, place: int) -> None:
        stage, clock = self._stages[place], self.clocks[self._stages[place].name]
        following = self._links[place + 1] if place + 1 < len(self._links) else None
        entries: deque[float] = deque()
        last_s = 0.0

        def forward(results: Iterable[Any]) -> None:
            nonlocal last_s
            for result in results:
                last_s = entries.popleft() if entries else last_s
                if following is not None:
                    following.put(_Parcel(result, last_s))

        work = self._at_once if isinstance(stage, ParallelStage) else self._one_by_one
        with closing(work(stage, self._links[place], clock)) as worked:
            for entered_s, results in worked:
                entries.append(entered_s)
                forward(results)
                if following is None:
                    self.done += 1
                    self.latency.add(time.perf_counter() - entered_s)
                    entries.clear()
        start_s = time.perf_counter()
        rest = list(stage.drain())
        clock.add_tail(time.perf_counter() - start_s)
        forward(rest)
        if following is not None:
            following.finish()

    def _one_by_one(self, stage: Any, parcels: Iterable[_Parcel], clock: StageClock) -> Generator[_Worked, None, None]:
        """Each parcel's time of entry and its results."""
        late = _Lateness(self._deadline_s)
        for parcel in parcels:
            if isinstance(stage, Bypassable) and late.would_be(parcel.entered_s):
                self.bypassed += 1
                results = list(stage.bypass(parcel.item))
            else:
                start_s = time.perf_counter()
                results = list(stage.process(parcel.item))
                took_s = time.perf_counter() - start_s
                clock.add(took_s)
                late.worked(took_s)
            yield parcel.entered_s, results

    def _at_once(self, stage: Any, parcels: Iterable[_Parcel], clock: StageClock) -> Generator[_Worked, None, None]:
        """The same with the stage's workers, as many parcels under work as there are; the oldest is waited for."""

        def work(item: Any) -> tuple[list[Any], float]:
            with self.clocks.within(stage.name):
                start_s = time.perf_counter()
                results = list(stage.process(item))
                return results, time.perf_counter() - start_s

        waiting: deque[tuple[float, Future[tuple[list[Any], float]]]] = deque()

        def oldest() -> _Worked:
            entered_s, future = waiting.popleft()
            results, took_s = future.result()
            clock.add(took_s)
            return entered_s, results

        pool = ThreadPoolExecutor(stage.workers, f"mien:{stage.name}")
        try:
            for parcel in parcels:
                waiting.append((parcel.entered_s, pool.submit(work, parcel.item)))
                if len(waiting) > stage.workers:
                    yield oldest()
            while waiting:
                yield oldest()
        finally:
            pool.shutdown(cancel_futures=True)


class _Lateness:
    """Whether an item would be late: its age plus the running mean of the stage's time, against the deadline.

    After 16 items in a row let through, one is worked on all the same: a stage that was slow once gets another chance.
    """

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._expected_s = 0.0
        self._skipped = 0

    def would_be(self, entered_s: float) -> bool:
        """Ask for the item that entered then; counts a yes."""
        if self._deadline_s is None or self._skipped >= RETRY_AFTER:
            return False
        late = time.perf_counter() - entered_s + self._expected_s > self._deadline_s
        self._skipped += late
        return late

    def worked(self, took_s: float) -> None:
        """An item was worked on."""
        self._skipped = 0
        self._expected_s = took_s if self._expected_s == 0 else 0.8 * self._expected_s + 0.2 * took_s
