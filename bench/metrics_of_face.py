"""The figures of the face that a clip shows longest, gathered pair by pair: identity, landmarks, lips, and the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mien.bench.frame_rgb import Window
from mien.bench.metrics import Figure, psnr_figure
from mien.bench.metrics_embedder import FaceEmbedder
from mien.bench.metrics_face import landmark_error, lip_error, mouth_opening
from mien.bench.metrics_identity import id_drift, tg_id, tl_id
from mien.bench.metrics_measurer import FollowFace, Measurer
from mien.bench.metrics_picture import FramePair, squared_error
from mien.bench.quality_statistics import motion_kept
from mien.engine.types import Array

# A source whose mouth opens by less (standard deviation, in inter-ocular distances) tells nothing about whether its motion is kept.
STILL_MOUTH = 0.01
IDENTITY = ("tl_id", "tg_id", "id_drift")
OWN_EMBEDDER = ("own_embedder_local", "own_embedder_global", "own_embedder_drift")


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Of a frame whose result shows the face. embeddings, openings: of source and result."""

    embeddings: tuple[Array, Array]
    landmark: float
    lip: float
    openings: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Of a frame with the face. background: squared error and samples; kept: None where the edit has lost the face."""

    track_id: int
    background: tuple[float, int]
    kept: _Kept | None


class FaceFigures:
    """is_identity: whether `embed` is an identity network; if not its figures are called own-embedder."""

    def __init__(self, follow: FollowFace, measure: Measurer, embed: FaceEmbedder, *, is_identity: bool) -> None:
        self._follow, self._measure, self._embed, self._is_identity = follow, measure, embed, is_identity
        self._seen: dict[int, _Seen] = {}
        self._frames = 0

    def add(self, pair: FramePair, boxes: Sequence[Window] = ()) -> None:
        """The next frame. boxes: where it was edited, if that is known."""
        index, self._frames = self._frames, self._frames + 1
        face = self._follow(pair.source, boxes)
        found = None if face is None else self._measure(pair.source, pair.result, face)
        if face is None or found is None:
            return
        background, kept = (0.0, 0), None
        if found.background is not None:
            background = squared_error(pair.before, pair.after, found.background)
        if found.result is not None:
            both = (pair.source, found.source), (pair.result, found.result)
            source, result = (self._embed(frame, points) for frame, points in both)
            errors = landmark_error(found.source, found.result), lip_error(found.source, found.result)
            openings = mouth_opening(found.source), mouth_opening(found.result)
            kept = _Kept((source, result), *errors, openings)
        self._seen[index] = _Seen(face.track_id, background, kept)

    def figures(self) -> tuple[dict[str, Figure], dict[str, int]]:
        """By the keys of METRICS; and frames_with_face, frames_face_lost."""
        tracks = Counter(s.track_id for s in self._seen.values() if self._follow.confirmed(s.track_id))
        longest = max(tracks, key=lambda k: tracks[k], default=0)
        seen = {index: s for index, s in self._seen.items() if s.track_id == longest}
        kept = {index: s.kept for index, s in seen.items() if s.kept is not None}
        counts = {"frames_with_face": len(seen), "frames_face_lost": len(seen) - len(kept)}
        out = self._of_identity(kept) | self._of_points(list(kept.values()), "lost" if seen else "not found")
        return out | self._of_background(list(seen.values())), counts

    def _of_identity(self, rows: Mapping[int, _Kept]) -> dict[str, Figure]:
        out, keys = {}, IDENTITY
        if not self._is_identity:
            out, keys = (
                dict.fromkeys(IDENTITY, Figure.none("no identity network given (--identity BUNDLE)")),
                OWN_EMBEDDER,
            )
        size = len(next(iter(rows.values())).embeddings[0]) if rows else 1
        both = np.full((2, self._frames, size), np.nan)
        for index, row in rows.items():
            both[:, index] = row.embeddings
        for key, metric in zip(keys, (tl_id, tg_id, id_drift), strict=True):
            value = metric(*both)
            out[key] = Figure.none("too few frames with the face") if value is None else Figure(self._embed.by, value)
        return out

    def _of_points(self, rows: Sequence[_Kept], else_: str) -> dict[str, Figure]:
        if not rows:
            keys = ("landmark_error", "lip_error", "mouth_opening_r")
            return dict.fromkeys(keys, Figure.none(f"the face was {else_}"))
        by = self._measure.points_by
        before, after = np.array([row.openings for row in rows]).T
        r = motion_kept(before, after, STILL_MOUTH)
        opening = Figure.none("the mouth hardly moves") if r is None else Figure(by, r)
        return {
            "landmark_error": Figure(by, float(np.mean([row.landmark for row in rows]))),
            "lip_error": Figure(by, float(np.mean([row.lip for row in rows]))),
            "mouth_opening_r": opening,
        }

    def _of_background(self, rows: Sequence[_Seen]) -> dict[str, Figure]:
        total, samples = sum(row.background[0] for row in rows), sum(row.background[1] for row in rows)
        none = Figure.none("no frame whose background is told from the person")
        return {"background_psnr_db": psnr_figure(total, samples, self._measure.background_by) if samples else none}
