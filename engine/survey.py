"""Editing a file in two passes: a survey that follows every face, then a plan with exact smoothing and codes averaged
over the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.engine.choose import Presence, choose_tracks, largest, prominence
from mien.engine.clock import Clock
from mien.engine.compose import FaceEditing, FaceMemory, PixelBox, Placement
from mien.engine.face.align import crop_to_frame, ffhq_quad, smooth_points, smooth_quads
from mien.engine.face.gate import turn_weight
from mien.engine.face.points import area
from mien.engine.face.track import Tracker, leaps
from mien.engine.spec import EditSpec
from mien.engine.types import Array, Face, FaceTrack, Frame

CODE_EVERY = 8
MAX_GAP = 3
RAMP_FRAMES = 4


@dataclass(frozen=True, slots=True)
class EditedFrame:
    """A frame after editing. edited: whether any plane may differ; if not, `frame` is the very object that came in.

    boxes: x0, y0, x1, y1.
    """

    frame: Frame
    boxes: tuple[PixelBox, ...] = ()

    @property
    def edited(self) -> bool:
        """Whether a face was edited."""
        return bool(self.boxes)


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """One confirmed track of a clip.

    frames: in which it was seen; chosen: whether it is edited; mean_area_px: of its boxes.
    """

    track_id: int
    first_index: int
    last_index: int
    frames: int
    mean_area_px: float
    chosen: bool


@dataclass(slots=True)
class _Seen:
    scene: int
    positions: list[int]
    points: list[Array]
    areas: list[float]
    memory: FaceMemory
    score_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class BegunFrame:
    """A frame whose faces are begun; pictures only, nothing that a later frame changes."""

    frame: Frame
    jobs: tuple[Any, ...] = ()


def begin_faces(
    edit: FaceEditing | None, frame: Frame, places: Sequence[Placement], memories: dict[int, FaceMemory]
) -> BegunFrame:
    """The first half of editing a frame's faces; a face's frames come in order."""
    if edit is None:
        return BegunFrame(frame)
    begun = [edit.begin(frame, place, memories[place.track_id]) for place in places]
    jobs = [job for job in begun if job is not None]
    return BegunFrame(frame, tuple(job.beside([other for other in jobs if other is not job]) for job in jobs))


def finish_faces(edit: FaceEditing | None, begun: BegunFrame) -> EditedFrame:
    """The second half: one face after the other into the planes; with none the frame comes back as it is."""
    if edit is None:
        return EditedFrame(begun.frame)
    planes, boxes = begun.frame.planes, list[PixelBox]()
    for job, answered in zip(begun.jobs, edit.answers(begun.jobs), strict=True):
        planes, box = edit.finish(begun.frame, planes, job, answered)
        boxes += [box] if box is not None else []
    return EditedFrame(replace(begun.frame, planes=planes), tuple(boxes)) if boxes else EditedFrame(begun.frame)


class Plan:
    """What to do to each frame of a surveyed clip.

    `edit` takes the frames in the survey's order. So does `begin`, its first half; `finish`, the second, may run for
    `frames_at_once` frames at a time.
    """

    def __init__(
        self,
        edit: FaceEditing | None,
        places: dict[int, list[Placement]],
        memories: dict[int, FaceMemory],
        tracks: tuple[TrackSummary, ...],
    ) -> None:
        self._edit, self._places, self._memories = edit, places, memories
        self.tracks = tracks

    @property
    def faces(self) -> FaceEditing | None:
        """What edits the faces; None where there is nothing to do."""
        return self._edit

    @property
    def frames_at_once(self) -> int:
        """What the configuration says; 1 where `finish` too must take the frames in order, because a bank follows them."""
        return 1 if self._edit is None else self._edit.frames_at_once

    def edit(self, frame: Frame) -> EditedFrame:
        """The frame edited as planned; the same object where no face is to be edited in it."""
        return self.finish(self.begin(frame))

    def begin(self, frame: Frame) -> BegunFrame:
        """What must be done in order: crop, parse, masks that follow the face."""
        return begin_faces(self._edit, frame, self._places.get(frame.index, ()), self._memories)

    def finish(self, begun: BegunFrame) -> EditedFrame:
        """The rest: the method's networks and the composition."""
        return finish_faces(self._edit, begun)

    def reset(self) -> None:
        """Forget what was kept from frame to frame (banks, masks), to edit the clip once more from its start; codes
        stay.
        """
        for memory in self._memories.values():
            memory.masks.clear()
            memory.track.forget_frames()


class Survey:
    """The first pass over a file: `add` every frame in order, then `finish`."""

    def __init__(self, spec: EditSpec, edit: FaceEditing | None, tracker: Tracker | None, clock: Clock) -> None:
        self._spec, self._edit, self._tracker, self._clock = spec, edit, tracker, clock
        self._indices: list[int] = []
        self._scenes: list[int] = []
        self._seen: dict[int, _Seen] = {}

    def add(self, frame: Frame) -> list[Face]:
        """Follow the faces into this frame and sample their codes; the faces seen.

        With nothing to edit, does nothing.
        """
        if self._tracker is None or self._edit is None:
            return []
        faces = self._tracker.update(frame)
        position = len(self._indices)
        self._indices.append(frame.index)
        self._scenes.append(self._tracker.scene)
        sampled = {face.track_id for face in largest(faces, self._spec.faces)}
        for face in faces:
            seen = self._seen.get(face.track_id)
            if seen is None:
                seen = _Seen(self._tracker.scene, [], [], [], FaceMemory(FaceTrack(face.track_id)))
                self._seen[face.track_id] = seen
            if face.track_id in sampled and len(seen.positions) % CODE_EVERY == 0 and self._edit.method.wants_code():
                with self._clock("code"):
                    self._encode(frame, face, seen.memory)
            seen.positions.append(position)
            seen.points.append(face.landmarks_px)
            seen.areas.append(area(face.box_px))
            seen.score_sum += face.score
        return faces

    def _encode(self, frame: Frame, face: Face, memory: FaceMemory) -> None:
        assert self._edit is not None
        affine = crop_to_frame(ffhq_quad(face.landmarks_px.astype(np.float64)), self._edit.crop_px)
        self._edit.method.encode(memory.track, self._edit.crop(frame, affine))

    def finish(self) -> Plan:
        """The plan for the second pass."""
        if self._tracker is None:
            return Plan(None, {}, {}, ())
        confirmed = {k: seen for k, seen in self._seen.items() if self._tracker.confirmed(k)}
        chosen = choose_tracks(
            [
                Presence(
                    k,
                    seen.scene,
                    tuple(seen.positions),
                    prominence(sum(seen.areas), seen.score_sum / len(seen.positions)),
                )
                for k, seen in confirmed.items()
            ],
            self._spec.faces,
        )
        places: dict[int, list[Placement]] = {}
        for k in sorted(chosen):
            for position, place in self._placements(k, confirmed[k]):
                places.setdefault(self._indices[position], []).append(place)
        tracks = tuple(
            TrackSummary(
                k,
                self._indices[seen.positions[0]],
                self._indices[seen.positions[-1]],
                len(seen.positions),
                float(np.mean(seen.areas)),
                k in chosen,
            )
            for k, seen in confirmed.items()
        )
        return Plan(self._edit, places, {k: confirmed[k].memory for k in chosen}, tracks)

    def _placements(self, track_id: int, seen: _Seen) -> list[tuple[int, Placement]]:
        first = self._scenes.index(seen.scene)
        last = len(self._scenes) - 1 - self._scenes[::-1].index(seen.scene)
        out = []
        for positions, points in contiguous_runs(seen.positions, np.asarray(seen.points, np.float64)):
            quads, smooth = smooth_run(points)
            ramps = ramp(len(positions), rises=positions[0] > first, falls=positions[-1] < last)
            weights = [weight * turn_weight(landmarks) for weight, landmarks in zip(ramps, smooth, strict=True)]
            out += [
                (position, Placement(track_id, quad, landmarks, weight))
                for position, quad, landmarks, weight in zip(positions, quads, smooth, weights, strict=True)
                if weight > 0.0
            ]
        return out


def contiguous_runs(positions: Sequence[int], points: Array) -> list[tuple[list[int], Array]]:
    """Split a track at gaps of more than 3 frames and fill the shorter ones linearly: [(positions, points (n, 68,
    2))].
    """
    where = np.asarray(positions)
    cuts = [0, *(np.flatnonzero(np.diff(where) > MAX_GAP + 1) + 1).tolist(), len(where)]
    runs = []
    for start, end in zip(cuts[:-1], cuts[1:], strict=True):
        known = where[start:end]
        full = np.arange(known[0], known[-1] + 1)
        after = np.clip(np.searchsorted(known, full), 1, len(known) - 1) if len(known) > 1 else np.zeros(1, int)
        before = np.maximum(after - 1, 0)
        share = (full - known[before]) / np.maximum(known[after] - known[before], 1)
        part = points[start:end]
        runs.append((full.tolist(), part[before] + share[:, None, None] * (part[after] - part[before])))
    return runs


def smooth_run(points: Array) -> tuple[Array, Array]:
    """Smoothed quads (n, 3, 2) and landmarks (n, 68, 2) of one contiguous run; never across a frame in which the face leaps."""
    cuts = [i for i in range(1, len(points)) if leaps(points[i], points[i - 1])]
    parts = np.split(points, cuts)
    quads = [smooth_quads(np.stack([ffhq_quad(p) for p in part])) for part in parts]
    return np.concatenate(quads), np.concatenate([smooth_points(part) for part in parts])


def ramp(length: int, *, rises: bool, falls: bool) -> list[float]:
    """Weights of a run's frames: the edit fades in and out over 4 frames where the face comes or goes within a
    scene.
    """
    position = np.arange(length)
    weight = np.ones(length)
    if rises:
        weight = np.minimum(weight, (position + 1) / (RAMP_FRAMES + 1))
    if falls:
        weight = np.minimum(weight, (length - position) / (RAMP_FRAMES + 1))
    return [float(w) for w in weight]
