"""Which score belongs to which edit: one table, and the kinds of scores in it.

A score answers how much a result moved away from its source in the edit's own direction: a blendshape of the judge, the
mesh's width over its height, the mean colour inside a region that the teachers draw, in CIE Lab along the direction in which
the edit is meant to go, or how old the skin looks. An edit that the table does not know gets the mean colour change
of the pixels that changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mien.bench.frame_rgb import lab
from mien.bench.quality_ageing import Ageing
from mien.engine.types import Array

# A pixel counts as changed from so many 8-bit levels on.
CHANGED = 2


class Pair(Protocol):
    """A source and a result of one frame, in a window around the face, as far as a score needs them."""

    source_rgb: Array
    result_rgb: Array

    @property
    def blends(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """The judge's blendshapes before and after."""

    @property
    def meshes(self) -> tuple[Array, Array]:
        """The judge's (478, 3) points before and after."""

    def region(self, name: str) -> Array | None:
        """(h, w) bool, where the teachers see a part of the source; None where no teacher can."""


class Score(Protocol):
    """What an edit is measured by. judged: whether it needs the judge. own: blendshapes that are no leakage for it."""

    @property
    def unit(self) -> str:
        """What its numbers are, for tables."""

    @property
    def judged(self) -> bool:
        """Whether it needs the judge."""

    @property
    def own(self) -> frozenset[str]:
        """Blendshapes that the edit may move."""

    def change(self, pair: Pair, sign: float) -> float | None:
        """How far the result went; None where this frame cannot tell. sign: of the strength."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Mean of `plus` less mean of `minus`, result less source. opposites: move with it of necessity. So does the gaze with the lids:
    of rendered heads whose eyes truly close the judge sees eyeLookDown move as much as eyeBlink, of true brow raises 0.4 of them.
    """

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    opposites: tuple[str, ...] = ()
    judged = True

    @property
    def unit(self) -> str:
        """The blendshapes' common names."""
        names = [_both(self.plus)] + ([_both(self.minus)] if self.minus else [])
        return " - ".join(names)

    @property
    def own(self) -> frozenset[str]:
        """Its own and their opposites."""
        return frozenset(self.plus + self.minus + self.opposites)

    def change(self, pair: Pair, sign: float) -> float | None:
        """Change of the score."""
        before, after = (self.of(blend) for blend in pair.blends)
        return after - before

    def of(self, blend: Mapping[str, float]) -> float:
        """The score of blendshapes, or of their changes."""
        low = float(np.mean([blend[k] for k in self.minus])) if self.minus else 0.0
        return float(np.mean([blend[k] for k in self.plus])) - low


@dataclass(frozen=True, slots=True)
class Extent:
    """Mean distance of pairs of mesh points over the distance of one pair, result less source."""

    across: tuple[tuple[int, int], ...]
    along: tuple[int, int]
    judged = True
    own: frozenset[str] = frozenset()
    unit = "mesh width / height"

    def change(self, pair: Pair, sign: float) -> float | None:
        """Change of the ratio."""
        before, after = (self._of(mesh[:, :2]) for mesh in pair.meshes)
        return after - before

    def _of(self, points: Array) -> float:
        wide = np.mean([np.hypot(*(points[a] - points[b])) for a, b in self.across])
        return float(wide / np.hypot(*(points[self.along[0]] - points[self.along[1]])))


@dataclass(frozen=True, slots=True)
class Colour:
    """Mean change of L, a, b and chroma inside a region, along `towards`, which is made a unit vector."""

    region: str
    towards: tuple[float, float, float, float]
    judged = True
    own: frozenset[str] = frozenset()

    @property
    def unit(self) -> str:
        """Region and direction."""
        parts = [f"{v:+g} {n}" for v, n in zip(self.towards, ("L", "a", "b", "chroma"), strict=True) if v]
        return f"Lab of {self.region}: {' '.join(parts)}"

    def change(self, pair: Pair, sign: float) -> float | None:
        """Change along the direction, in Lab units."""
        where = pair.region(self.region)
        if where is None or int(where.sum()) < 16:
            return None
        before, after = lab(pair.source_rgb[where]), lab(pair.result_rgb[where])
        chroma = np.hypot(after[:, 1], after[:, 2]) - np.hypot(before[:, 1], before[:, 2])
        moved = np.append((after - before).mean(0), chroma.mean())
        return float(moved @ np.asarray(self.towards) / np.linalg.norm(self.towards))


@dataclass(frozen=True, slots=True)
class AnyColour:
    """Mean distance in Lab over the pixels that changed, with the strength's sign."""

    judged = False
    own: frozenset[str] = frozenset()
    unit = "mean Lab distance where pixels changed"

    def change(self, pair: Pair, sign: float) -> float | None:
        """Mean distance of the changed pixels, 0 where none changed."""
        apart = np.abs(pair.result_rgb.astype(np.int16) - pair.source_rgb).max(-1) >= CHANGED
        if not apart.any():
            return 0.0
        distance = np.linalg.norm(lab(pair.result_rgb[apart]) - lab(pair.source_rgb[apart]), axis=-1)
        return float(np.copysign(distance.mean(), sign))


def _sides(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{side}" for name in names for side in ("Left", "Right"))


def _both(names: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(n.removesuffix("Left").removesuffix("Right") for n in names))


ANY = AnyColour()
SCORES: Mapping[str, Score] = {
    "smile": Blend(_sides("mouthSmile"), opposites=_sides("mouthFrown")),
    "grin": Blend(
        _sides("mouthSmile", "mouthUpperUp"),
        opposites=("mouthClose", *_sides("mouthFrown", "mouthPress", "mouthLowerDown")),
    ),
    "mouth_open": Blend(("jawOpen",), opposites=("mouthClose", *_sides("mouthPress"))),  # open lips press on nothing
    "brow_raise": Blend(("browInnerUp", *_sides("browOuterUp")), opposites=_sides("browDown", "eyeLookDown")),
    "eyes_open": Blend(_sides("eyeWide"), _sides("eyeBlink"), opposites=_sides("eyeSquint", "eyeLookDown")),
    "eyes_closed": Blend(_sides("eyeBlink"), opposites=_sides("eyeWide", "eyeSquint", "eyeLookDown")),
    "face_width": Extent(((234, 454), (172, 397)), (10, 152)),
    "hair_dark": Colour("hair", (-1, 0, 0, 0)),
    "hair_blond": Colour("hair", (1, 0, 1, 0)),
    "hair_red": Colour("hair", (0, 1, 0.5, 0)),
    "hair_grey": Colour("hair", (1, 0, 0, -1)),  # dark hair gains light, coloured hair loses its colour
    "lipstick": Colour("lips", (0, 1, 0, 0)),
    "skin_tone": Colour("skin", (-1, 0, 0, 0)),
    "sunglasses": Colour("eyes", (-1, 0, 0, 0)),
    "age": Ageing(),
}


def score_of(edit: str, *, judged: bool) -> Score:
    """The score of an edit; without a judge, or without an entry, any colour."""
    return SCORES.get(edit, ANY) if judged else ANY
