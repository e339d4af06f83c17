"""The figures over whole frames, gathered pair by pair: motion, CLIP, and what differs outside of the paste boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mien.bench.frame_rgb import Window
from mien.bench.metrics import Figure
from mien.bench.metrics_clip import ClipEmbedder
from mien.bench.metrics_motion import FlowOfSource, pixel_mse, warp_error
from mien.bench.metrics_picture import FramePair
from mien.bench.metrics_text import clip_frame, clip_text
from mien.bench.quality_measure import changed_outside
from mien.bench.quality_teacher import luma_of
from mien.engine.types import Array, Frame


class MotionFigures:
    """warp_error, pixel_mse: means over the steps from frame to frame, of the result and of the source."""

    def __init__(self) -> None:
        self._flow = FlowOfSource()
        self._last: tuple[FramePair, Array] | None = None
        self._steps: list[list[float | None]] = []

    def add(self, pair: FramePair) -> None:
        """The next frame."""
        whole = (0, 0, pair.source.width_px, pair.source.height_px)
        luma = np.rint(luma_of(pair.source, whole)).astype(np.uint8)
        if self._last is not None:
            last, motion = self._last[0], self._flow(self._last[1], luma)
            sides = (last.before, pair.before), (last.after, pair.after)
            self._steps.append([error(*side, motion) for error in (warp_error, pixel_mse) for side in sides])
        self._last = pair, luma

    def figures(self) -> dict[str, Figure]:
        """By the keys of METRICS."""
        out = {}
        for k, key in enumerate(("warp_error", "pixel_mse")):
            steps = [step[2 * k : 2 * k + 2] for step in self._steps if step[2 * k] is not None]
            if steps:
                source, result = np.asarray(steps, float).mean(0)
                out[key] = Figure("DIS flow of the source, whole frames", float(result), float(source))
            else:
                out[key] = Figure.none("no two frames that follow each other")
        return out


class ClipFigures:
    """clip_text, clip_frame; without a CLIP, why not."""

    def __init__(self, clip: ClipEmbedder | None, prompt: str | None) -> None:
        self._clip, self._prompt = clip, prompt
        self._seen: tuple[list[Array], list[Array]] = ([], [])

    def add(self, pair: FramePair) -> None:
        """The next frame."""
        if self._clip is not None:
            for into, picture in zip(self._seen, (pair.before, pair.after), strict=True):
                into.append(self._clip.image(picture))

    def figures(self) -> dict[str, Figure]:
        """By the keys of METRICS."""
        if self._clip is None:
            return dict.fromkeys(("clip_text", "clip_frame"), Figure.none("no CLIP given (--clip FOLDER)"))
        source, result = (np.stack(embeddings) for embeddings in self._seen)
        text = Figure.none("no prompt given (--prompt TEXT)")
        if self._prompt is not None:
            prompt, lost = self._clip.text(self._prompt)
            how = f"{self._clip.by}, {self._prompt!r}" + (f", of which {lost!r} does not fit" if lost else "")
            text = Figure(how, clip_text(result, prompt), clip_text(source, prompt))
        steady = clip_frame(result)
        alone = Figure.none("no two frames that follow each other")
        whole = alone if steady is None else Figure(self._clip.by, steady, clip_frame(source))
        return {"clip_text": text, "clip_frame": whole}


class OutsideFigures:
    """outside_boxes. boxes: the paste boxes by frame, None where they are not known."""

    def __init__(self, boxes: Mapping[int, Sequence[Window]] | None) -> None:
        self._boxes = boxes
        self._changed = self._samples = self._frames = 0
        self._formats: set[str] = set()

    def add(self, pair: FramePair) -> None:
        """The next frame."""
        index, self._frames = self._frames, self._frames + 1
        if self._boxes is None:
            return
        self._formats = {pair.source.pixel_format, pair.result.pixel_format}
        if len(self._formats) == 1:
            boxes = tuple(self._boxes.get(index, ()))
            self._changed += changed_outside(pair.source, pair.result, boxes)
            self._samples += _outside(pair.source, boxes)

    def figures(self) -> dict[str, Figure]:
        """By the keys of METRICS."""
        if self._boxes is None:
            figure = Figure.none("no report of the edit given (--report FILE.json)")
        elif len(self._formats) > 1:
            figure = Figure.none(f"source and result are {' and '.join(sorted(self._formats))}")
        else:
            more: dict[str, Any] = {"identical": self._changed == 0, "samples": self._samples}
            how = f"of {self._samples} samples as decoded, all planes, outside of the report's paste boxes"
            figure = Figure(how, self._changed, more=more)
        return {"outside_boxes": figure}


def _outside(frame: Frame, boxes: Sequence[Window]) -> int:
    """How many samples lie outside of boxes, all planes."""
    count = 0
    for plane, half in zip(frame.planes, (1, 2, 2), strict=True):
        free = np.ones(plane.shape, bool)
        for x0, y0, x1, y1 in boxes:
            free[y0 // half : -(-y1 // half), x0 // half : -(-x1 // half)] = False
        count += int(free.sum())
    return count
