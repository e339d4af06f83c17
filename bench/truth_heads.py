"""Talking heads of made-up people, drawn twice: as they are, and with the true expression change of an edit.

Both drawings share the person, the light, the camera and every motion, so that their difference is the change alone. The renderer is
`export/tiny/render.py`; the people are drawn from seeds that no training stage uses.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.engine.face.points import inter_ocular
from mien.export.render import picture
from mien.export.render.body import room
from mien.export.render.casting import draw_light, draw_person
from mien.export.render.model import FaceModel, Pose
from mien.export.render.person import Act, Person, Studio
from mien.export.render.picture import EYE, FACE, MOUTH, portrait, render
from mien.export.render.shade import Light
from mien.export.sample_clip import PACE, SEED, TEXT
from mien.export.sample_speech import mouth, speak

Floats = NDArray[np.float32]
MODEL = "ict_facekit_f16.npz"
SIZE, UNIT, EYES = 512, 13.0, (256.0, 215.0)  # pixels; pixels per model unit; where the eyes lie
RATE = 25
PEOPLE_SEED = 4_000_033  # first part of a person's seed
CONTENT = 0.06  # the weight of a smile in a face that does not smile
SOURCES = (Path(__file__), *sorted(Path(picture.__file__).parent.glob("*.py")))
"""What decides how a request is drawn, beside the model."""

_WIDER = (3, 4, 5, 11, 12, 13)  # the landmarks that a wider face moves outwards
_WIDER_STEP, _WIDER_HELD = 0.1, (8, *range(17, 68))  # inter-ocular distances; the landmarks it leaves where they are


@dataclass(frozen=True, slots=True)
class Change:
    """What an edit truly does to the model. expression: weights to add; wider: of the face's width, 1 is a tenth of the eyes' distance."""

    expression: Mapping[str, float] = field(default_factory=dict)
    wider: float = 0.0

    def on(self, act: Act) -> Act:
        """The act with the change. Weights stay within 0..1; open lids are moved less the further they are shut already."""
        out = dict(act.expression)
        awake = 1.0 - out.get("eyeBlink", 0.0)
        for name, weight in self.expression.items():
            add = weight * awake if name.startswith("eye") else weight
            out[name] = float(np.clip(out.get(name, 0.0) + add, 0.0, 1.0))
        return Act(out, act.pose, act.gaze, act.pupil)


# The change at the strengths 1 and -1. The weights are ours: a clear but ordinary smile, not the most a face can do.
TRUTHS: dict[str, tuple[Change, Change | None]] = {
    "smile": (
        Change({"mouthSmile": 0.65, "cheekRaiser": 0.3, "eyeSquint": 0.15}),
        Change({"mouthFrown": 0.8}),
    ),
    "grin": (
        Change(
            {
                "mouthSmile": 0.75,
                "cheekRaiser": 0.35,
                "eyeSquint": 0.15,
                "mouthUpperUp": 0.4,
                "mouthLowerDown": 0.3,
                "jawOpen": 0.05,
            }
        ),
        None,
    ),
    "mouth_open": (Change({"jawOpen": 0.5}), None),
    "brow_raise": (Change({"browInnerUp": 0.65, "browOuterUp": 0.65}), Change({"browDown": 0.9})),
    "eyes_open": (Change({"eyeWide": 0.9}), Change({"eyeBlink": 0.35})),
    "eyes_closed": (Change({"eyeBlink": 1.0}), None),
    "face_width": (Change(wider=1.0), Change(wider=-1.0)),
}


@dataclass(frozen=True, slots=True)
class Take:
    """One drawn picture. rgb (H, W, 3) uint8; parts (H, W): see `render`; landmarks (68, 2): exact, pixels."""

    rgb: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    landmarks: Floats

    @property
    def face(self) -> NDArray[np.bool_]:
        """Pixels of skin, eyes and mouth."""
        return np.isin(self.parts, (FACE, EYE, MOUTH))


def talk(seed: int, count: int, smiling: float = CONTENT) -> list[Act]:
    """What a head does in `count` frames: a stretch of the sample clip's sentence, one blink, a turn and a nod.

    smiling: the smile's weight all along, CONTENT..1, which raises the cheeks as well.
    """
    rng = np.random.default_rng([PEOPLE_SEED, seed, 1])
    at = np.arange(count) / RATE
    shapes = mouth(speak(TEXT, PACE, SEED), at + rng.uniform(0.3, 2.8))
    yaw = rng.uniform(-12, 12) + 8 * np.sin(2 * math.pi * (at / 1.6 + rng.uniform()))
    pitch = rng.uniform(-4, 4) + 3 * np.sin(2 * math.pi * (at / 1.1 + rng.uniform()))
    roll = rng.uniform(-4, 4) + 2 * np.sin(2 * math.pi * (at / 1.9 + rng.uniform()))
    blink = np.exp(-np.square((at - at[count // 2] - 0.01) / 0.05))
    out = []
    for i, shape in enumerate(shapes):
        expression = {
            **shape,
            "eyeBlink": float(blink[i]) if count > 5 else 0.0,
            "mouthSmile": smiling,
            "cheekRaiser": 0.5 * (smiling - CONTENT),
            "browDown": 0.15,
        }
        gaze = (float(-0.75 * yaw[i]), float(2.0 + 0.5 * pitch[i]))
        out.append(Act(expression, Pose(float(yaw[i]), float(pitch[i]), float(roll[i])), gaze))
    return out


def wider_shape(model: FaceModel) -> Floats:
    """What to add to a shape (V, 3): the most probable identity whose cheeks and jaw lie further out, the other landmarks held."""
    at, plain = model.landmarks, model.shape(np.zeros(1, np.float32))
    modes = np.stack([model.shape(row)[at] - plain[at] for row in np.eye(100, dtype=np.float32)])
    unit = inter_ocular(model.neutral[at, :2])
    rows, wanted = [modes[:, _WIDER, 0].T / 0.01], [np.repeat([-1.0, 1.0], 3) * _WIDER_STEP * unit / 0.01]
    for points, axes in ((_WIDER, (1,)), (_WIDER_HELD, (0, 1))):
        for axis in axes:
            rows.append(modes[:, points, axis].T / 0.02)
            wanted.append(np.zeros(len(points)))
    a, b = np.concatenate(rows) / unit, np.concatenate(wanted) / unit
    identity = np.linalg.solve(a.T @ a + np.eye(100), a.T @ b)
    return np.asarray(model.shape(identity.astype(np.float32)) - plain, np.float32)


def drawn_by(files: Sequence[Path]) -> str:
    """A hash of what files hold."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()


class Heads:
    """Draws the heads. assets: the folder with the model; kept: a folder for drawings between runs, which are used as long as model
    and renderer are the same; atlas: texels of the skin; smiling: see `talk`.
    """

    def __init__(self, assets: Path, kept: Path | None = None, atlas: int = 768, smiling: float = CONTENT) -> None:
        self._model, self._kept, self._atlas, self._smiling = assets / MODEL, kept, atlas, smiling
        if not self._model.exists():
            raise FileNotFoundError(f"no head model at {self._model}: give the folder that holds {MODEL}")
        self._drawn_by = drawn_by((self._model, *SOURCES))
        self._studio: Studio | None = None
        self._people: dict[int, tuple[Person, Light, Floats]] = {}
        self._wider: Floats | None = None

    def clip(self, head: int, count: int, change: Change | None = None) -> list[Take]:
        """`count` frames of a head, with the change where one is given."""
        acts = talk(head, count, self._smiling)
        return [self._take(head, act if change is None else change.on(act), change) for act in acts]

    def _take(self, head: int, act: Act, change: Change | None) -> Take:
        wider = change.wider if change is not None else 0.0
        request = (self._drawn_by, head, act.expression, act.pose, act.gaze, wider, SIZE, UNIT, EYES, self._atlas)
        name = hashlib.sha256(repr(request).encode()).hexdigest()[:20]
        kept = None if self._kept is None else self._kept / f"{name}.npz"
        if kept is not None and kept.exists():
            with np.load(kept) as stored:
                rgb = np.asarray(cv2.imdecode(stored["png"], cv2.IMREAD_COLOR_RGB), np.uint8)
                return Take(rgb, stored["parts"], stored["landmarks"])
        person, light, backdrop = self._person(head)
        if wider:
            assert self._studio is not None
            if self._wider is None:
                self._wider = wider_shape(self._studio.model)
            person = copy.copy(person)
            person.shape = person.shape + np.float32(wider) * self._wider
        drawn = render(person, act, portrait(UNIT, EYES), (SIZE, SIZE), light, backdrop)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial.npz")
            arrays: dict[str, Any] = {"parts": drawn.parts, "landmarks": drawn.landmarks}
            arrays["png"] = cv2.imencode(".png", drawn.rgb[..., ::-1])[1]
            np.savez_compressed(partial, **arrays)
            partial.rename(kept)
        return Take(drawn.rgb, drawn.parts, drawn.landmarks)

    def _person(self, head: int) -> tuple[Person, Light, Floats]:
        """The person, the light and the room of a head."""
        if head not in self._people:
            self._studio = self._studio or Studio(self._model, self._atlas)
            rng = np.random.default_rng([PEOPLE_SEED, head])
            person = draw_person(self._studio, rng, PEOPLE_SEED + head)
            tone = (rng.uniform(0.05, 0.4) * np.exp(rng.normal(0, 0.15, 3))).astype(np.float32)
            self._people[head] = person, draw_light(rng), room((SIZE, SIZE), tone, int(rng.integers(1 << 30)))
        return self._people[head]
