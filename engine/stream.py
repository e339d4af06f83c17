"""Editing a stream: one pass, each frame from what came before it, with causal smoothing and a running mean of the
codes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mien.engine.choose import RunningChoice
from mien.engine.clock import Clock
from mien.engine.compose import FaceEditing, FaceMemory, Placement
from mien.engine.face.align import StreamSmoother, crop_to_frame
from mien.engine.face.gate import turn_weight
from mien.engine.face.track import Tracker
from mien.engine.spec import EditSpec
from mien.engine.survey import CODE_EVERY, MAX_GAP, RAMP_FRAMES, BegunFrame, EditedFrame, begin_faces, finish_faces
from mien.engine.types import FaceTrack, Frame


@dataclass(slots=True)
class _Followed:
    memory: FaceMemory
    smoother: StreamSmoother
    weight: float
    last: int
    edited: int = 0


class Stream:
    """A passive stage: `edit` every frame in order, each answered at once; `reset` between streams.

    `begin` and `finish` are its two halves: the first takes the frames in order, the second may run for `frames_at_once` of
    them at a time.
    """

    def __init__(self, spec: EditSpec, edit: FaceEditing | None, tracker: Tracker | None, clock: Clock) -> None:
        self._spec, self._edit, self._tracker, self._clock = spec, edit, tracker, clock
        self.reset()

    def reset(self) -> None:
        """Forget every face."""
        self._choice = RunningChoice(self._spec.faces)
        self._followed: dict[int, _Followed] = {}
        self._position, self._scene_start, self._scene = -1, 0, 0
        if self._tracker is not None:
            self._tracker.reset()

    @property
    def frames_at_once(self) -> int:
        """What the configuration says; 1 where each frame needs the one before it."""
        return 1 if self._edit is None else self._edit.frames_at_once

    def edit(self, frame: Frame) -> EditedFrame:
        """The next frame edited; the same object where there is no face to edit."""
        return self.finish(self.begin(frame))

    def begin(self, frame: Frame) -> BegunFrame:
        """What must be done in order: follow the faces, sample their codes, crop, parse."""
        if self._tracker is None or self._edit is None:
            return BegunFrame(frame)
        self._position += 1
        faces = [face for face in self._tracker.update(frame) if self._tracker.confirmed(face.track_id)]
        if self._tracker.scene != self._scene:
            self._scene, self._scene_start = self._tracker.scene, self._position
        alive = self._tracker.alive
        self._followed = {k: v for k, v in self._followed.items() if k in alive}
        chosen = self._choice(faces, alive)
        places = []
        for face in faces:
            if face.track_id not in chosen:
                continue
            followed = self._follow(face.track_id)
            quad, points = followed.smoother(face.landmarks_px.astype(np.float64))
            followed.last = self._position
            weight = followed.weight * turn_weight(points)
            if weight == 0.0:
                continue
            if followed.edited % CODE_EVERY == 0 and self._edit.method.wants_code():
                with self._clock("code"):
                    crop = self._edit.crop(frame, crop_to_frame(quad, self._edit.crop_px))
                    self._edit.method.encode(followed.memory.track, crop)
            followed.edited += 1
            places.append(Placement(face.track_id, quad, points, weight))
        memories = {k: followed.memory for k, followed in self._followed.items()}
        begun = begin_faces(self._edit, frame, places, memories)
        if self.frames_at_once == 1:
            return begun
        return BegunFrame(frame, tuple(job.settled() for job in begun.jobs))

    def finish(self, begun: BegunFrame) -> EditedFrame:
        """The rest: the method's networks and the composition."""
        return finish_faces(self._edit, begun)

    def _follow(self, track_id: int) -> _Followed:
        """The track's state for this frame: a face that comes within a scene, or back after a gap, fades in over 4
        frames.
        """
        step = 1.0 / (RAMP_FRAMES + 1)
        if track_id not in self._followed:
            start = 1.0 if self._position == self._scene_start else step
            self._followed[track_id] = _Followed(
                FaceMemory(FaceTrack(track_id)), StreamSmoother(), start, self._position
            )
            return self._followed[track_id]
        followed = self._followed[track_id]
        if self._position - followed.last > MAX_GAP + 1:
            followed.smoother.reset()
            followed.weight = step
        else:
            followed.weight = min(1.0, followed.weight + step)
        return followed


def edit_in_flight(stream: Stream, frames: Iterable[Frame]) -> Generator[EditedFrame, None, None]:
    """The frames edited, in order, one for one. With `frames_at_once` n of a stream above 1, n are under work at a time, and
    each is answered once n - 1 more have begun or the frames have ended. What raises does so in the place of its frame.
    """
    if stream.frames_at_once == 1:
        for frame in frames:
            yield stream.edit(frame)
        return
    working: deque[Future[EditedFrame]] = deque()
    pool = ThreadPoolExecutor(stream.frames_at_once, "mien:edit")
    try:
        for future in _begun(stream, frames, pool):
            working.append(future)
            if len(working) == stream.frames_at_once:
                yield working.popleft().result()
        while working:
            yield working.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(stream: Stream, frames: Iterable[Frame], pool: ThreadPoolExecutor) -> Iterator[Future[EditedFrame]]:
    """A future a frame; where the frames or a beginning raise, one more that raises it."""
    try:
        for frame in frames:
            yield pool.submit(stream.finish, stream.begin(frame))
    except Exception as error:
        failed = Future[EditedFrame]()
        failed.set_exception(error)
        yield failed
