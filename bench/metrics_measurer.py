"""Who measures a face: the tiny bundle's own analysis networks, or the independent judge. Both follow the source's face.

A result is measured from the source's face, with the same crop, so that what is identical measures identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from mien.bench.frame_rgb import Window, rgb8_of
from mien.bench.quality_measure import LOST
from mien.bench.quality_teacher import Teacher
from mien.engine.backend import Network
from mien.engine.choose import prominence
from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.face.detect import Detector
from mien.engine.face.landmarks import CROP_PX, Landmarker
from mien.engine.face.mask import BACKGROUND, GRID_PX
from mien.engine.face.points import area, inter_ocular, landmark_crop
from mien.engine.face.track import Tracker, TrackerOptions
from mien.engine.frame_crop import crop_frame
from mien.engine.types import Array, Face, Frame
from mien.export.tiny.teachers import MESH_TO_68

_SURE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredFace:
    """source, result: 68 points (68, 2) in luma pixels; result is None where the edit has lost the face.

    background: (H, W) bool of the source, where there is no person; None where nobody can say.
    """

    source: Array
    result: Array | None
    background: Array | None


class Measurer(Protocol):
    """Measures one face of a frame and of its result."""

    @property
    def points_by(self) -> str:
        """Who finds the points."""

    @property
    def background_by(self) -> str:
        """Who finds the background, and where."""

    def __call__(self, source: Frame, result: Frame, face: Face) -> MeasuredFace | None:
        """None where the measurer sees no face there."""


class FollowFace:
    """One face of a clip, frame by frame: the tracker's most prominent one, kept while it is seen."""

    def __init__(self, detector: Network, landmarks: Network) -> None:
        self._tracker = Tracker(Detector(detector), Landmarker(landmarks))
        self._track_id = 0
        self.confirmed = self._tracker.confirmed

    def __call__(self, frame: Frame, boxes: Sequence[Window] = ()) -> Face | None:
        """The face in the next frame. boxes: x0, y0, x1, y1, of which one must hold its middle, where there are any."""
        faces = self._tracker.update(frame)
        if boxes:
            faces = [face for face in faces if any(_holds(box, face) for box in boxes)]
        if not faces:
            return None
        kept = [face for face in faces if face.track_id == self._track_id]
        face = kept[0] if kept else max(faces, key=lambda f: prominence(area(f.box_px), f.score))
        self._track_id = face.track_id
        return face


class OwnMeasurer:
    """A bundle's networks `landmarks` and `parser`. name: of the bundle; size: of its aligned crop."""

    def __init__(self, name: str, size: int, landmarks: Network, parser: Network) -> None:
        self._size, self._landmarker, self._parser = size, Landmarker(landmarks), parser
        self._least = TrackerOptions().presence_keep
        self.points_by = f"{name}, its own landmarks"
        self.background_by = f"{name}, where its own parser sees no person, within the aligned crop of the face"

    def __call__(self, source: Frame, result: Frame, face: Face) -> MeasuredFace:
        """Both from the crop that the tracker's points give."""
        crop = landmark_crop(face.landmarks_px.astype(np.float64), CROP_PX)
        (before, _), (after, presence) = (self._landmarker(frame, [crop])[0] for frame in (source, result))
        return MeasuredFace(before, after if presence >= self._least else None, self._background(source, before))

    def _background(self, frame: Frame, points: Array) -> Array:
        affine = crop_to_frame(ffhq_quad(points), self._size)
        crop = crop_frame(frame, affine, self._size)
        small = cv2.resize(crop.transpose(1, 2, 0), (GRID_PX, GRID_PX), interpolation=cv2.INTER_AREA)
        seen = self._parser(image=np.ascontiguousarray(small.transpose(2, 0, 1)[None]))["probabilities"]
        empty = cv2.resize(seen[0][BACKGROUND], (self._size, self._size)) > _SURE
        whole = (frame.width_px, frame.height_px)
        return np.asarray(cv2.warpAffine(empty.astype(np.uint8), affine, whole, flags=cv2.INTER_NEAREST) > 0)


class JudgeMeasurer:
    """The judge's mesh, brought to 68 points, and its teachers' masks on the whole frame. name: of its file."""

    def __init__(self, name: str, teacher: Teacher) -> None:
        self._teacher = teacher
        self.points_by = f"judge {name}, the MediaPipe mesh"
        self.background_by = f"judge {name}, where its teachers see neither person nor hair nor face"

    def __call__(self, source: Frame, result: Frame, face: Face) -> MeasuredFace | None:
        """None where the judge is sure of no face at the tracked one."""
        middle = np.array([face.box_px[:2], face.box_px[2:]]).mean(0)
        reach = int(max(source.width_px, source.height_px))
        x, y = (round(v) for v in middle)
        seen = self._teacher.look(source, (x - reach, y - reach, x + reach, y + reach), None)
        if seen is None:
            return None
        before = seen.mesh[list(MESH_TO_68), :2]
        if np.hypot(*(before[27:48].mean(0) - face.landmarks_px[27:48].mean(0))) > inter_ocular(before):
            return None  # another face
        mesh, presence, _ = self._teacher.again(rgb8_of(result, seen.window), seen)
        lost = presence - seen.presence < -LOST
        return MeasuredFace(before, None if lost else mesh[list(MESH_TO_68), :2], seen.background())


def _holds(box: Window, face: Face) -> bool:
    x, y = (face.box_px[0] + face.box_px[2]) / 2, (face.box_px[1] + face.box_px[3]) / 2
    return box[0] <= x < box[2] and box[1] <= y < box[3]
