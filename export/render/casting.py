"""People and light at random, for renders that shall look unlike each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mien.export.render.hair import HairStyle
from mien.export.render.paint import Colour, Complexion
from mien.export.render.person import Person, Studio
from mien.export.render.shade import Light

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
