"""Which faces are edited: the largest, the N largest, or all; over a whole clip, or frame by frame."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mien.engine.face.points import area
from mien.engine.spec import Faces
from mien.engine.types import Face

# A challenger must be this much larger than a face being edited to take its place, in area, and the average is over
# about this many frames.
INCUMBENT_FACTOR, MEMORY_FRAMES = 1.5, 12
# Detector scores, averaged over a track, between which a find turns from doubtful to believed. On clips of people in printed shirts the
# prints average .56 to .65 with four times the faces' areas, the faces .74 to .84.
DOUBTFUL, BELIEVED, DOUBT_WEIGHT = 0.70, 0.74, 0.05


def prominence(area_px: float, score: float) -> float:
    """What `largest` goes by: an area in square pixels, of which little counts where the detector's score is doubtful."""
    belief = (score - DOUBTFUL) / (BELIEVED - DOUBTFUL)
    return area_px * min(1.0, max(DOUBT_WEIGHT, belief))


def limit(faces: Faces) -> int:
    """How many faces at most are edited at a time."""
    return 1 if faces == "largest" else sys.maxsize if faces == "all" else int(faces)


@dataclass(frozen=True, slots=True)
class Presence:
    """A track's frames in one scene: their positions, ascending, and its prominence summed over them."""

    track_id: int
    scene: int
    positions: tuple[int, ...]
    prominence: float


def choose_tracks(tracks: Iterable[Presence], faces: Faces) -> frozenset[int]:
    """The tracks to edit over a whole clip.

    In each scene the most prominent track in total comes first; another one is taken only if, over more than four
    fifths of its frames, fewer than the limit of taken tracks are visible. So a face that the tracker lost and found
    under a new number goes on being edited, and the edit does not hop to a bystander.
    """
    most, chosen = limit(faces), set()
    taken: dict[int, dict[int, int]] = {}
    for track in sorted(tracks, key=lambda t: (-t.prominence, t.track_id)):
        counts = taken.setdefault(track.scene, {})
        crowded = sum(counts.get(position, 0) >= most for position in track.positions)
        if crowded * 5 < len(track.positions):
            chosen.add(track.track_id)
            for position in track.positions:
                counts[position] = counts.get(position, 0) + 1
    return frozenset(chosen)


def largest(faces: Sequence[Face], wanted: Faces) -> list[Face]:
    """The largest faces of a single picture, largest first."""
    return sorted(faces, key=lambda f: (-prominence(area(f.box_px), f.score), f.track_id))[: limit(wanted)]


class RunningChoice:
    """The faces to edit in each frame of a stream, from what has been seen so far."""

    def __init__(self, faces: Faces) -> None:
        self._limit = limit(faces)
        self._seen: dict[int, tuple[float, float]] = {}
        self._chosen: frozenset[int] = frozenset()

    def __call__(self, faces: Sequence[Face], alive: frozenset[int]) -> frozenset[int]:
        """Track numbers to edit among the faces now visible.

        alive: tracks that may come back; they keep their place meanwhile.
        """
        self._seen = {k: v for k, v in self._seen.items() if k in alive}
        for face in faces:
            now = (area(face.box_px), face.score)
            before = self._seen.get(face.track_id, now)
            mean_area, mean_score = (b + (n - b) / MEMORY_FRAMES for b, n in zip(before, now, strict=True))
            self._seen[face.track_id] = (mean_area, mean_score)
        ranked = sorted(
            self._seen,
            key=lambda k: (-prominence(*self._seen[k]) * (INCUMBENT_FACTOR if k in self._chosen else 1.0), k),
        )
        self._chosen = frozenset(ranked[: self._limit])
        return self._chosen
