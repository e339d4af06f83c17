"""Pictures of made-up people: the ICT Face Model Light with procedural skin, hair and clothes, drawn in numpy and OpenCV.

`render` draws one picture with its labels: what each pixel shows, and the 68 landmarks by geometry. Nobody real is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.render import shade
from mien.export.render.hair import Strands
from mien.export.render.model import CLOTH, EYES, GUMS, SKIN, TEETH, smoothstep
from mien.export.render.paint import linear, paint_eye
from mien.export.render.person import Act, Moment, Person
from mien.export.render.raster import Camera, Hits, interpolate, rasterise, splat, unit
from mien.export.render.shade import Light, Shadow

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
BACKGROUND, FACE, EYE, MOUTH, HAIR, BODY = range(6)  # values of `Picture.parts`


@dataclass(frozen=True, slots=True)
class Picture:
    """rgb (H, W, 3) uint8; parts, alpha (H, W); landmarks (68, 2) in pixels, centres at integers; hidden (68,): behind skin or hair."""

    rgb: Bytes
    parts: Bytes
    alpha: Floats
    landmarks: Floats
    hidden: NDArray[np.bool_]


def portrait(unit: float, eyes: tuple[float, float], distance: float = 95.0) -> Camera:
    """A camera to which a model unit of a resting face is `unit` pixels and whose eyes lie near the picture point `eyes` (x, y)."""
    return Camera(unit * (distance - 8.0), (eyes[0], eyes[1] + 3.6 * unit), distance)


class _Canvas:
    """The picture at the fine resolution, filled by `surfaces` and `strands`."""

    def __init__(self, camera: Camera, size: tuple[int, int], light: Light):
        self.camera, self.size, self.light = camera, size, light
        self.scale = camera.focal / (camera.distance - 8.0)  # pixels per model unit
        self.colour = np.zeros((size[0] * size[1], 3), np.float32)
        self.parts = np.zeros(size[0] * size[1], np.uint8)
        self.inverse = np.zeros(size[0] * size[1], np.float32)

    def place(self, pixel: NDArray[np.int64], inverse: Floats) -> Floats:
        """World points (N, 3) of flat pixels at 1 / depth."""
        depth = 1 / inverse
        x = (pixel % self.size[1] - self.camera.centre[0]) * depth / self.camera.focal
        y = (self.camera.centre[1] - pixel // self.size[1]) * depth / self.camera.focal
        return np.stack([x, y, self.camera.distance - depth], 1).astype(np.float32)

    def view(self, place: Floats) -> Floats:
        """Unit directions from points to the camera."""
        return np.asarray(unit(np.array([0, 0, self.camera.distance], np.float32) - place))

    def image(self, pixel: NDArray[np.int64], values: Floats) -> Floats:
        """Values (N,) or (N, C) of flat pixels as a picture, zero elsewhere."""
        out = np.zeros((self.size[0] * self.size[1], *values.shape[1:]), np.float32)
        out[pixel] = values
        return out.reshape(*self.size, *values.shape[1:])


def render(
    person: Person,
    act: Act,
    camera: Camera,
    size: tuple[int, int],
    light: Light,
    backdrop: Floats,
    *,
    supersample: int = 2,
    exposure: float = 1.0,
) -> Picture:
    """Draw a person. size: (height, width); backdrop (H, W, 3) linear RGB."""
    s = supersample
    moment = person.moment(act)
    outline = np.concatenate([moment.points, moment.hair.nodes[:, 1::3].reshape(-1, 3)])
    window = _window(camera.project(outline), size)
    left, top, right, bottom = window
    centre = ((camera.centre[0] - left + 0.5) * s - 0.5, (camera.centre[1] - top + 0.5) * s - 0.5)
    fine = Camera(camera.focal * s, centre, camera.distance)
    canvas = _Canvas(fine, ((bottom - top) * s, (right - left) * s), light)
    shadow = Shadow(np.concatenate([moment.points, moment.hair.nodes[:, ::2].reshape(-1, 3)]), light.unit("key_from"))
    hits = rasterise(fine.project(moment.points), person.studio.triangles, canvas.size)
    _surfaces(canvas, person, act, moment, hits, shadow)
    solid = canvas.inverse.copy()
    _strands(canvas, moment.brows, linear(person.look.brows), 0.8, shadow)
    _strands(canvas, moment.lashes, 0.12 * linear(person.look.brows), 0.7, shadow)
    hair = _strands(canvas, moment.hair, linear(person.look.hair), 1.0, shadow)
    canvas.parts[hair], solid[hair] = HAIR, canvas.inverse[hair]
    return _finish(canvas, solid, person, moment, window, s, backdrop, exposure)


def _window(screen: Floats, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the part of the picture that holds the points, at least one pixel."""
    low, high = np.floor(screen[:, :2].min(0)).astype(int) - 4, np.ceil(screen[:, :2].max(0)).astype(int) + 5
    left, top = min(max(0, int(low[0])), size[1] - 1), min(max(0, int(low[1])), size[0] - 1)
    return left, top, max(left + 1, min(size[1], int(high[0]))), max(top + 1, min(size[0], int(high[1])))


def _surfaces(canvas: _Canvas, person: Person, act: Act, moment: Moment, hits: Hits, shadow: Shadow) -> None:
    """Colour what the triangles cover."""
    studio, light = person.studio, canvas.light
    normal = unit(interpolate(hits, studio.triangles, moment.normal))
    rest = interpolate(hits, studio.triangles, studio.rest)
    kind = studio.material[hits.triangle]
    place = canvas.place(hits.pixel, hits.inverse_depth)
    view = canvas.view(place)
    covered = canvas.image(hits.pixel, np.ones(len(kind), np.float32))
    depth = canvas.image(hits.pixel, np.reciprocal(hits.inverse_depth))
    cavity = shade.hollow(depth, covered, canvas.scale).ravel()[hits.pixel]
    part = np.full(len(kind), BODY, np.uint8)
    colour = np.zeros((len(kind), 3), np.float32)
    shine = np.zeros(len(kind), np.float32)

    skin = np.flatnonzero(kind == SKIN)
    uv = interpolate(hits.only(skin), studio.model.uv_triangles, studio.model.uv)
    x, y = studio.atlas.lookup(uv)
    colour[skin] = _look_up(person.skin, x, y)
    relief = canvas.image(hits.pixel[skin], _look_up(person.relief, x, y))
    bump = np.stack([np.gradient(relief, axis=1), -np.gradient(relief, axis=0)], -1).reshape(-1, 2)[hits.pixel[skin]]
    bump = np.clip(bump * canvas.scale, -0.35, 0.35)
    normal[skin, :2] -= bump
    normal[skin] = unit(normal[skin])
    scalp = _look_up(person.scalp, x, y)
    lips = (np.abs(rest[skin, 0]) < 2.7) & (np.abs(rest[skin, 1] + 3.4) < 1.1) & (rest[skin, 2] > 9.8)
    shine[skin] = np.where(lips, 0.055, 0.03) * (1 - scalp)
    throat = rest[skin, 1] + 0.62 * rest[skin, 2] < -2.2
    part[skin] = np.where(scalp > 0.5, HAIR, np.where(throat, BODY, FACE))

    mouth = (kind == GUMS) | (kind == TEETH)
    front = rest[mouth, 2]
    deep = np.where(kind[mouth] == TEETH, smoothstep(7.4, 10.0, front), smoothstep(4.0, 9.6, front))[:, None]
    tint = np.where((kind[mouth] == TEETH)[:, None], linear((226, 214, 190)), linear((150, 72, 70)))
    open_ = deep * cavity[mouth, None]
    reddened = open_ + (1 - open_) * np.array([1.0, 0.45, 0.4], np.float32)  # by light that comes off lips and cheeks
    colour[mouth] = tint * reddened * (0.06 + 0.91 * deep)
    shine[mouth], part[mouth] = 0.03 * deep[:, 0], MOUTH
    gleam = np.ones(len(kind), np.float32)
    gleam[mouth] = deep[:, 0]
    eye = kind == EYES
    local = interpolate(hits.only(np.flatnonzero(eye)), studio.triangles, studio.model.eye_local)
    colour[eye] = paint_eye(unit(local), person.look, act.pupil, person.seed)
    part[eye] = EYE
    cloth = kind == CLOTH
    knit = np.sin(rest[cloth, 1] * 9) * np.sin(np.arctan2(rest[cloth, 0], rest[cloth, 2] + 1.5) * 130)
    colour[cloth] = person.cloth * (1 + 0.06 * knit)[:, None]

    lit = shadow.visible(place + 0.12 * normal, 0.12)
    arriving = shade.diffuse(normal, lit, cavity, light)
    under = (kind == SKIN).astype(np.float32)
    spread = shade.scatter(canvas.image(hits.pixel, arriving), canvas.image(hits.pixel, under), canvas.scale)
    arriving = np.where(under[:, None] > 0, spread.reshape(-1, 3)[hits.pixel], arriving)
    out = colour * arriving
    bare = np.flatnonzero(shine > 1e-3)
    out[bare] += (shine * cavity)[bare, None] * shade.gloss(normal[bare], view[bare], lit[bare], light, 18.0)
    wet = np.flatnonzero(eye | mouth)
    out[wet] += 0.05 * gleam[wet, None] * shade.gloss(normal[wet], view[wet], lit[wet], light, 420.0)
    canvas.colour[hits.pixel], canvas.parts[hits.pixel], canvas.inverse[hits.pixel] = out, part, hits.inverse_depth


def _look_up(texture: Floats, x: Floats, y: Floats) -> Floats:
    """Texture (H, W[, C]) at texel coordinates (N,): (N[, C])."""
    count = max(1, len(x))
    pad = -count % 4096
    grid = [np.pad(a, (0, count + pad - len(a))).reshape(-1, 4096) for a in (x, y)]
    out = cv2.remap(texture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out.reshape(-1, *texture.shape[2:])[: len(x)], np.float32)


def _strands(canvas: _Canvas, strands: Strands, base: Floats, cover: float, shadow: Shadow) -> NDArray[np.int64]:
    """Splat strands that lie in front of what is drawn already; base: linear colour (3,). Returns the flat pixels they won."""
    count = strands.nodes.shape[1]
    screen = canvas.camera.project(strands.nodes.reshape(-1, 3)).reshape(strands.nodes.shape)
    pixel, curve, along, inverse = splat(screen, canvas.size, canvas.inverse)
    low = np.minimum(along.astype(int), count - 2)
    part = (along - low)[:, None]
    start, end = strands.nodes[curve, low], strands.nodes[curve, low + 1]
    tangent = unit(end - start)
    place = start + part * (end - start)
    depth = strands.depth[curve, low] * (1 - part[:, 0]) + strands.depth[curve, low + 1] * part[:, 0]
    colour = base * strands.tone[curve][:, None]
    lit = shadow.visible(place, 0.5, 2.2)
    shaded = shade.hair_light(tangent, canvas.view(place), lit, depth, colour, canvas.light)
    canvas.colour[pixel] = cover * shaded + (1 - cover) * canvas.colour[pixel]
    canvas.inverse[pixel] = inverse
    return pixel


def _finish(
    canvas: _Canvas,
    solid: Floats,
    person: Person,
    moment: Moment,
    window: tuple[int, int, int, int],
    s: int,
    backdrop: Floats,
    exposure: float,
) -> Picture:
    """Average the fine pixels over the backdrop; label landmarks. solid: 1 / depth without brows and lashes."""
    left, top, right, bottom = window
    to, inside = (right - left, bottom - top), (slice(top, bottom), slice(left, right))
    covered = (canvas.inverse > 0).astype(np.float32).reshape(canvas.size)
    shown = shade.tone(canvas.colour, exposure).reshape(*canvas.size, 3)
    rgb = shade.tone(backdrop.reshape(-1, 3), exposure).reshape(backdrop.shape)
    alpha, parts = np.zeros(backdrop.shape[:2], np.float32), np.zeros(backdrop.shape[:2], np.uint8)
    alpha[inside] = cv2.resize(covered, to, interpolation=cv2.INTER_AREA)
    parts[inside] = canvas.parts.reshape(canvas.size)[s // 2 :: s, s // 2 :: s]
    rgb[inside] = (1 - alpha[inside])[..., None] * rgb[inside] + cv2.resize(shown, to, interpolation=cv2.INTER_AREA)

    vertex = person.studio.model.landmarks
    screen = canvas.camera.project(moment.points[vertex])
    x, y = (np.clip(np.rint(screen[:, k]).astype(int), 0, canvas.size[1 - k] - 1) for k in (0, 1))
    front = solid.reshape(canvas.size)[y, x]
    behind = 1 / screen[:, 2] - 1 / np.maximum(front, 1e-6) > 0.6
    landmarks = (screen[:, :2] + 0.5) / s - 0.5 + np.array([left, top], np.float32)
    return Picture(shade.encode(rgb), parts, alpha, landmarks.astype(np.float32), behind)
