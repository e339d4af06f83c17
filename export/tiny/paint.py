"""The target picture of any set of edits: the landmark templates move the face, then every edit's generator paints on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mien.engine.face.face_motion import MotionPlan, face_motion
from mien.engine.face.warp import motions, warp_crop
from mien.engine.manifest import BACK, LandmarkShift
from mien.engine.types import Array
from mien.export.tiny.draw_age import age, smile_folds
from mien.export.tiny.draw_glasses import sunglasses
from mien.export.tiny.draw_makeup import lipstick, skin_tone
from mien.export.tiny.recolour import recolour_hair
from mien.export.tiny.strokes import LOWER_LIP, UPPER_LIP
from mien.export.tiny.teachers import MESH_TO_68

EDITS_FILE = Path(__file__).with_name("edits.json")


class Face(NamedTuple):
    """A picture rgb (H, W, 3) float32 in [0, 1] with its mesh (478, 3) in pixels, and hair and person (H, W) in [0, 1]."""

    rgb: Array
    mesh: Array
    hair: Array
    person: Array


Painter = Callable[[Array, Face, float, np.random.Generator], Array]

# Each takes what is painted so far, the face as the templates moved it, a strength, and answers the picture with its edit; in the
# order in which they are painted over each other.
PAINTERS: dict[str, Painter] = {
    "skin_tone": lambda rgb, face, s, rng: skin_tone(rgb, face.mesh, face.hair, face.person, s),
    "lipstick": lambda rgb, face, s, rng: lipstick(rgb, face.mesh, face.person, s),
    "age": lambda rgb, face, s, rng: age(rgb, face.mesh, face.hair, face.person, s, rng),
    "hair_dark": lambda rgb, face, s, rng: recolour_hair(rgb, face.hair, "hair_dark", s),
    "hair_blond": lambda rgb, face, s, rng: recolour_hair(rgb, face.hair, "hair_blond", s),
    "hair_red": lambda rgb, face, s, rng: recolour_hair(rgb, face.hair, "hair_red", s),
    "hair_grey": lambda rgb, face, s, rng: recolour_hair(rgb, face.hair, "hair_grey", s),
    "smile": lambda rgb, face, s, rng: smile_folds(rgb, face.mesh, s),
    "sunglasses": lambda rgb, face, s, rng: sunglasses(rgb, face.mesh, s, hair=face.hair),
}
EDITS = tuple(PAINTERS)


@cache
def range_of(name: str) -> tuple[float, float]:
    """The least and the greatest strength of an edit in edits.json."""
    low, high = json.loads(EDITS_FILE.read_text())[name]["range"]
    return low, high


@cache
def crop_scale_of(name: str) -> float:
    """How many times as wide as the FFHQ crop the crop of an edit in edits.json is."""
    return float(json.loads(EDITS_FILE.read_text())[name].get("crop_scale", 1))


@cache
def template_of(name: str) -> tuple[LandmarkShift, ...]:
    """The landmark template of an edit in edits.json."""
    rows = json.loads(EDITS_FILE.read_text())[name].get("template", [])
    return tuple(
        LandmarkShift(tuple(r["points"]), r["dx"], r["dy"], r["sigma"], tuple(r.get("back", BACK))) for r in rows
    )


def make_pair(strengths: Mapping[str, float], face: Face, rng: np.random.Generator) -> tuple[Face, Array]:
    """Source and target (H, W, 3) of edits at once; the target is the source's array where there is nothing to paint.

    The source is what the network will see: `face` itself, or warped, where an edit has a template. Raises ValueError for
    an edit without a painter.
    """
    if unknown := [name for name in strengths if name not in PAINTERS]:
        raise ValueError(f"no pairs are made for {unknown[0]!r}; known: {', '.join(EDITS)}")
    active = {name: strengths[name] for name in EDITS if strengths.get(name)}
    after = _moved(face, MotionPlan(motions((template_of(name), strength) for name, strength in active.items())))
    target = after.rgb
    for name, strength in active.items():
        target = PAINTERS[name](target, after, strength, rng)
    return after, target


def opened(face: Face, strength: float) -> Face:
    """A face whose mouth is opened as the edit mouth_open does it: mouths of the tiles are closed, those of people who talk are not."""
    return _moved(face, MotionPlan(motions([(template_of("mouth_open"), strength)]), parts_lips=True))


def _moved(face: Face, plan: MotionPlan) -> Face:
    crop, everywhere = _planes(face.rgb) * 2 - 1, np.ones(face.rgb.shape[:2], np.float32)
    motion = face_motion(
        plan, face.mesh[MESH_TO_68, :2].astype(np.float64), crop, everywhere, 1.0, lambda _, value: value
    )
    if motion is None:
        return face
    rgb = np.clip(motion.of_crop(crop).transpose(1, 2, 0) * 0.5 + 0.5, 0, 1)
    hair, person = np.clip(warp_crop(_planes(np.dstack([face.hair, face.person])), motion.field), 0, 1)
    mesh = motion.of_points(face.mesh[:, :2], face.rgb.shape[0], (UPPER_LIP, LOWER_LIP))
    return Face(np.ascontiguousarray(rgb), np.column_stack([mesh, face.mesh[:, 2:]]), hair, person)


def _planes(picture: Array) -> Array:
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
