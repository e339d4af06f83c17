"""Cases of `crop_yuv` and `composite_yuv`: frames of a decoder's pool, at 1080p and 4K, with 1, 4 and 16 faces in one launch.

A face is turned by six degrees. Each has a frame of its own, as streams have, but for the cases of one frame that holds them all.
So many pools take turns that what is read is no longer in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.bench.plain_surfaces import PlainFaces
from mien.bench.recorder import Case, Works, relative_error
from mien.bench.timing import Call
from mien.kernels.composite_yuv import composite_delta_yuv_ref, composite_replace_yuv_ref
from mien.kernels.crop_yuv import crop_yuv_ref
from mien.kernels.planes import Box, paste_box

CROP_PX, GRID = 512, 64
DEGREES = 6.0
COLOUR: dict[str, Any] = {"matrix": "bt709", "color_range": "limited"}
COLD_BYTES, MAX_POOLS = 3 << 26, 32
OPS = ("crop", "replace", "delta", "delta, warp")


@dataclass(frozen=True, slots=True)
class Scene:
    """Frames of width x height, of 8 or 10 bit, with so many faces, each `side` pixels wide, in as many frames."""

    width: int
    height: int
    side: int
    faces: int
    frames: int
    bit_depth: int = 8
    crop_px: int = CROP_PX

    def affine(self, face: int) -> Any:
        """(2, 3): faces of one frame lie on a grid, others in its middle."""
        here = self.faces // self.frames
        across = int(np.ceil(np.sqrt(here)))
        column, row = face % here % across, face % here // across
        turn = np.deg2rad(DEGREES)
        linear = self.side / self.crop_px * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        middle = np.array([(column + 0.5) * self.width / across, (row + 0.5) * self.height / -(-here // across)])
        return np.column_stack([linear, middle - linear @ np.full(2, (self.crop_px - 1) / 2)])

    def bytes(self, op: str) -> float:
        """That an operation must move: the planes under the crops once for reading, once more for writing, the crops once."""
        planes = 1.5 * self.faces * self.side**2 * (1 if self.bit_depth == 8 else 2)
        crop = 2.0 * self.faces * self.crop_px**2
        if op == "crop":
            return planes + 3 * crop
        return (3 if op == "delta, warp" else 2) * planes + 4 * crop


SCENES = (
    *(Scene(3840, 2160, 1100, faces, faces) for faces in (16, 4, 1)),
    *(Scene(1920, 1080, 560, faces, faces) for faces in (16, 4, 1)),
    Scene(3840, 2160, 420, 16, 1),
    Scene(3840, 2160, 1100, 16, 16, bit_depth=10),
)


class Made:
    """A scene on a device: a pool of noise, what the launch is told of its faces, and crops to put back."""

    def __init__(self, scene: Scene, device: str, seed: int = 0) -> None:
        from mien.kernels.gpu.surfaces import Surfaces

        self.scene, n = scene, scene.faces
        generator = torch.Generator(device).manual_seed(seed)
        rows = scene.height + (scene.height + 1) // 2
        top = 256 if scene.bit_depth == 8 else 1024
        pool = torch.randint(
            0, top, (scene.frames, rows, scene.width), device=device, generator=generator, dtype=torch.int32
        )
        pool = pool.to(torch.uint8) if scene.bit_depth == 8 else (pool << 6).to(torch.uint16)
        kind = Surfaces.nv12 if scene.bit_depth == 8 else Surfaces.p010
        self.surfaces = kind(pool, scene.width, scene.height)
        self.source = kind(pool.clone(), scene.width, scene.height)
        self.affines = [scene.affine(i) for i in range(n)]
        self.boxes: list[Box] = [paste_box(a, scene.crop_px, scene.width, scene.height) for a in self.affines]
        self.of_frame = [i * scene.frames // n for i in range(n)]
        self.frames = torch.tensor(self.of_frame, dtype=torch.int32, device=device)
        self.crop_to_frame = torch.tensor(np.stack(self.affines), dtype=torch.float32, device=device)
        self.box_tensor = torch.tensor(self.boxes, dtype=torch.int32, device=device)
        self.box_px = max(b[2] - b[0] for b in self.boxes), max(b[3] - b[1] for b in self.boxes)
        size = scene.crop_px
        self.crops = torch.rand((n, 3, size, size), device=device, generator=generator).mul(2).sub(1).half()
        edge = torch.arange(size, device=device)
        ramp = (torch.minimum(edge, size - 1 - edge) / (0.06 * size)).clamp(0, 1)
        self.mask = (ramp * ramp[:, None]).half().expand(n, -1, -1).contiguous()
        grid = min(GRID, size)
        self.warp = torch.zeros((n, grid, grid, 2), device=device)  # about the mouth
        mouth = self.warp[:, grid // 2 : 3 * grid // 4, grid // 4 : 3 * grid // 4]
        mouth.copy_(2 * torch.randn(mouth.shape, device=device, generator=generator))
        self.out = torch.empty_like(self.crops)

    def call(self, op: str) -> Call:
        """One launch."""
        from mien.kernels.gpu.composite_yuv import composite_delta_yuv_surfaces, composite_replace_yuv_surfaces
        from mien.kernels.gpu.crop_yuv import crop_yuv_surfaces

        where = (self.surfaces, self.frames, self.crop_to_frame)
        if op == "crop":
            return lambda: crop_yuv_surfaces(*where, self.scene.crop_px, **COLOUR, out=self.out)
        paste = (*where, self.box_tensor, self.crops, self.mask)
        if op == "replace":
            return lambda: composite_replace_yuv_surfaces(*paste, **COLOUR, box_px=self.box_px)
        warp, source = (self.warp, self.source) if op == "delta, warp" else (None, None)
        return lambda: composite_delta_yuv_surfaces(*paste, warp, source=source, **COLOUR, box_px=self.box_px)

    def plain_call(self, op: str) -> Call | None:
        """The plain way, where there is one: of 8 bit."""
        if self.scene.bit_depth != 8 or op not in ("crop", "replace"):
            return None
        faces = PlainFaces.make(self.surfaces, self.of_frame, self.affines, self.boxes, self.scene.crop_px, **COLOUR)
        return faces.crop if op == "crop" else partial(faces.replace, self.crops, self.mask)

    def error(self, op: str, call: Call) -> float:
        """Of the first face against float64: of the crop, or of the luma of its box."""
        planes: Any = [self._codes(self.source, plane) for plane in "yuv"]
        depth: dict[str, Any] = {**COLOUR, "bit_depth": self.scene.bit_depth}
        for to, of in zip(self._planes(self.surfaces), self._planes(self.source), strict=True):
            to.copy_(of)
        answer = call()
        if op == "crop":
            wanted = crop_yuv_ref(planes, self.affines[0], self.scene.crop_px, **depth)
            assert isinstance(answer, Tensor)
            return relative_error(answer[0].cpu(), torch.from_numpy(wanted))
        crop, mask = self.crops[0].double().cpu().numpy(), self.mask[0].double().cpu().numpy()
        if op == "replace":
            result = composite_replace_yuv_ref(planes, self.affines[0], crop, mask, **depth)
        else:
            warp = self.warp[0].double().cpu().numpy() if op == "delta, warp" else None
            result = composite_delta_yuv_ref(planes, self.affines[0], crop, mask, warp, **depth)
        x0, y0, x1, y1 = self.boxes[0]
        found = self._codes(self.surfaces, "y")[y0:y1, x0:x1].astype(np.float64)
        return relative_error(torch.from_numpy(found), torch.from_numpy(result[0][y0:y1, x0:x1].astype(np.float64)))

    @staticmethod
    def _planes(surfaces: Any) -> tuple[Tensor, Tensor, Tensor]:
        return surfaces.y, surfaces.u, surfaces.v

    def _codes(self, surfaces: Any, plane: str) -> Any:
        """Of the first face's frame, as numbers of the bit depth."""
        return np.ascontiguousarray(getattr(surfaces, plane)[self.of_frame[0]].cpu().numpy() >> surfaces.shift)


def surface_works(scene: Scene, op: str, device: str, checks: bool) -> Works:
    """Ours on as many pools as the cache does not hold, and the plain way on the first."""
    count = min(max(int(np.ceil(COLD_BYTES / scene.bytes(op))), 1), MAX_POOLS) if device != "cpu" else 1
    made = [Made(scene, device, seed) for seed in range(count)]
    calls = {"mien": [one.call(op) for one in made]}
    errors: dict[str, Callable[[], float]] = {}
    plain = made[0].plain_call(op)
    if plain is not None:
        calls["torch"] = [plain]
    if checks:
        errors = {form: partial(made[0].error, op, of[0]) for form, of in calls.items()}
    return Works(calls, errors)


def surface_cases(device: str) -> Iterator[Case]:
    """Every operation at every scene."""
    for scene in SCENES:
        for op in OPS:
            where = "a frame each" if scene.frames == scene.faces else "one frame"
            size = f"{scene.width}x{scene.height} {scene.bit_depth} bit"
            name = {
                "op": f"{op} yuv",
                "shape": f"{size}, {scene.faces} faces of {scene.side} px, {where}",
                "dtype": "float16",
            }
            yield Case(
                name,
                partial(surface_works, scene, op, device, scene.faces == 1),
                bytes=scene.bytes(op),
                against="torch",
                includes="the launch, frames not in the cache",
            )
