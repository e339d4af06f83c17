"""What the judge and the teachers say of one frame, in a window around the edited face.

The judge is a script outside the project, loaded by its path; meshes, blendshapes and boxes are its own functions, hair and
person masks come from the weights it names. All of it is asked once per source frame; of a result only mesh and blendshapes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.bench.frame_rgb import Window, rgb8_of
from mien.engine.errors import MediaError, UnavailableError
from mien.engine.types import MAX_VALUE, Array, Frame
from mien.export.tiny.teachers import Teachers

SURE = 0.8
AROUND = 0.15

_LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_LIPS_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
_EYE_LEFT = (130, 226, 247, 30, 29, 27, 28, 56, 190, 243, 112, 26, 22, 23, 24, 110, 25)
_EYE_RIGHT = (359, 446, 467, 260, 259, 257, 258, 286, 414, 463, 341, 256, 252, 253, 254, 339, 255)
_BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))


def window_of(box: Window, frame: Frame) -> Window:
    """A box grown by a share of its side, clipped to the frame, on even pixels."""
    x0, y0, x1, y1 = box
    grow = round(AROUND * max(x1 - x0, y1 - y0))
    left, top = max(0, x0 - grow) // 2 * 2, max(0, y0 - grow) // 2 * 2
    return left, top, min(frame.width_px, x1 + grow), min(frame.height_px, y1 + grow)


def luma_of(frame: Frame, window: Window) -> Array:
    """(h, w) float32 luma of a window in levels of full range, 0 to 255."""
    x0, y0, x1, y1 = window
    values = frame.planes[0][y0:y1, x0:x1].astype(np.float32) * np.float32(255 / MAX_VALUE[frame.pixel_format])
    return np.clip((values - 16) * np.float32(255 / 219), 0, 255) if frame.color_range == "limited" else values


def load_judge(path: Path) -> Any:
    """The judge's module. Raises MediaError for a file that is none, UnavailableError for what it needs and lacks."""
    if not path.is_file():
        raise MediaError(f"no such judge: {path}: give the path of judge.py, or leave --judge out")
    spec = importlib.util.spec_from_file_location("mien_bench_judge", path)
    if spec is None or spec.loader is None:
        raise MediaError(f"{path} is not a Python file: give the path of judge.py, or leave --judge out")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UnavailableError(f"the judge {path} needs {error.name}: pip install it, or leave --judge out") from None
    except Exception as error:
        raise MediaError(f"the judge {path} cannot be loaded: {type(error).__name__}: {error}") from None
    wanted = ("Judge", "BLEND_NAMES", "REGIONS", "OVAL", "WEIGHTS")
    if missing := [name for name in wanted if not hasattr(module, name)]:
        raise MediaError(f"{path} is not the judge: it has no {', '.join(missing)}")
    return module


def start_judge(path: Path) -> tuple[Any, Any]:
    """The judge's module and a judge of it. Raises what `load_judge` does, UnavailableError where it cannot start."""
    module = load_judge(path)
    try:
        return module, module.Judge()
    except ModuleNotFoundError as error:
        raise UnavailableError(f"the judge {path} needs {error.name}: pip install it, or leave --judge out") from None
    except Exception as error:
        raise UnavailableError(f"the judge {path} cannot start: {type(error).__name__}: {error}") from None


@dataclass(slots=True)
class Seen:
    """The teachers' answers on a source frame; points and masks in pixels of the window. flow: from this frame to the
    last one over `inner`, the hull's box in the window; None where the last frame was not seen.
    """

    window: Window
    box: Array
    mesh: Array
    presence: float
    blend: dict[str, float]
    hull: Array
    inner: tuple[slice, slice]
    hair: Array | None = None
    person: Array | None = None
    flow: Array | None = None

    def region(self, name: str) -> Array | None:
        """(h, w) bool; None where the teacher for it is missing."""
        if name == "hair":
            return self.hair
        draw = self._filled
        if name == "lips":
            return draw(_LIPS_OUTER) & ~draw(_LIPS_INNER)
        if name == "eyes":
            return draw(_EYE_LEFT) | draw(_EYE_RIGHT)
        holes = [_LIPS_OUTER, _EYE_LEFT, _EYE_RIGHT, *_BROWS]
        return np.asarray(self.hull & ~np.logical_or.reduce([draw(hole) for hole in holes]))

    def background(self) -> Array | None:
        """(h, w) bool: neither person nor hair nor face; None where the teacher for it is missing."""
        if self.person is None:
            return None
        return np.asarray(~(self.person | self.hull | (self.hair if self.hair is not None else False)))

    def _filled(self, ring: tuple[int, ...]) -> Array:
        return _filled(self.mesh[list(ring), :2], self.hull.shape)


def _filled(points: Array, shape: tuple[int, ...]) -> Array:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask.astype(bool)


def touching(mask: Array, core: Array) -> Array:
    """The parts of a mask that hang together and meet `core`, grown a little: the hair of this head, not of its neighbour."""
    reach = cv2.dilate(core.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return np.asarray(mask & np.isin(labels, np.unique(labels[mask & reach])))


class Teacher:
    """The judge with the mask teachers of its weights folder. notes: what could not be loaded."""

    def __init__(self, path: Path) -> None:
        self.module, self._judge = start_judge(path)
        self.notes: list[str] = []
        self._masks: Teachers | None = None
        weights = Path(self.module.WEIGHTS)
        try:
            self._masks = Teachers(weights.parent)
        except (OSError, KeyError, ValueError) as error:
            self.notes.append(f"no hair and person masks in {weights}: {error}")
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    @property
    def regions(self) -> Mapping[str, list[int]]:
        """The judge's groups of mesh points whose drift it measures."""
        regions: Mapping[str, list[int]] = self.module.REGIONS
        return regions

    def look(self, frame: Frame, box: Window, last: Frame | None) -> Seen | None:
        """Everything about the face at a paste box; None where no sure face has its middle in it."""
        window = window_of(box, frame)
        rgb = rgb8_of(frame, window)
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2 - window[:2]
        reach = np.array([box[2] - box[0], box[3] - box[1]]) / 2
        faces = [f for f in self._judge.boxes(rgb) if f[4] > SURE and (abs(f[:2] + f[2:4] / 2 - middle) < reach).all()]
        if not faces:
            return None
        face = min(faces, key=lambda f: float(np.hypot(*(f[:2] + f[2:4] / 2 - middle))))
        mesh, presence = self._judge.mesh(rgb, face)
        outline = cv2.convexHull(mesh[self.module.OVAL, :2].astype(np.float32))[:, 0]
        hull = _filled(outline, rgb.shape[:2])
        if not hull.any():
            return None
        low = np.maximum(np.floor(outline.min(0)).astype(int), 0)
        high = np.ceil(outline.max(0)).astype(int) + 1
        inner = slice(low[1], high[1]), slice(low[0], high[0])
        seen = Seen(window, face, mesh, presence, self._blend(mesh), hull, inner)
        if self._masks is not None:
            seen.hair, seen.person = touching(self._masks.hair(rgb) > 0.5, hull), self._masks.person(rgb) > 0.5
        if last is not None:
            now, before = (luma_of(f, window).astype(np.uint8) for f in (frame, last))
            seen.flow = self._flow.calc(now, before, None)[inner].astype(np.float16)
        return seen

    def again(self, rgb: Array, seen: Seen) -> tuple[Array, float, dict[str, float]]:
        """Mesh, presence and blendshapes of the result in the same window, from the source's box."""
        mesh, presence = self._judge.mesh(rgb, seen.box)
        return mesh, presence, self._blend(mesh)

    def _blend(self, mesh: Array) -> dict[str, float]:
        return dict(zip(self.module.BLEND_NAMES, map(float, self._judge.blendshapes(mesh)), strict=True))
