"""Editing a stream: one pass, each frame from what came before it, with causal smoothing and a running mean of the
codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien.engine.choose import RunningChoice
from mien.engine.clock import Clock
from mien.engine.compose import FaceEdit, FaceMemory, Placement
from mien.engine.face.align import StreamSmoother, crop_to_frame
from mien.engine.face.gate import turn_weight
from mien.engine.face.track import Tracker
from mien.engine.spec import EditSpec
from mien.engine.survey import CODE_EVERY, MAX_GAP, RAMP_FRAMES, EditedFrame, begin_faces, finish_faces
from mien.engine.types import FaceTrack, Frame


@dataclass(slots=True)
class _Followed:
    memory: FaceMemory
    smoother: StreamSmoother
    weight: float
    last: int
    edited: int = 0


class Stream:
    """A passive stage: `edit` every frame in order, each answered at once; `reset` between streams."""

    def __init__(self, spec: EditSpec, edit: FaceEdit | None, tracker: Tracker | None, clock: Clock) -> None:
        self._spec, self._edit, self._tracker, self._clock = spec, edit, tracker, clock
        self.reset()

    def reset(self) -> None:
        """Forget every face."""
        self._choice = RunningChoice(self._spec.faces)
        self._followed: dict[int, _Followed] = {}
        self._position, self._scene_start, self._scene = -1, 0, 0
        if self._tracker is not None:
            self._tracker.reset()

    def edit(self, frame: Frame) -> EditedFrame:
        """The next frame edited; the same object where there is no face to edit."""
        if self._tracker is None or self._edit is None:
            return EditedFrame(frame)
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
        return finish_faces(self._edit, begin_faces(self._edit, frame, places, memories))

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
