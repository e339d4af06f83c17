"""The stages between a begun frame and an edited one where a lane of a device does the work: mask, edit, download.

Each has a thread of its own, and hands work to streams of its own: while the device denoises one batch, the next one's regions are
read and the last one's frames go back. An item has `frame, begun, edited, failure`, as `edit_video` makes them; this needs no video.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from mien.engine.errors import RunError
from mien.engine.survey import EditedFrame
from mien.engine.types import Array
from mien.runtime.stage import MapStage, Stage

FRAMES_A_FACE = 2
"""Frames that wait at most for each face that a batch lacks: without any face there would be no end of them."""


class OnDevice(Protocol):
    """A frame on the device."""

    def fetch(self) -> None:
        """Send it back."""


class Job(Protocol):
    """A face of a frame."""

    @property
    def on_device(self) -> Any:
        """Its frame."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """What it may change."""


@runtime_checkable
class Lane(Protocol):
    """What edits the faces of several frames at a time, such as cuda.face_edit.LaneEdit."""

    @property
    def most(self) -> int:
        """Faces of a call."""

    @property
    def in_order(self) -> bool:
        """Whether frames must come in calls of their own."""

    def mask(self, job: Any) -> None:
        """Wait for a face's regions; in the frames' order."""

    def edit(self, jobs: Sequence[Any]) -> None:
        """Put faces into their frames."""

    def planes(self, on_device: Any) -> tuple[Array, Array, Array]:
        """A frame that is being sent back, once it has arrived."""


def lane_stages(lane: Lane, wait_s: float | None = None) -> tuple[Stage[Any, Any], ...]:
    """From begun items to edited ones. wait_s: of a face for others, at most; None for files, where it is as long as need be."""

    def mask(item: Any) -> Any:
        for job in _jobs(item):
            lane.mask(job)
        return item

    def download(item: Any) -> Any:
        jobs = _jobs(item)
        if not jobs:
            return item if item.failure is not None else replace(item, begun=None, edited=EditedFrame(item.frame))
        frame = replace(item.frame, planes=lane.planes(jobs[0].on_device))
        return replace(item, begun=None, edited=EditedFrame(frame, tuple(job.box for job in jobs)))

    gather = GatherStage(lane, wait_s)
    return MapStage("mask", _guarded(mask)), gather, MapStage("download", _guarded(download))


@dataclass(slots=True, eq=False)
class _Held:
    """An item whose faces wait. left: how many; since_s: from when on."""

    item: Any
    left: int
    since_s: float


class GatherStage:
    """Gives the lane as many faces at a time as it takes, of as many frames as need be; items leave in their order.

    Fewer are given where frames must come in calls of their own, where a face has waited too long when the next item comes, where too
    many frames without a face wait behind it, and at the end.
    """

    def __init__(self, lane: Lane, wait_s: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = "edit"
        self._lane, self._wait_s, self._clock = lane, wait_s, clock
        self.reset()

    def reset(self) -> None:
        """Forget what waits."""
        self._held: deque[_Held] = deque()
        self._waiting: deque[tuple[_Held, Any]] = deque()

    def process(self, item: Any) -> Iterable[Any]:
        """The items whose faces have all been given to the lane."""
        jobs = _jobs(item)
        held = _Held(item, len(jobs), self._clock())
        self._held.append(held)
        self._waiting.extend((held, job) for job in jobs)
        while len(self._waiting) >= self._lane.most or self._is_urgent():
            self._give()
        return self._done()

    def drain(self) -> Iterable[Any]:
        """The rest."""
        while self._waiting:
            self._give()
        return self._done()

    def _is_urgent(self) -> bool:
        if not self._waiting:
            return False
        waited_s = self._clock() - self._waiting[0][0].since_s
        is_late = self._wait_s is not None and waited_s >= self._wait_s
        return self._lane.in_order or is_late or len(self._held) > FRAMES_A_FACE * self._lane.most

    def _give(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._lane.most))]
        try:
            self._lane.edit([job for _, job in batch])
        except RunError as error:
            for held, _ in batch:
                held.item = replace(held.item, begun=None, failure=error)
        for held, _ in batch:
            held.left -= 1

    def _done(self) -> list[Any]:
        done = []
        while self._held and not self._held[0].left:
            item = self._held.popleft().item
            if jobs := _jobs(item):
                jobs[0].on_device.fetch()
            done.append(item)
        return done


def _jobs(item: Any) -> tuple[Any, ...]:
    if item.failure is not None or item.begun is None:
        return ()
    jobs: tuple[Any, ...] = item.begun.jobs
    return jobs


def _guarded(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, with a RunError kept in the item."""

    def guarded(item: Any) -> Any:
        try:
            return work(item)
        except RunError as error:
            return replace(item, begun=None, edited=None, failure=error)

    return guarded
