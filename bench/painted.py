"""How much an edit must flicker: painted on every frame by the generator of its training pairs, beside the engine's own result.

    python -m mien.bench.painted CLIPS... --judge JUDGE [--edit sunglasses age skin_tone] [--frames 30] [--bundle tiny]

Flicker, mean |frame difference| inside the face over the source's, counts what moves with a face, too: dark glasses on a moving head
are a moving edge that the source has not. A painter without any network, on the judge's mesh smoothed over five frames, says how much
of the figure is the edit's nature. Edits without a landmark template only, as painters do not move the face.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from mien.bench.clips import clips_in
from mien.bench.frame_rgb import rgb8_of
from mien.bench.quality_measure import flicker_step
from mien.bench.quality_teacher import SURE, start_judge
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.types import Array, Frame
from mien.export.tiny.paint import PAINTERS, Face
from mien.runtime.source import open_video

SMOOTH = (0.1, 0.2, 0.4, 0.2, 0.1)
EDITS = ("sunglasses", "age", "skin_tone")


def smoothed(meshes: Array) -> Array:
    """(F, 478, 3) meshes averaged over the frames around, the ends repeated."""
    reach = len(SMOOTH) // 2
    padded = np.concatenate([meshes[:1]] * reach + [meshes] + [meshes[-1:]] * reach)
    return np.asarray(sum(w * padded[i : i + len(meshes)] for i, w in enumerate(SMOOTH)))


def flicker(pictures: Sequence[Array], hulls: Sequence[Array]) -> float:
    """Of the luma of pictures (H, W, 3) uint8, inside (H, W) bool hulls."""
    luma = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in pictures]
    return float(np.mean([flicker_step(*step) for step in zip(luma[1:], luma, hulls[1:], strict=False)]))


def painted(edit: str, pictures: Sequence[Array], meshes: Array) -> list[Array]:
    """The pictures with an edit at its full strength, as its generator paints it."""
    out = []
    for picture, mesh in zip(pictures, meshes, strict=True):
        nothing = np.zeros(picture.shape[:2], np.float32)
        face = Face(picture.astype(np.float32) / 255, mesh, nothing, nothing + 1)
        result = PAINTERS[edit](face.rgb, face, 1.0, np.random.default_rng(0))
        out.append((np.clip(result, 0, 1) * 255 + 0.5).astype(np.uint8))
    return out


def edited(bundle: Bundle, edit: str, frames: Sequence[Frame]) -> list[Array]:
    """The frames through the engine, read twice as a file is."""
    editor = Editor(bundle, {edit: 1.0}, config=EngineConfig(threads=1))
    survey = editor.survey()
    for frame in frames:
        survey.add(frame)
    plan = survey.finish()
    return [rgb8_of(plan.edit(frame).frame) for frame in frames]


def main() -> None:
    """Print a row a clip and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--edit", nargs="+", choices=sorted(PAINTERS), default=EDITS)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--bundle", default="tiny")
    args = parser.parse_args()
    (module, judge), bundle = start_judge(args.judge), Bundle.open(args.bundle)
    found = dict[str, list[tuple[float, float]]]()
    for clip in clips_in(args.clips):
        with open_video(clip) as video:
            frames = list(islice(video, args.frames))
        pictures = [rgb8_of(frame) for frame in frames]
        boxes = [[box for box in judge.boxes(p) if box[4] > SURE] for p in pictures]
        if len(pictures) < 2 or not all(boxes):
            print(f"{clip.stem:20} left out: not a face in each of {len(pictures)} frames")
            continue
        meshes = np.stack(
            [judge.mesh(p, max(b, key=lambda box: box[2] * box[3]))[0] for p, b in zip(pictures, boxes, strict=True)]
        )
        rings = [cv2.convexHull(m[module.OVAL, :2].astype(np.float32)).astype(np.int32) for m in meshes]
        hulls = [cv2.fillConvexPoly(np.zeros(pictures[0].shape[:2], np.uint8), r, 1).astype(bool) for r in rings]
        source, cells = max(flicker(pictures, hulls), 1e-6), []
        for edit in args.edit:
            pair = tuple(
                flicker(p, hulls) / source
                for p in (painted(edit, pictures, smoothed(meshes)), edited(bundle, edit, frames))
            )
            found.setdefault(edit, []).append((pair[0], pair[1]))
            cells.append(f"{edit} painted {pair[0]:.3f} engine {pair[1]:.3f}")
        print(f"{clip.stem:20} " + "   ".join(cells), flush=True)
    for edit, pairs in found.items():
        mean = np.mean(pairs, 0)
        print(f"{edit}: painted {mean[0]:.3f}, engine {mean[1]:.3f}, mean of {len(pairs)} clips")


if __name__ == "__main__":
    main()
