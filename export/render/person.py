"""What is drawn: a studio that all people share, a person's look, and the geometry of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.export.render.body import sweater
from mien.export.render.hair import HairStyle, Skull, Strands, brows, grow, scalp_cover
from mien.export.render.model import CLOTH, FaceModel, Pose, follow_head, normals, smoothstep
from mien.export.render.paint import Complexion, SkinAtlas, linear, noise, paint_skin

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Act:
    """What a person does in one picture; see `FaceModel.express` and `Pose`. pupil: its share of the iris."""

    expression: Mapping[str, float] = field(default_factory=dict)
    pose: Pose = Pose()
    gaze: tuple[float, float] = (0.0, 0.0)
    pupil: float = 0.4


@dataclass(frozen=True, slots=True)
class Moment:
    """World geometry: vertices and normals (V, 3) of head and clothes; hair, brows and lashes."""

    points: Floats
    normal: Floats
    hair: Strands
    brows: Strands
    lashes: Strands


class Studio:
    """The model, the skin atlas and the clothes. atlas: texels of its side."""

    def __init__(self, model_path: Path, atlas: int = 1024):
        self.model = FaceModel(model_path)
        self.atlas = SkinAtlas(self.model, atlas)
        self.body, triangles = sweater()
        self.triangles = np.concatenate([self.model.triangles, triangles + len(self.model.neutral)]).astype(np.int32)
        self.material = np.concatenate([self.model.material, np.full(len(triangles), CLOTH, np.int32)])
        self.rest = np.concatenate([self.model.neutral, self.body])


class Person:
    """One look: shape, painted skin, hair, brows, clothes. identity (up to 100,) in standard deviations; cloth in 8-bit sRGB."""

    def __init__(
        self,
        studio: Studio,
        identity: Floats,
        look: Complexion,
        style: HairStyle,
        *,
        cloth: tuple[int, int, int] = (70, 84, 104),
        seed: int = 0,
        brow_count: int = 900,
    ):
        self.studio, self.look, self.style, self.seed = studio, look, style, seed
        self.shape = studio.model.shape(identity)
        rough = noise(np.random.default_rng(seed), studio.atlas.position.shape[:2], studio.atlas.side / 60)
        self.scalp = scalp_cover(studio.atlas, rough)
        self.skin, self.relief = paint_skin(studio.atlas, look, self.scalp, seed)
        self.hair = grow(Skull(studio.model, self.shape), self.shape, studio.model, style, seed)
        self.brows, self._brow_vertex = brows(studio.atlas, studio.model, brow_count, seed)
        self.cloth = linear(cloth)
        flat = self.hair.nodes.reshape(-1, 3)
        self._hair_weight = smoothstep(-15.0, -6.5, flat[:, 1] + 0.4 * flat[:, 2])

    def moment(self, act: Act) -> Moment:
        """The geometry of an act."""
        model, turn = self.studio.model, act.pose.vector()
        still = model.express(self.shape, act.expression, act.gaze)
        head = model.pose(still, act.pose)
        points = np.concatenate([head, self.studio.body])
        hair = follow_head(self.hair.nodes.reshape(-1, 3), turn, self._hair_weight).reshape(self.hair.nodes.shape)
        brow = self.brows.nodes + (still - model.neutral)[self._brow_vertex][:, None]
        rigid = np.ones(brow.size // 3, np.float32)
        brow = follow_head(brow.reshape(-1, 3), turn, rigid).reshape(brow.shape)
        lash = _lashes(model, head)
        return Moment(
            points,
            normals(points, self.studio.triangles),
            Strands(hair, self.hair.tone, self.hair.depth),
            Strands(brow, self.brows.tone, self.brows.depth),
            Strands(
                lash,
                np.where(np.arange(len(lash)) % 252 < 180, 0.5, 4.0).astype(np.float32),
                np.ones(lash.shape[:2], np.float32),
            ),
        )


def _lashes(model: FaceModel, points: Floats) -> Floats:
    """Lash curves (S, 6, 3) between the columns of the model's lash cards; the lower ones fewer and shorter."""
    rng = np.random.default_rng(5)
    out = []
    for number, card in enumerate(points[model.lashes]):
        upper = number % 6 < 3
        at = np.sort(rng.uniform(0.3, 17.7, 60 if upper else 24))
        low, part = at.astype(int), (at - at.astype(int))[None, :, None]
        curve = (card[:, low] * (1 - part) + card[:, low + 1] * part).swapaxes(0, 1)
        reach = rng.uniform(0.5, 0.9, (len(at), 1, 1)) * (0.9 if upper else 0.22)
        out.append(curve[:, :1] + (curve - curve[:, :1]) * reach)
    return np.concatenate(out).astype(np.float32)
