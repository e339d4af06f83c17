"""The figures of one clip, one edit and one strength, gathered frame by frame; every mean is over the frames with the face.

response      of the edit's own score, see quality_scores.py
jaw_r         correlation over the frames of the result's jawOpen with the source's, which moves; 0 for a result whose jaw is frozen
lips_r        the same of the gap between the lips, by the judge's mesh: jawOpen is a judge's reading of the whole mouth, and another
              expression around a moving jaw changes it; the gap is what is seen to move
leakage       {blendshape: mean absolute change}, without the edit's own and their opposites
background    mean absolute change of R, G, B in 8-bit levels, inside the paste box, where there is neither person nor hair nor face
outside       samples that differ outside the paste boxes, all planes, in all
own_drift     cosine distance of the bundle's own W+ codes of source and result: the own-embedder drift, no published ID metric
flicker       mean |frame difference| inside the face, luma, result over source
drift         mean distance of the judge's mesh points, source to result, over the inter-ocular distance, by region
warp_ratio    mean squared error after warping the last frame by the source's flow, inside the face, result over source
face_lost     frames where the judge's belief in the face falls by more than 3
Without a judge the background is where the bundle's own parser sees it, the flicker is that of the paste box, and what needs
the judge is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mien.bench.frame_rgb import Window, rgb8_of
from mien.bench.quality_scores import Score
from mien.bench.quality_statistics import motion_kept
from mien.bench.quality_teacher import Seen, Teacher, luma_of, window_of
from mien.engine.types import Array, Frame

# A source whose jaw moves less tells nothing about whether its motion is kept.
STILL_JAW = 0.01
STILL_LIPS = 0.01  # standard deviation of the gap, distances between the eyes; about what the mesh itself trembles
INNER_LIPS = (13, 14)  # their middles, of the judge's mesh
LOST = 3.0


@dataclass(slots=True)
class Place:
    """The edited face in one source frame. affine: of its crop. code: its own W+ code, on a sample of the frames.

    empty: (S, S) bool of the crop, where the bundle's own parser sees background; only without a judge.
    """

    box: Window
    affine: Array
    code: Array | None = None
    seen: Seen | None = None
    empty: Array | None = None


@dataclass(slots=True)
class FramePair:
    """Source and result in the window, for the scores."""

    source_rgb: Array
    result_rgb: Array
    seen: Seen | None = None
    mesh: Array | None = None
    blend: Mapping[str, float] | None = None

    @property
    def blends(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """The judge's blendshapes before and after."""
        assert self.seen is not None and self.blend is not None
        return self.seen.blend, self.blend

    @property
    def meshes(self) -> tuple[Array, Array]:
        """The judge's points before and after."""
        assert self.seen is not None and self.mesh is not None
        return self.seen.mesh, self.mesh

    def region(self, name: str) -> Array | None:
        """Where the teachers see a part of the source."""
        return None if self.seen is None else self.seen.region(name)


def cosine_distance(a: Array, b: Array) -> float:
    """1 - cosine of the angle between two arrays taken as vectors."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(1.0 - x @ y / max(float(np.linalg.norm(x) * np.linalg.norm(y)), 1e-12))


def changed_outside(source: Frame, result: Frame, boxes: tuple[Window, ...]) -> int:
    """Samples of all planes that differ outside the boxes (x0, y0, x1, y1 in luma pixels, even, ends exclusive)."""
    count = 0
    for before, after, half in zip(source.planes, result.planes, (1, 2, 2), strict=True):
        if before is after:
            continue
        apart = before != after
        for x0, y0, x1, y1 in boxes:
            apart[y0 // half : -(-y1 // half), x0 // half : -(-x1 // half)] = False
        count += int(apart.sum())
    return count


def background_change(source: Array, result: Array, where: Array) -> float | None:
    """Mean absolute difference of (h, w, 3) pictures where a mask is set; None where it is empty."""
    if not where.any():
        return None
    return float(np.abs(result[where].astype(np.int16) - source[where]).mean())


def flicker_step(now: Array, before: Array, hull: Array) -> float:
    """What flicker is the mean of: mean |difference| of two frames' luma (h, w) inside a mask."""
    return float(np.abs(now - before)[hull].mean())


class Run:
    """Takes a clip's frames in order with their results; `figures` at the end."""

    def __init__(self, score: Score, strength: float, teacher: Teacher | None) -> None:
        self._score, self._teacher = score, teacher
        self._sign = float(np.sign(strength))
        self._lists: dict[str, list[Any]] = {}
        self._outside = 0
        self._last: tuple[Frame, Frame] | None = None

    def _note(self, name: str, value: Any) -> None:
        if value is not None:
            self._lists.setdefault(name, []).append(value)

    def add(
        self, source: Frame, result: Frame, boxes: tuple[Window, ...], place: Place | None, code: Array | None
    ) -> None:
        """One frame; `place` is None where no face was edited, `code` the result's where the source has one."""
        self._outside += changed_outside(source, result, boxes)
        if place is None or (self._teacher is not None and place.seen is None):
            self._last = None
            return
        seen = place.seen
        window = seen.window if seen is not None else window_of(place.box, source)
        pair = FramePair(rgb8_of(source, window), rgb8_of(result, window), seen)
        if seen is not None and self._teacher is not None:
            self._judged(self._teacher, seen, pair)
        self._note("response", self._score.change(pair, self._sign))
        if place.code is not None and code is not None:
            self._note("own_drift", cosine_distance(place.code, code))
        where = self._background(place, window, pair.source_rgb.shape[:2])
        if where is not None:
            self._note("background", background_change(pair.source_rgb, pair.result_rgb, where))
        self._motion(source, result, place, window)
        self._last = source, result

    def _judged(self, teacher: Teacher, seen: Seen, pair: FramePair) -> None:
        pair.mesh, presence, blend = teacher.again(pair.result_rgb, seen)
        pair.blend = blend
        self._note("jaw", (seen.blend["jawOpen"], blend["jawOpen"]))
        others = [k for k in blend if k not in self._score.own and k != "_neutral"]
        self._note("leakage", {k: abs(blend[k] - seen.blend[k]) for k in others})
        before, after = seen.mesh[:, :2], pair.mesh[:, :2]
        eyes = float(np.hypot(*(before[[33, 133]].mean(0) - before[[263, 362]].mean(0))))
        upper, lower = INNER_LIPS
        self._note("lips", [float(np.hypot(*(at[lower] - at[upper]))) / eyes for at in (before, after)])
        moved = np.hypot(*(after - before).T) / eyes
        self._note("drift", {name: float(moved[ids].mean()) for name, ids in teacher.regions.items()})
        self._note("face_lost", presence - seen.presence < -LOST)

    def _background(self, place: Place, window: Window, shape: tuple[int, ...]) -> Array | None:
        where: Array | None = None
        if place.seen is not None:
            where = place.seen.background()
        elif place.empty is not None:
            shift = place.affine - np.array([[0, 0, window[0]], [0, 0, window[1]]])
            where = cv2.warpAffine(place.empty.astype(np.uint8), shift, shape[::-1], flags=cv2.INTER_NEAREST) > 0
        if where is None:
            return None
        x0, y0, x1, y1 = (v - window[i % 2] for i, v in enumerate(place.box))
        inside = np.zeros(shape, bool)
        inside[y0:y1, x0:x1] = where[y0:y1, x0:x1]
        return inside

    def _motion(self, source: Frame, result: Frame, place: Place, window: Window) -> None:
        if self._last is None:
            return
        seen = place.seen
        area = window if seen is not None else place.box
        now, before = ((luma_of(a, area), luma_of(b, area)) for a, b in ((source, result), self._last))
        hull = seen.hull if seen is not None else np.ones(now[0].shape, bool)
        self._note("flicker", [flicker_step(a, b, hull) for a, b in zip(now, before, strict=True)])
        if seen is None or seen.flow is None:
            return
        rows, columns = (
            s.start + np.arange(n, dtype=np.float32) for s, n in zip(seen.inner, seen.flow.shape, strict=False)
        )
        x, y = columns[None] + seen.flow[..., 0], rows[:, None] + seen.flow[..., 1]
        errors = []
        for a, b in zip(now, before, strict=True):
            warped = cv2.remap(
                b, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            errors.append(float(((a[seen.inner] - warped)[hull[seen.inner]] ** 2).mean()))
        self._note("warp", errors)

    def figures(self) -> dict[str, Any]:
        """See the file's first lines; None for what could not be measured."""
        notes = self._lists
        jaws, lips = (np.asarray(notes.get(name, np.zeros((0, 2)))).T for name in ("jaw", "lips"))
        return {
            "frames": len(notes.get("response", ())),
            "response": _mean(notes.get("response")),
            "jaw_r": motion_kept(jaws[0], jaws[1], STILL_JAW),
            "lips_r": motion_kept(lips[0], lips[1], STILL_LIPS),
            "leakage": mean_by_name(notes.get("leakage")),
            "background": _mean(notes.get("background")),
            "outside": self._outside,
            "own_drift": _mean(notes.get("own_drift")),
            "flicker": _ratio(notes.get("flicker")),
            "drift": mean_by_name(notes.get("drift")),
            "warp_ratio": _ratio(notes.get("warp")),
            "face_lost": sum(notes["face_lost"]) if "face_lost" in notes else None,
        }


def _mean(values: list[float] | None) -> float | None:
    return float(np.mean(values)) if values else None


def mean_by_name(rows: list[dict[str, float]] | None) -> dict[str, float] | None:
    """Means of dictionaries with the same keys."""
    return {k: float(np.mean([row[k] for row in rows])) for k in rows[0]} if rows else None


def _ratio(pairs: list[list[float]] | None) -> float | None:
    """Mean of the second over the mean of the first."""
    if not pairs:
        return None
    first, second = np.asarray(pairs).mean(0)
    return float(second / max(first, 1e-6))
