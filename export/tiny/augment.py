"""Cheap seeded picture augmentation on uint8 numpy arrays: colour, blur, noise, JPEG, occluders, procedural textures."""

from __future__ import annotations

import cv2
import numpy as np

from mien.engine.types import Array

Rng = np.random.Generator
_BORDERS = (cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101, cv2.BORDER_CONSTANT)


def similarity(side_px: float, centre: Array, angle: float, size: int) -> Array:
    """(2, 3) affine from picture pixels to a `size` px square crop of a square of `side_px`, turned by `angle` radians."""
    k = size / side_px
    c, s = np.cos(angle) * k, np.sin(angle) * k
    middle = (size - 1) / 2
    return np.array([[c, s, middle - c * centre[0] - s * centre[1]], [-s, c, middle + s * centre[0] - c * centre[1]]])


def map_points(matrix: Array, points: Array) -> Array:
    """(N, 2) points through a (2, 3) affine."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def draw_border(rng: Rng) -> int:
    """One of OpenCV's ways to fill what lies outside a picture."""
    return _BORDERS[int(rng.integers(len(_BORDERS)))]


def warp(picture: Array, matrix: Array, size: tuple[int, int], rng: Rng, border: int | None = None) -> Array:
    """Warp to (height, width) = `size`, outside filled as `border` says, or in one of several ways."""
    border = draw_border(rng) if border is None else border
    value = tuple(int(v) for v in rng.integers(0, 256, 3)) if rng.random() < 0.5 else (0, 0, 0)
    k = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if k < 0.6:  # averaging first: a bilinear tap alone would alias
        picture = cv2.blur(picture, (round(1 / k), round(1 / k)))
    return cv2.warpAffine(picture, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=border, borderValue=value)


def colour(picture: Array, rng: Rng) -> Array:
    """Gamma, contrast, brightness and tint through one table a channel; sometimes grey. (H, W, 3) or (H, W) uint8."""
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    x = np.linspace(0.0, 1.0, 256)[:, None]
    gamma = np.exp(rng.normal(0, 0.25))
    tint = np.exp(rng.normal(0, 0.08, channels))
    contrast, brightness = np.exp(rng.normal(0, 0.2)), rng.normal(0, 0.08)
    table = np.clip(((x**gamma * tint - 0.5) * contrast + 0.5 + brightness) * 255 + 0.5, 0, 255).astype(np.uint8)
    if channels == 1:
        return cv2.LUT(picture, table[:, 0])
    out = cv2.LUT(picture, table[None])
    if rng.random() < 0.3:
        grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        out = cv2.addWeighted(out, 1 - (a := float(rng.random())), grey, a, 0)
    return out


def degrade(picture: Array, rng: Rng) -> Array:
    """Blur, motion blur or lost resolution, noise, JPEG: what cameras and codecs do. uint8 in and out."""
    kind = rng.random()
    if kind < 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.6)))
    elif kind < 0.3:
        height, width = picture.shape[:2]
        k = float(rng.uniform(0.25, 0.8))
        small = cv2.resize(picture, (max(8, int(width * k)), max(8, int(height * k))), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind < 0.4:
        n = int(rng.integers(3, 9))
        kernel = np.zeros((n, n), np.float32)
        t = rng.uniform(0, np.pi)
        d = np.array([np.cos(t), np.sin(t)]) * n / 2
        a, b = n / 2 - 0.5 - d, n / 2 - 0.5 + d
        cv2.line(kernel, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), 1.0)
        picture = cv2.filter2D(picture, -1, kernel / max(float(kernel.sum()), 1.0))
    if rng.random() < 0.4:
        noise = rng.integers(-127, 128, picture.shape, dtype=np.int16)
        picture = np.clip(picture + (noise * rng.uniform(0.01, 0.14)).astype(np.int16), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
        _, code = cv2.imencode(".jpg", picture, quality)
        picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_UNCHANGED), np.uint8)
    return picture


def far_away(picture: Array, rng: Rng) -> Array:
    """A picture as a camera gives it that is far from it: few pixels, coded, enlarged again. uint8 in and out."""
    height, width = picture.shape[:2]
    k = float(rng.uniform(28, 80)) / width
    small = cv2.resize(picture, (round(width * k), round(height * k)), interpolation=cv2.INTER_AREA)
    _, code = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
    small = np.asarray(cv2.imdecode(code, cv2.IMREAD_UNCHANGED), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def texture(height: int, width: int, rng: Rng, channels: int = 3) -> Array:
    """A picture with no face in it: gradients, smooth or coarse noise, stripes, edges, (H, W, channels) uint8."""
    kind = rng.integers(5)
    low, high = rng.uniform(0, 255, channels), rng.uniform(0, 255, channels)
    if kind == 0:
        ramp = np.linspace(0, 1, width)[None] * rng.uniform(-1, 1) + np.linspace(0, 1, height)[:, None] * rng.uniform(
            -1, 1
        )
        value = ramp - ramp.min()
    elif kind == 1:
        period, t = rng.uniform(4, 40), rng.uniform(0, np.pi)
        wave = np.arange(width)[None] * np.cos(t) + np.arange(height)[:, None] * np.sin(t)
        value = 0.5 + 0.5 * np.sin(wave * 2 * np.pi / period)
        value = (value > 0.5) * 1.0 if rng.random() < 0.5 else value
    else:
        cells = int(rng.integers(2, 24)) if kind < 4 else int(rng.integers(16, 64))
        noise = rng.random((cells, cells)).astype(np.float32)
        way = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_NEAREST
        value = cv2.resize(noise, (width, height), interpolation=way)
    value = value / max(float(np.max(value)), 1e-3)
    out = low + (high - low) * value[..., None]
    picture = np.clip(out, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 5))):
        shade = tuple(float(v) for v in rng.uniform(0, 255, channels))
        a, b = rng.integers(0, [width, height], 2), rng.integers(0, [width, height], 2)
        pick = rng.random()
        pa, pb = (int(a[0]), int(a[1])), (int(b[0]), int(b[1]))
        if pick < 0.4:
            cv2.rectangle(picture, pa, pb, shade, -1 if pick < 0.3 else 2)
        elif pick < 0.7:
            cv2.line(picture, pa, pb, shade, int(rng.integers(1, max(2, width // 12))), cv2.LINE_AA)
        elif pick < 0.85:
            cv2.ellipse(
                picture, pa, (int(rng.integers(2, width // 3)), int(rng.integers(2, height // 3))), 0, 0, 360, shade, -1
            )
        else:
            cv2.putText(
                picture, "".join(chr(c) for c in rng.integers(65, 91, 5)), pa, 0, float(rng.uniform(0.4, 2)), shade, 2
            )
    return np.asarray(picture if channels > 1 else picture.reshape(height, width), np.uint8)


def hand(shape: tuple[int, int], at: Array, size_px: float, rng: Rng) -> tuple[Array, Array]:
    """Soft coverage (H, W) float32 of a hand-like shape, palm, fingers and a forearm that leaves the picture, and its relief in [0, 1]."""
    mask, relief = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    away = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.uniform(0.15, 0.85) * np.pi
    d = np.array([np.cos(away), np.sin(away)])  # from the palm to the elbow; mostly downwards
    groove = float(rng.uniform(0.3, 0.95))

    def bar(a: Array, b: Array, thick: float) -> None:
        pa, pb = (int(a[0] * 8), int(a[1] * 8)), (int(b[0] * 8), int(b[1] * 8))
        cv2.line(mask, pa, pb, 1.0, max(1, int(thick)), cv2.LINE_AA, 3)
        cv2.line(relief, pa, pb, groove, max(1, int(thick)), cv2.LINE_AA, 3)
        cv2.line(relief, pa, pb, 1.0, max(1, int(thick * 0.72)), cv2.LINE_AA, 3)

    bar(at, at + d * size_px * 4, size_px * rng.uniform(0.45, 0.75))
    bar(at - d * size_px * 0.25, at + d * size_px * 0.3, size_px * 0.85)
    spread = rng.uniform(0.05, 0.35) if rng.random() < 0.7 else 0.0
    for i in range(int(rng.integers(1, 5))):
        t = away + np.pi + (i - 1.5) * spread
        f = np.array([np.cos(t), np.sin(t)])
        start = at - d * size_px * 0.3 + np.array([-d[1], d[0]]) * (i - 1.5) * size_px * 0.24
        bar(start, start + f * size_px * rng.uniform(0.5, 1.1), size_px * rng.uniform(0.2, 0.28))
    return cv2.GaussianBlur(mask, (3, 3), 0), cv2.GaussianBlur(relief, (3, 3), 0)


def paste(picture: Array, mask: Array, fill: Array, rng: Rng) -> Array:
    """Lay a fill, (3,) or (H, W, 3), over (H, W, 3) or (H, W) uint8 where `mask` (H, W) float32 is set, with soft light and a rim."""
    height, width = mask.shape
    light = cv2.resize(rng.normal(1.0, 0.16, (4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    rim = cv2.GaussianBlur(mask, (0, 0), max(1.0, width / 50))
    light = light * (0.55 + 0.45 * rim)
    if picture.ndim == 2:
        out = picture * (1 - mask) + mask * light * fill.mean(-1)
    else:
        out = picture * (1 - mask[..., None]) + (mask * light)[..., None] * fill
    return np.asarray(np.clip(out, 0, 255), np.uint8)


def shadow(picture: Array, mask: Array, rng: Rng) -> Array:
    """The picture darkened where something with this coverage throws a soft shadow a few pixels beside itself."""
    moved = np.roll(mask, tuple(rng.integers(-6, 7, 2)), (0, 1))
    dark = cv2.GaussianBlur(moved, (0, 0), 3.0) * rng.uniform(0, 0.5)
    return np.asarray(picture * (1 - dark[..., None]), np.uint8)


def swatch(other: Array, shape: tuple[int, int], share: float, rng: Rng) -> Array:
    """A random square window of another picture (H, W, 3), `share` of its side, enlarged to (*shape, 3) float32."""
    side = max(8, int(other.shape[0] * share))
    x, y = rng.integers(0, [other.shape[1] - side + 1, other.shape[0] - side + 1])
    return np.asarray(cv2.resize(other[y : y + side, x : x + side], shape[::-1]), np.float32)


def occluder(
    shape: tuple[int, int], at: Array, size_px: float, skin: Array, rng: Rng, other: Array | None = None
) -> tuple[Array, Array, str]:
    """What covers a face: soft mask (H, W), fill (3,) or (H, W, 3), and its class, "body" (hand) or "background" (thing).

    other: a picture (H, W, 3) whose texture may be used; its middle shows skin.
    """
    if rng.random() < 0.6:
        mask, relief = hand(shape, at, size_px, rng)
        tone = skin * np.exp(rng.normal(0, 0.12)) if rng.random() < 0.75 else rng.uniform([60, 35, 25], [250, 205, 180])
        fill = relief[..., None] * tone
        if other is not None and rng.random() < 0.6:
            edge = other.shape[0] * 2 // 5
            grain = swatch(other[edge:-edge, edge:-edge], shape, float(rng.uniform(0.5, 1.0)), rng)
            grain = grain.mean(-1, keepdims=True) / max(float(grain.mean()), 8.0)
            fill = fill * np.clip(grain, 0.3, 1.7)
        return mask, fill, "body"
    mask = np.zeros(shape, np.float32)
    fill = rng.uniform(0, 60, 3) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    if other is not None and rng.random() < 0.4:
        fill = swatch(other[: other.shape[0] // 4], shape, float(rng.uniform(0.5, 1.0)), rng)
    x, y = int(at[0]), int(at[1])
    pick = rng.random()
    if pick < 0.5:  # a microphone: a round head on a stick
        cv2.circle(mask, (x, y), max(1, int(size_px * rng.uniform(0.25, 0.5))), 1.0, -1, cv2.LINE_AA)
        end = at + np.array([rng.normal(0, 1.5), rng.uniform(1.5, 4)]) * size_px
        cv2.line(mask, (x, y), (int(end[0]), int(end[1])), 1.0, max(1, int(size_px * 0.25)), cv2.LINE_AA)
    elif pick < 0.75:
        axes = (max(1, int(size_px * rng.uniform(0.2, 0.9))), max(1, int(size_px * rng.uniform(0.2, 0.9))))
        cv2.ellipse(mask, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1, cv2.LINE_AA)
    else:
        box = cv2.boxPoints(
            ((float(x), float(y)), tuple(size_px * rng.uniform(0.2, 1.6, 2)), float(rng.uniform(0, 180)))
        )
        cv2.fillConvexPoly(mask, box.astype(np.int32), 1.0, cv2.LINE_AA)
    return mask, fill, "background"
