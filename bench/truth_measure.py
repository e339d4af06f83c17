"""What the exact-truth test measures of pictures and points, and its contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.bench.frame_rgb import rgb_of
from mien.bench.metrics_picture import psnr_db, squared_error
from mien.bench.truth_heads import RATE, Take
from mien.engine.face.landmarks import Landmarker
from mien.engine.face.points import inter_ocular, landmark_crop
from mien.engine.types import Array, Frame
from mien.export.render.picture import BACKGROUND
from mien.kernels.color import rgb_to_yuv

MOST_DB = 99.0  # of pictures without any difference
MOVES = 0.01  # inter-ocular distances: a point whose true motion is shorter counts as still
EDGE_PX = 2  # around the face: pixels that belong to neither side


def frame_of(rgb: NDArray[np.uint8], index: int) -> Frame:
    """A picture (H, W, 3) of even sides as a frame in yuv420p, BT.709, limited range."""
    linear, offset = rgb_to_yuv("bt709", "limited", 8)
    yuv = (rgb / 127.5 - 1.0) @ linear.T + offset
    left = cv2.copyMakeBorder(yuv[..., 1:], 0, 0, 1, 1, cv2.BORDER_REPLICATE)
    # Chroma lies on the left of two columns.
    even = 0.25 * left[:, :-2:2] + 0.5 * left[:, 1:-1:2] + 0.25 * left[:, 2::2]
    chroma = (even[::2] + even[1::2]) / 2
    planes = [
        np.ascontiguousarray(np.clip(np.rint(p), 0, 255), np.uint8) for p in (yuv[..., 0], *np.moveaxis(chroma, 2, 0))
    ]
    return Frame((planes[0], planes[1], planes[2]), "yuv420p", "bt709", "limited", index, index, Fraction(1, RATE), 1)


def psnr(one: Sequence[Array], other: Sequence[Array], masks: Sequence[Array]) -> float:
    """Of pictures (H, W, 3), 0..255, over all pixels of all masks together, dB; at most MOST_DB; nan where no mask has a pixel."""
    total, count = 0.0, 0
    for a, b, mask in zip(one, other, masks, strict=True):
        error, samples = squared_error(a, b, mask)
        total, count = total + error, count + samples
    return math.nan if count == 0 else min(MOST_DB, psnr_db(total / count))


def motion(true: Array, measured: Array) -> tuple[float, float]:
    """How much of a true displacement was done, and how straight: share 1 is all of it, cosine 1 the right direction.

    true, measured: (..., 68, 2) in inter-ocular distances; only points that truly move count; nan where none does or nothing moved.
    """
    moves = np.hypot(true[..., 0], true[..., 1]) > MOVES
    t, m = true[moves], measured[moves]
    along, size, own = float((t * m).sum()), float((t * t).sum()), float((m * m).sum())
    share = along / size if size > 0 else math.nan
    return share, along / math.sqrt(size * own) if size * own > 0 else math.nan


@dataclass(slots=True)
class Shot:
    """A head's clip as it is and as it truly would be: pictures, masks and points of every frame."""

    frames: list[Frame]
    source: list[Array]
    truth: list[Array]
    inside: list[Array]
    outside: list[Array]
    far: list[Array]  # background in both
    affines: list[Array]
    units: Array  # (F,) inter-ocular distances
    moved: Array  # (F, 68, 2) exact, inter-ocular distances
    at_source: Array  # (F, 68, 2) by the landmark network
    at_truth: Array

    @classmethod
    def of(cls, source: Sequence[Take], truth: Sequence[Take], landmarker: Landmarker) -> Shot:
        """From the takes; the same landmark crop serves both and, later, the result, so that the network's bias cancels."""
        frames = [frame_of(take.rgb, i) for i, take in enumerate(source)]
        other = [frame_of(take.rgb, i) for i, take in enumerate(truth)]
        inside = [a.face | b.face for a, b in zip(source, truth, strict=True)]
        edge = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
        outside = [cv2.dilate(mask.astype(np.uint8), edge) == 0 for mask in inside]
        far = [(a.parts == BACKGROUND) & (b.parts == BACKGROUND) for a, b in zip(source, truth, strict=True)]
        exact = [
            (a.landmarks.astype(np.float64), b.landmarks.astype(np.float64)) for a, b in zip(source, truth, strict=True)
        ]
        affines = [landmark_crop((a + b) / 2, 128) for a, b in exact]
        units = np.array([inter_ocular(a) for a, _ in exact])
        return cls(
            frames,
            [rgb_of(f) for f in frames],
            [rgb_of(f) for f in other],
            inside,
            outside,
            far,
            affines,
            units,
            np.stack([b - a for a, b in exact]) / units[:, None, None],
            points_of(frames, affines, landmarker),
            points_of(other, affines, landmarker),
        )

    def figures(self, results: Sequence[Frame], keep: Sequence[int], landmarker: Landmarker) -> dict[str, float]:
        """The figures of some results in the place of the source, over the frames `keep`; see `truth.py` for what they mean."""
        rgb = [rgb_of(results[i]) for i in keep]
        points = points_of([results[i] for i in keep], [self.affines[i] for i in keep], landmarker)
        units, true = self.units[keep, None, None], self.moved[keep]
        moves = np.hypot(true[..., 0], true[..., 1]) > MOVES
        error = np.linalg.norm((points - self.at_truth[keep]) / units, axis=2)
        share, cosine = motion(true, (points - self.at_source[keep]) / units)
        seen, _ = motion(true, (self.at_truth[keep] - self.at_source[keep]) / units)
        inside, outside, far = ([masks[i] for i in keep] for masks in (self.inside, self.outside, self.far))
        truth, source = [self.truth[i] for i in keep], [self.source[i] for i in keep]
        leak = [float(np.abs(a[m] - b[m]).mean()) for a, b, m in zip(rgb, source, far, strict=True) if m.any()]
        return {
            "face_db": psnr(rgb, truth, inside),
            "outside_db": psnr(rgb, truth, outside),
            "background": float(np.mean(leak)) if leak else math.nan,
            "error": 100 * float(error[moves].mean()) if moves.any() else math.nan,
            "error_all": 100 * float(error.mean()),
            "share": share,
            "seen": seen,
            "cosine": cosine,
        }


def points_of(frames: Sequence[Frame], affines: Sequence[Array], landmarker: Landmarker) -> Array:
    """(F, 68, 2) points of the landmark network on each frame."""
    return np.stack([landmarker(f, [affine])[0][0] for f, affine in zip(frames, affines, strict=True)])


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A line of a contact sheet: pictures (H, W, 3) on 0..255 and the box they are cut to."""

    label: str
    source: Array
    truth: Array
    result: Array
    box: tuple[int, int, int, int]


def sheet_row(shot: Shot, result: Frame, i: int, label: str) -> SheetRow:
    """One frame of a shot, cut to the face and a little around it."""
    y, x = np.nonzero(shot.inside[i])
    pad = int(0.12 * (y.max() - y.min()))
    height, width = shot.inside[i].shape
    box = (
        max(0, int(x.min()) - pad),
        max(0, int(y.min()) - pad),
        min(width, int(x.max()) + pad),
        min(height, int(y.max()) + pad),
    )
    return SheetRow(label, shot.source[i], shot.truth[i], rgb_of(result), box)


def write_sheet(path: Path, rows: Sequence[SheetRow], side: int = 300) -> None:
    """source, truth, result, four times |result - truth|, four times |source - truth| side by side."""
    heads = ("source", "truth", "result", "4 |result - truth|", "4 |source - truth|")
    lines = []
    for row in rows:
        left, top, right, bottom = row.box
        cut = [p[top:bottom, left:right] for p in (row.source, row.truth, row.result)]
        cells = [*cut, 4 * np.abs(cut[2] - cut[1]), 4 * np.abs(cut[0] - cut[1])]
        scale = side / max(cut[0].shape[:2])
        shown = []
        for cell, head in zip(cells, heads, strict=True):
            small = cv2.resize(np.clip(cell, 0, 255), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            tile = np.zeros((side + 20, side, 3), np.uint8)
            tile[20 : 20 + small.shape[0], : small.shape[1]] = small[:side, :side]
            text = f"{row.label}: {head}" if head == "source" else head
            cv2.putText(tile, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
            shown.append(tile)
        lines.append(np.concatenate(shown, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(lines)[..., ::-1])
