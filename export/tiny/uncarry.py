"""Stage `uncarry`: put what `carry` packed back into a runs folder: `<runs>/prepared` and the `final.pt` files.

What is there is kept, so that a runs folder can be gone on with.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from mien.engine.types import Array
from mien.export.tiny.carry import PICTURES, POINT_STEPS, STAGES, decode, with_floats
from mien.export.tiny.loop import replace_file
from mien.export.tiny.prepare import padded_matrix
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68


def crop_points(tile_points: Array) -> Array:
    """Mesh points (478, 3) of a tile in pixels of its crop, as `prepare` moves them."""
    m = padded_matrix(tile_points[MESH_TO_68, :2])
    scale = np.sqrt(abs(np.linalg.det(m[:, :2])))
    return np.concatenate([tile_points[:, :2] @ m[:, :2].T + m[:, 2], tile_points[:, 2:] * scale], 1)


def _unpack_pictures(data: Array, sizes: Array, grey: bool, workers: int) -> Array:
    """(N, H, W) or (N, H, W, 3) uint8."""
    parts = np.split(data, np.cumsum(sizes)[:-1])
    with ThreadPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(lambda part: decode(part, grey), parts)))


def _unpack_prepared(packed: Path, out: Path, workers: int) -> int:
    """Write `prepared`, its index last; the number of tiles."""
    out.mkdir(parents=True, exist_ok=True)
    with np.load(packed, allow_pickle=False) as arrays:
        for name in PICTURES:
            pictures = _unpack_pictures(arrays[name], arrays[f"{name}_bytes"], name != "crops", workers)
            np.save(out / f"{name}.npy", pictures)
        shape = tuple(arrays["valid_shape"])
        valid = np.unpackbits(arrays["valid"], count=int(np.prod(shape))).reshape(shape)
        np.save(out / "valid.npy", valid * np.uint8(255))
        tile_points = arrays["tile_points"].astype(np.float32) / POINT_STEPS
        np.save(out / "tile_points.npy", tile_points)
        np.save(out / "points.npy", np.stack([crop_points(points) for points in tile_points]).astype(np.float32))
        (out / "index.json").write_bytes(arrays["index"].tobytes())
    return len(tile_points)


def run(args: Arguments) -> None:
    """Restore what is not there."""
    prepared = args.runs / "prepared"
    if (prepared / "index.json").exists():
        print(f"uncarry: {prepared} is there, kept")
    else:
        print(f"uncarry: {_unpack_prepared(args.carried / 'prepared.npz', prepared, args.workers)} tiles", flush=True)
    for stage in STAGES:
        carried, final = args.carried / f"{stage}.pt", args.runs / stage / "final.pt"
        if final.exists():
            print(f"uncarry: {final} is there, kept")
        elif carried.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            replace_file(final, with_floats(torch.load(carried, weights_only=True), torch.float32))
            print(f"uncarry: {final}")
