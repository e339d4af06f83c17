"""The tracker: landmarks of every face in every frame, each face under a stable number, the detector only every few
frames.

A track is born from a detection whose landmarks the landmark network believes in; it counts as confirmed after a
second detection (at once if both networks are sure). While it lives, each frame's landmark crop comes from the
previous frame's landmarks. A frame in which the network does not believe shows no face of that track, and calls the
detector; the track takes its face up again if one is found near its last box within `lost_after` frames, or one of its size
not far from there, as after a quick movement. A scene cut ends every track.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mien.engine.clock import Clock
from mien.engine.face.detect import NARROW_PX, WIDE_PX, WIDEST_PX, Detection
from mien.engine.face.landmarks import CROP_PX
from mien.engine.face.points import Box, area, box_crop, face_box, inter_ocular, iou, landmark_crop
from mien.engine.face.scene import CutDetector
from mien.engine.types import Array, Face, Frame

REMEMBERED_TRACKS = 100_000
"""How many confirmed tracks a tracker knows of, ended ones included: a stream may run for ever."""


class FindFaces(Protocol):
    """What the tracker needs of a detector."""

    def __call__(self, frame: Frame, long_side_px: int = NARROW_PX) -> list[Detection]:
        """Faces in a frame."""


class FindLandmarks(Protocol):
    """What the tracker needs of a landmarker."""

    def __call__(self, frame: Frame, affines: list[Array]) -> list[tuple[Array, float]]:
        """Points and presence for each crop."""


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """detect_every, empty_every, confirm_every: frames between detections with faces, without, and with an unconfirmed
    track.

    score_new: least score of a detection that begins a track; one smaller than tiny_share needs no more than the detector
    asks. presence_new, presence_keep: least presence to begin and to go on. sure: score and presence that confirm at once.
    lost_after: frames without a face after which a track ends. unseen_detections: detections in a row that miss a
    track before it ends, unless its presence is at least `sure`. match_iou: least overlap of a detection and its
    track. reach: sides of its last box within which a confirmed track without a face may take up a detection of more than half
    its area. small_share, tiny_share: a face smaller than this share of the long side gets the wide picture, the widest;
    wide_every: and every so manieth detection is wide anyway, for faces that have come into the picture far away, and
    the widest in a frame that the wide picture would shrink to less than half.
    """

    detect_every: int = 8
    empty_every: int = 2
    confirm_every: int = 2
    crowd: int = 3
    crowd_every: int = 4
    score_new: float = 0.5
    presence_new: float = 0.75
    presence_keep: float = 0.35
    sure: float = 0.9
    lost_after: int = 8
    unseen_detections: int = 3
    match_iou: float = 0.3
    reach: float = 1.5
    small_share: float = 0.1
    tiny_share: float = 0.0625
    wide_every: int = 3


@dataclass(slots=True)
class _Track:
    track_id: int
    points: Array
    box: Box
    score: float
    presence: float
    hits: int = 1
    unseen: int = 0
    missing: int = 0
    confirmed: bool = False


class Tracker:
    """Follows the faces of one video, frame by frame in display order. Numbers grow from 1 and are never used twice."""

    def __init__(
        self,
        detector: FindFaces,
        landmarker: FindLandmarks,
        clock: Clock | None = None,
        options: TrackerOptions | None = None,
    ) -> None:
        self._detector, self._landmarker = detector, landmarker
        self._clock = clock or Clock()
        self._options = options or TrackerOptions()
        self._cuts = CutDetector()
        self._next_id = 1
        self._confirmed: OrderedDict[int, None] = OrderedDict()  # the longest gone first
        self.scene = 0
        self.reset()

    def reset(self) -> None:
        """End every track; numbers go on."""
        self._tracks: list[_Track] = []
        self._cuts.reset()
        self._since_detection = self._detections = 0

    def confirmed(self, track_id: int) -> bool:
        """Whether that track has been confirmed so far; one that ended is known while it is among the last
        `REMEMBERED_TRACKS`.
        """
        return track_id in self._confirmed

    @property
    def alive(self) -> frozenset[int]:
        """Tracks that have not ended, visible or not."""
        return frozenset(t.track_id for t in self._tracks)

    def update(self, frame: Frame) -> list[Face]:
        """The faces visible in the next frame, unconfirmed ones too.

        `scene` counts the scenes up to this frame, from 1.
        """
        with self._clock("scene"):
            cut = self._cuts(frame)
        if cut:
            self.scene += 1
            self._tracks = []
        self._follow(frame)
        if cut or self._wants_detection():
            self._detect(frame, cut)
        self._drop_duplicates()
        self._tracks = [t for t in self._tracks if not self._over(t)]
        for track_id in (t.track_id for t in self._tracks if t.confirmed):
            self._confirmed[track_id] = None
            self._confirmed.move_to_end(track_id)
        while len(self._confirmed) > REMEMBERED_TRACKS:
            self._confirmed.popitem(last=False)
        return [
            Face(t.track_id, t.box, t.points.astype(np.float32), t.score, t.presence)
            for t in self._tracks
            if t.missing == 0
        ]

    def _follow(self, frame: Frame) -> None:
        self._since_detection += 1
        visible = [t for t in self._tracks if t.missing == 0]
        with self._clock("landmarks"):
            answers = self._landmarker(frame, [landmark_crop(t.points, CROP_PX) for t in visible])
        for track in self._tracks:
            track.missing += track.missing > 0
        for track, (points, presence) in zip(visible, answers, strict=True):
            if presence >= self._options.presence_keep and plausible(points, track.points, frame):
                self._place(track, frame, points, presence)
            else:
                track.missing = 1

    def _place(self, track: _Track, frame: Frame, points: Array, presence: float) -> None:
        track.points, track.presence, track.missing = points, presence, 0
        track.box = face_box(points, upright_angle(frame))

    def _wants_detection(self) -> bool:
        options = self._options
        if any(t.missing for t in self._tracks):
            return True
        every = options.empty_every if not self._tracks else options.detect_every
        if len(self._tracks) >= options.crowd:
            every = options.crowd_every
        if any(not t.confirmed for t in self._tracks):
            every = options.confirm_every
        return self._since_detection >= every

    def _detect(self, frame: Frame, cut: bool) -> None:
        options = self._options
        long_side = max(frame.width_px, frame.height_px)
        smallest = min((math.sqrt(area(t.box)) / long_side for t in self._tracks), default=0.0)
        look = cut or self._detections % options.wide_every == 0
        side = NARROW_PX
        if look or smallest < options.small_share:
            tiny_faces = self._tracks and smallest < options.tiny_share
            side = WIDEST_PX if tiny_faces or (look and long_side > 2 * WIDE_PX) else WIDE_PX
        self._since_detection, self._detections = 0, self._detections + 1
        with self._clock("detect"):
            found = self._detector(frame, side)
        pairs = ((i, k) for i in range(len(found)) for k in range(len(self._tracks)))
        taken: set[int] = set()
        matched: dict[int, int] = {}
        for likeness, i, k in sorted(
            ((self._likeness(found[i], self._tracks[k]), i, k) for i, k in pairs), reverse=True
        ):
            if likeness > 0.0 and i not in taken and k not in matched:
                taken.add(i)
                matched[k] = i
        for k, track in enumerate(self._tracks):
            if k in matched:
                track.hits, track.unseen, track.score = track.hits + 1, 0, found[matched[k]].score
                track.confirmed |= track.hits >= 2
            elif track.missing == 0:
                track.unseen += 1
        lost = [(self._tracks[k], found[i]) for k, i in matched.items() if self._tracks[k].missing]
        tiny = options.tiny_share * long_side
        fresh = [
            d
            for i, d in enumerate(found)
            if i not in taken and (d.score >= options.score_new or math.sqrt(area(d.box)) < tiny)
        ]
        self._take_up(frame, lost, fresh)

    def _likeness(self, found: Detection, track: _Track) -> float:
        """How surely a detection is of a track's face, 0 if it is not: their overlap, or less than any overlap, the nearer the
        more, where the face of a confirmed track that lost it may have gone.
        """
        options = self._options
        if (overlap := iou(found.box, track.box)) >= options.match_iou:
            return overlap
        size = area(track.box)
        if not (track.missing and track.confirmed and 0.5 * size < area(found.box) < 2.0 * size):
            return 0.0
        way = math.dist(centre(found.box), centre(track.box)) / math.sqrt(size)
        return options.match_iou * max(0.0, 1.0 - way / options.reach)

    def _take_up(self, frame: Frame, lost: list[tuple[_Track, Detection]], fresh: list[Detection]) -> None:
        """Landmarks from boxes, in two passes as the first crop is only roughly right: for lost tracks found again
        and for new faces.
        """
        angle = upright_angle(frame)
        boxes = [d.box for _, d in lost] + [d.box for d in fresh]
        with self._clock("landmarks"):
            affines = [box_crop(box, CROP_PX, angle) for box in boxes]
            for k, (points, _) in enumerate(self._landmarker(frame, affines)):
                if plausible(points, points, frame):
                    affines[k] = landmark_crop(points, CROP_PX)
            answers = self._landmarker(frame, affines)
        for (track, _), (points, presence) in zip(lost, answers, strict=False):
            if presence >= self._options.presence_new and plausible(points, points, frame):
                self._place(track, frame, points, presence)
        for d, (points, presence) in zip(fresh, answers[len(lost) :], strict=True):
            if presence < self._options.presence_new or not plausible(points, points, frame):
                continue
            box = face_box(points, angle)
            if iou(box, d.box) < self._options.match_iou:
                continue
            track = _Track(self._next_id, points, box, d.score, presence)
            track.confirmed = min(d.score, presence) >= self._options.sure
            self._next_id += 1
            self._tracks.append(track)

    def _drop_duplicates(self) -> None:
        """Of two visible tracks on one face the unconfirmed, else the younger, ends."""
        order = sorted(self._tracks, key=lambda t: (not t.confirmed, t.track_id))
        kept: list[_Track] = []
        for track in order:
            if track.missing or not any(
                not k.missing and (iou(k.box, track.box) > 0.5 or near(k.points, track.points)) for k in kept
            ):
                kept.append(track)
        self._tracks = sorted(kept, key=lambda t: t.track_id)

    def _over(self, track: _Track) -> bool:
        options = self._options
        if not track.confirmed and (track.missing or track.unseen):
            return True
        return track.missing > options.lost_after or (
            track.unseen >= options.unseen_detections and track.presence < options.sure
        )


def upright_angle(frame: Frame) -> float:
    """Direction of the upright picture's +x in the stored picture, radians."""
    return -math.radians(frame.rotation)


def centre(box: Box) -> tuple[float, float]:
    """The middle (x, y) of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def near(a: Array, b: Array) -> bool:
    """Whether two sets of points lie on the same face: on average within 0.4 inter-ocular distances."""
    return float(np.hypot(*(a - b).T).mean()) < 0.4 * max(inter_ocular(a), inter_ocular(b))


def leaps(points: Array, before: Array) -> bool:
    """Whether points have moved by half of a face or more."""
    return float(np.hypot(*(points.mean(0) - before.mean(0)))) >= 0.5 * float(np.ptp(before, 0).max())


def plausible(points: Array, before: Array, frame: Frame) -> bool:
    """Whether points can be a face: big enough, mostly inside the frame, and not suddenly of another size or place."""
    if not np.isfinite(points).all():
        return False
    size, size_before = float(np.ptp(points, 0).max()), float(np.ptp(before, 0).max())
    x, y = points.mean(0)
    inside = -0.25 * size < x < frame.width_px + 0.25 * size and -0.25 * size < y < frame.height_px + 0.25 * size
    return size >= 8.0 and inside and 0.6 < size / size_before < 1.7 and not leaps(points, before)
