"""The plain way of editing a clip, to compare the engine with: what one would write first, with the same weights.

One thread of control, frame by frame: PyAV gives a whole RGB frame, the detector and the landmark network run on each,
the networks run in torch eager, the difference is warped to the frame and added in numpy where the crop lies, and the frame
goes back to YUV for the same H.264 encoder. No tracking, no smoothing, one face; sound is not copied, to its advantage.
"""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from mien.bench.frame_rgb import Window
from mien.engine import edits as methods
from mien.engine.bundle import Bundle
from mien.engine.compose import crop_scale
from mien.engine.config import EngineConfig
from mien.engine.edits import Method, View
from mien.engine.errors import EditError
from mien.engine.face.align import crop_to_frame, ffhq_quad, paste_box, widened
from mien.engine.face.detect import decode, suppress
from mien.engine.face.mask import GRID_PX, FaceMasks
from mien.engine.face.points import area, box_crop, invert, transform
from mien.engine.face.warp import motions, warp_field
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack

DETECTOR_PX, LANDMARK_PX = 320, 128
THRESHOLD = 0.5
_SAMPLING = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


class PlainWay:
    """Edits clips with a bundle's torch networks. Not safe for two threads."""

    def __init__(self, bundle: Bundle, spec: EditSpec, config: EngineConfig) -> None:
        active = [(bundle.edits[name], strength) for name, strength in spec.active]
        if tearing := [edit.name for edit, _ in active if edit.parts_lips or edit.closes_lids]:
            raise EditError(f"the plain way has smooth warps only: leave out {tearing[0]}")
        method_class = methods.load(spec.method)
        names = {"detector", "landmarks", "parser", *method_class.networks(spec, bundle.manifest)}
        self._networks = {name: bundle.load(name, "torch", config) for name in sorted(names)}
        self._motions = motions((edit.template, strength) for edit, strength in active)
        self._regions = method_class.regions(spec, bundle.manifest)
        self._within = spec.region
        self._size, self._scale = bundle.manifest.crop_size_px, crop_scale(spec, bundle.edits)
        spec = replace(spec, options=(*spec.options, ("whole", 1.0)))
        self._method: Method = method_class(spec, bundle, self._networks)

    def edit_clip(
        self, source: Path, target: Path, *, crf: int = 18, preset: str = "veryfast"
    ) -> tuple[int, int, float]:
        """Edit a clip. Returns frames, frames with a face, and seconds from the first packet to the closed file."""
        begin_s = time.perf_counter()
        frames = edited = 0
        track = FaceTrack(0)
        with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
            stream = reader.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            out: Any = writer.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset})
            out.width, out.height, out.pix_fmt = stream.width, stream.height, "yuv420p"
            for picture in reader.decode(stream):
                rgb = picture.to_ndarray(format="rgb24")
                answer = self.edit_picture(rgb, track)
                edited += answer is not None
                frame = av.VideoFrame.from_ndarray(rgb if answer is None else answer, format="rgb24")
                frame.pts, frame.time_base = picture.pts, picture.time_base
                writer.mux(out.encode(frame))
                frames += 1
            writer.mux(out.encode(None))
        return frames, edited, time.perf_counter() - begin_s

    def edit_picture(self, rgb: Array, track: FaceTrack) -> Array | None:
        """One whole RGB frame (H, W, 3) uint8 edited, or None where no face is found."""
        points = self._points(rgb)
        if points is None:
            return None
        quad = widened(ffhq_quad(points), self._scale)
        affine, box = crop_to_frame(quad, self._size), paste_box(quad, rgb.shape[1], rgb.shape[0])
        if not area(box):
            return None
        crop = _crop(rgb, affine, self._size)
        small = cv2.resize(crop.transpose(1, 2, 0), (GRID_PX, GRID_PX), interpolation=cv2.INTER_AREA)
        probabilities = self._networks["parser"](image=np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        in_crop = transform(invert(affine), points)
        masks = FaceMasks(probabilities["probabilities"][0], in_crop, self._size)
        mask = masks.united(self._regions, self._within)
        if self._method.wants_code():
            self._method.encode(track, crop)
        answer = self._method.finish(track, View(crop, mask, in_crop))
        delta = None if answer is None else answer.difference
        field = None
        if self._motions:
            field = warp_field(self._motions, in_crop, masks.support(), self._size)
        return _paste(rgb, box, affine, delta, mask, field)

    def _points(self, rgb: Array) -> Array | None:
        """68 landmarks of the largest face."""
        height, width = rgb.shape[:2]
        scale = min(1.0, DETECTOR_PX / max(width, height))
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(gray, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        picture = np.zeros((1, 1, -(-small.shape[0] // 32) * 32, -(-small.shape[1] // 32) * 32), np.float32)
        picture[0, 0, : small.shape[0], : small.shape[1]] = small / 255.0
        boxes = suppress(decode(dict(self._networks["detector"](luma=picture)), THRESHOLD))
        if not len(boxes):
            return None
        best = max((tuple(float(v) / scale for v in box[:4]) for box in boxes), key=lambda box: area(box))
        affine = box_crop(best, LANDMARK_PX)
        answer = self._networks["landmarks"](image=_crop(rgb, affine, LANDMARK_PX)[None])
        return transform(affine, answer["landmarks"][0].astype(np.float64))


def _crop(rgb: Array, affine: Array, size: int) -> Array:
    """(3, size, size) float32 RGB in [-1, 1]."""
    crop = cv2.warpAffine(rgb, affine, (size, size), flags=_SAMPLING, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(crop.transpose(2, 0, 1), np.float32) / np.float32(127.5) - np.float32(1.0)


def _paste(rgb: Array, box: Window, affine: Array, delta: Array | None, mask: Array, field: Array | None) -> Array:
    """The frame, its pixels within the crop's box moved by the field and the masked difference added."""
    x0, y0, x1, y1 = box
    there, size = affine - np.array([[0, 0, x0], [0, 0, y0]]), (x1 - x0, y1 - y0)
    warp = partial(cv2.warpAffine, M=there, dsize=size, flags=cv2.INTER_LINEAR)
    part: Array = rgb[y0:y1, x0:x1].astype(np.float32)
    if field is not None:
        fine = cv2.resize(field, (mask.shape[1], mask.shape[0]), interpolation=cv2.INTER_LINEAR)
        part = _moved(rgb, box, warp(fine) @ affine[:, :2].T.astype(np.float32))
    if delta is not None:
        part += warp(mask)[..., None] * warp(delta.transpose(1, 2, 0)) * np.float32(127.5)
    out = rgb.copy()
    out[y0:y1, x0:x1] = np.clip(np.rint(part), 0, 255)
    return out


def _moved(rgb: Array, box: Window, by: Array) -> Array:
    """A box of the frame, each of its pixels taken from `by` (h, w, 2) pixels further: what lies around it is read, too."""
    x0, y0, x1, y1 = box
    reach = int(np.abs(by).max()) + 3  # of the cubic, too
    left, top = max(x0 - reach, 0), max(y0 - reach, 0)
    around = rgb[top : y1 + reach, left : x1 + reach].astype(np.float32)
    rows, columns = np.mgrid[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    x, y = columns + by[..., 0], rows + by[..., 1]
    return np.asarray(cv2.remap(around, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
