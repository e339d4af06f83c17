"""Stage `renders`: pictures of made-up people for the analysis networks, with labels by geometry.

Writes into RUNS/renders: `NNNNN.jpg` (288 x 288) and `labels_KKK.npz`, a shard of a whole number of people, with
`index` (n,) picture numbers; `landmarks` (n, 68, 2) float32, pixels, centres at integers; `hidden` (n, 68) bool, behind something;
`parts` (n, 288, 288) uint8: 0 background, 1 face, 2 eyes, 3 mouth inside, 4 hair, 5 neck and clothes, 6 something in front of the face;
`pose` (n, 3) yaw, pitch, roll in degrees; `person` (n,).
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.tiny.render import Picture, portrait, render
from mien.export.tiny.render_body import room
from mien.export.tiny.render_hair import HairStyle
from mien.export.tiny.render_model import Pose
from mien.export.tiny.render_paint import Colour, Complexion
from mien.export.tiny.render_person import Act, Person, Studio
from mien.export.tiny.render_shade import Light
from mien.export.tiny.stage import Arguments

Floats = NDArray[np.float32]
SIDE, PER_PERSON, PEOPLE, SHARD = 288, 6, 100, 10  # pixels; pictures; people; people in a shard
COVER = 6  # the value of `parts` for something in front of the face
_SKIN = (
    (238, 196, 172),
    (226, 176, 150),
    (210, 158, 128),
    (188, 134, 102),
    (150, 102, 76),
    (112, 74, 54),
    (84, 56, 42),
)
_HAIR = (
    (28, 22, 20),
    (52, 36, 28),
    (92, 62, 42),
    (128, 88, 58),
    (176, 136, 88),
    (206, 174, 122),
    (146, 72, 40),
    (150, 146, 142),
)
_IRIS = ((70, 46, 32), (92, 64, 40), (86, 110, 122), (96, 116, 84), (104, 112, 118))
_MOODS: tuple[dict[str, float], ...] = (
    {},
    {"mouthSmile": 0.9, "cheekSquint": 0.5},
    {"mouthSmile": 0.8, "jawOpen": 0.3, "mouthUpperUp": 0.4},
    {"jawOpen": 0.7},
    {"jawOpen": 0.3, "mouthFunnel": 0.7},
    {"mouthPucker": 0.9},
    {"mouthFrown": 0.8, "browDown": 0.6},
    {"browInnerUp": 0.9, "browOuterUp": 0.8, "eyeWide": 0.5},
    {"eyeBlink": 1.0},
    {"eyeBlink_L": 1.0, "mouthSmile_L": 0.5},
    {"eyeSquint": 0.9, "noseSneer": 0.6},
    {"mouthStretch": 0.7, "jawOpen": 0.2},
    {"mouthRollLower": 0.6, "mouthPress": 0.5},
)


def _near(rng: np.random.Generator, table: tuple[Colour, ...], spread: float) -> Colour:
    """A colour of the table with a little of another and some noise."""
    a, b = (np.array(table[int(i)], float) for i in rng.integers(len(table), size=2))
    mixed = np.clip(a + rng.uniform(0, 0.35) * (b - a) + rng.normal(0, spread, 3), 8, 250).astype(int)
    return int(mixed[0]), int(mixed[1]), int(mixed[2])


def draw_person(studio: Studio, rng: np.random.Generator, seed: int) -> Person:
    """A random look."""
    hair, skin = _near(rng, _HAIR, 5), _near(rng, _SKIN, 4)
    short = bool(rng.random() < 0.5)
    lips = np.array(skin) * rng.uniform([0.75, 0.5, 0.52], [0.98, 0.72, 0.76])
    brows = np.array(hair) * rng.uniform(0.5, 0.95)
    look = Complexion(
        skin=skin,
        lips=(int(lips[0]), int(lips[1]), int(lips[2])),
        hair=hair,
        brows=(int(brows[0]), int(brows[1]), int(brows[2])),
        iris=_IRIS[int(rng.integers(len(_IRIS)))],
        freckles=float(rng.uniform(0, 0.8) ** 2),
        blush=float(rng.uniform(0.1, 0.9)),
        beard=float(rng.uniform(0, 1)) if short and rng.random() < 0.6 else 0.0,
        age=float(rng.uniform(0, 0.8)),
    )
    style = HairStyle(
        tips=float(rng.uniform(-11, -3)),
        part=float(rng.choice([-1, 1]) * rng.uniform(0, 3.5)),
        volume=float(rng.uniform(0.5, 1.5)),
        wave=float(rng.uniform(0, 2.5)),
        short=short,
        strands=4000 if rng.random() > 0.06 else 40,
        nodes=14,
    )
    identity = (rng.standard_normal(50) * rng.uniform(0.4, 0.9)).astype(np.float32)
    cloth = tuple(int(c) for c in rng.integers(20, 235, 3))
    return Person(
        studio,
        identity,
        look,
        style,
        cloth=(cloth[0], cloth[1], cloth[2]),
        seed=seed,
        brow_count=int(rng.integers(150, 500)),
    )


def draw_act(rng: np.random.Generator) -> Act:
    """A random expression, head pose and gaze."""
    expression = {k: float(v * rng.uniform(0.4, 1.1)) for k, v in _MOODS[int(rng.integers(len(_MOODS)))].items()}
    if rng.random() < 0.5:
        for k, v in _MOODS[int(rng.integers(len(_MOODS)))].items():
            expression[k] = min(1.0, expression.get(k, 0.0) + float(v * rng.uniform(0, 0.6)))
    wide = rng.random() < 0.4
    yaw = rng.uniform(-60, 60) if wide else rng.normal(0, 14)
    pitch = rng.uniform(-30, 30) if wide else rng.normal(0, 8)
    roll = rng.uniform(-20, 20) if wide else rng.normal(0, 6)
    gaze = (float(np.clip(rng.normal(-0.3 * yaw, 8), -25, 25)), float(rng.normal(0, 5)))
    return Act(
        expression,
        Pose(float(yaw), float(np.clip(pitch, -30, 30)), float(np.clip(roll, -20, 20))),
        gaze,
        float(rng.uniform(0.3, 0.6)),
    )


def draw_light(rng: np.random.Generator) -> Light:
    """A key from anywhere in front, warm or cold, hard or flat."""
    side, up = np.radians(rng.uniform(-80, 80)), np.radians(rng.uniform(-10, 65))
    warm = np.array([1 + 0.18 * (w := float(rng.normal(0, 0.6))), 1.0, 1 - 0.2 * w])
    key, around = warm * rng.uniform(0.5, 1.5), warm[::-1] * rng.uniform(0.18, 0.6)

    def triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
        return float(max(0, values[0])), float(max(0, values[1])), float(max(0, values[2]))

    return Light(
        key_from=(math.sin(side) * math.cos(up), math.sin(up), math.cos(side) * math.cos(up)),
        key=triple(key),
        fill_from=(-math.sin(side), 0.2, 0.6),
        fill=triple(around * rng.uniform(0.3, 1.0)),
        rim=triple(warm * rng.uniform(0, 1.0)),
        sky=triple(around),
        ground=triple(around * rng.uniform(0.3, 0.8)),
    )


def cover(picture: Picture, rng: np.random.Generator, skin: Colour) -> Picture:
    """Put something over the lower face or a cheek: fingers, or a microphone; it is labelled `COVER`."""
    near = picture.landmarks[int(rng.choice([3, 6, 8, 10, 13, 33, 48, 54, 57]))]
    unit = float(np.ptp(picture.landmarks[:, 1])) / 14.0
    way = np.radians(rng.uniform(35, 145))
    along = np.array([np.cos(way), np.sin(way)])
    mask = np.zeros(picture.parts.shape, np.uint8)
    height = np.zeros(picture.parts.shape, np.float32)
    hand = rng.random() < 0.6
    sticks = int(rng.integers(2, 5)) if hand else 1
    for k in range(sticks):
        across = np.array([-along[1], along[0]]) * unit * 1.75 * (k - (sticks - 1) / 2)
        start = near + across - along * unit * rng.uniform(0, 2.0) * hand
        end = start + along * unit * 30 + across * 0.25
        one = np.zeros_like(mask)
        width = max(2, int(unit * (1.75 if hand else 1.1)))
        cv2.line(one, tuple(int(v) for v in start), tuple(int(v) for v in end), 1, width)
        if not hand:
            cv2.circle(one, tuple(int(v) for v in start), max(2, int(1.6 * unit)), 1, -1)
        height = np.maximum(height, np.sqrt(cv2.distanceTransform(one, cv2.DIST_L2, 3) / max(1.0, width / 2)))
        mask |= one
    base = np.array(skin, np.float32) * 0.92 if hand else np.full(3, rng.uniform(15, 90), np.float32)
    base = base * float(
        np.clip(picture.rgb[picture.parts == 1].mean() / 150 if (picture.parts == 1).any() else 1, 0.3, 1.2)
    )
    shade = (0.35 + 0.65 * np.clip(height, 0, 1))[..., None] * np.exp(rng.normal(0, 0.03, (*mask.shape, 1)))
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None]
    rgb = picture.rgb * (1 - soft) + soft * base * shade
    parts = np.where(mask > 0, COVER, picture.parts).astype(np.uint8)
    x, y = (np.clip(np.rint(picture.landmarks[:, k]).astype(int), 0, SIDE - 1) for k in (0, 1))
    return Picture(
        np.clip(rgb, 0, 255).astype(np.uint8),
        parts,
        picture.alpha,
        picture.landmarks,
        picture.hidden | (mask[y, x] > 0),
    )


def draw(person: Person, rng: np.random.Generator) -> tuple[Picture, Act]:
    """One picture of a person."""
    act = draw_act(rng)
    unit = SIDE * rng.uniform(0.36, 0.82) / 18.0
    eyes = (SIDE * (0.5 + rng.uniform(-0.12, 0.12)), SIDE * (0.42 + rng.uniform(-0.1, 0.1)))
    tone = (rng.uniform(0.02, 0.5) * np.exp(rng.normal(0, 0.25, 3))).astype(np.float32)
    backdrop = room((SIDE, SIDE), tone, int(rng.integers(1 << 30)), float(rng.uniform(0.002, 0.04)))
    camera = portrait(unit, eyes, float(rng.uniform(55, 130)))
    picture = render(
        person, act, camera, (SIDE, SIDE), draw_light(rng), backdrop, exposure=float(rng.uniform(0.75, 1.15))
    )
    if rng.random() < 0.2:
        picture = cover(picture, rng, person.look.skin)
    rgb = picture.rgb.astype(np.float32)
    if rng.random() < 0.3:
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.4, 1.6))), np.float32)
    rgb += rng.normal(0, rng.uniform(0, 6), rgb.shape)
    encoded = np.clip(rgb, 0, 255).astype(np.uint8)
    return Picture(encoded, picture.parts, picture.alpha, picture.landmarks, picture.hidden), act


def run(args: Arguments) -> None:
    """Draw PEOPLE x PER_PERSON pictures; shards that exist are kept."""
    out = args.runs / "renders"
    out.mkdir(parents=True, exist_ok=True)
    todo = [k for k in range(PEOPLE // SHARD) if not (out / f"labels_{k:03}.npz").exists()]
    studio = Studio(args.data / "assets3d" / "ict_facekit_f16.npz", 512) if todo else None
    for shard in todo:
        assert studio is not None
        rows: dict[str, list[object]] = {k: [] for k in ("index", "landmarks", "hidden", "parts", "pose", "person")}
        for number in range(shard * SHARD, (shard + 1) * SHARD):
            rng = np.random.default_rng([args.seed, number])
            person = draw_person(studio, rng, number)
            for k in range(PER_PERSON):
                picture, act = draw(person, rng)
                index = number * PER_PERSON + k
                cv2.imwrite(
                    str(out / f"{index:05}.jpg"),
                    picture.rgb[..., ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(75, 97))],
                )
                values = (
                    index,
                    picture.landmarks,
                    picture.hidden,
                    picture.parts,
                    (act.pose.yaw, act.pose.pitch, act.pose.roll),
                    number,
                )
                for key, value in zip(rows, values, strict=True):
                    rows[key].append(value)
        partial = out / f"labels_{shard:03}.partial.npz"
        arrays: dict[str, Any] = {k: np.array(v) for k, v in rows.items()}
        np.savez_compressed(partial, **arrays)
        partial.rename(out / f"labels_{shard:03}.npz")
        seen = 1 - float(np.mean(np.array(rows["hidden"])))
        print(
            f"renders: shard {shard}: {len(rows['index'])} pictures, {seen:.1%} of the landmarks in sight", flush=True
        )
