"""Stage `prepare`: label every face tile with the teachers and cut its FFHQ crop, once.

Writes to `<runs>/prepared`, N kept tiles: crops.npy uint8 (N, 320, 320, 3) RGB, FFHQ crops whose centre 256 px are the network's
crop (the rest is margin for jitter), valid.npy uint8 (N, 320, 320) 255 inside the tile, hair.npy and person.npy uint8 (N, 320, 320),
points.npy float32 (N, 478, 3) mesh in crop pixels, tile_points.npy the same in tile pixels, index.json one row a tile.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.engine.face.align import crop_to_frame, ffhq_quad
from mien.engine.types import Array
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68, Teachers

CROP_PX, MARGIN_PX = 256, 32
PADDED_PX = CROP_PX + 2 * MARGIN_PX
MIN_COVERAGE = 0.8


def padded_matrix(points68: Array) -> Array:
    """(2, 3) affine from picture pixels to padded crop pixels for 68 points."""
    m = cv2.invertAffineTransform(crop_to_frame(ffhq_quad(points68), CROP_PX))
    m[:, 2] += MARGIN_PX
    return np.asarray(m)


def _to_u8(probability: Array) -> Array:
    return np.clip(probability * 255 + 0.5, 0, 255).astype(np.uint8)


_teachers: Teachers | None = None


def _prepare_tile(data: Path, row: dict[str, str]) -> dict[str, Any] | None:
    global _teachers  # one per worker process
    _teachers = _teachers or Teachers(data)
    bgr = cv2.imread(str(data / "faces" / "tiles" / row["file"]))
    assert bgr is not None, f"{row['file']} of labels.csv cannot be read"
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    box = tuple(float(row[k] or d) for k, d in (("face_x", 72), ("face_y", 72), ("face_w", 240), ("face_h", 240)))
    points, logit = _teachers.mesh(rgb, box)  # type: ignore[arg-type]
    if logit <= 0:
        return None
    m = padded_matrix(points[MESH_TO_68, :2])
    scale = float(np.sqrt(abs(np.linalg.det(m[:, :2]))))
    warp = partial(cv2.warpAffine, M=m, dsize=(PADDED_PX, PADDED_PX))
    valid = warp(np.full(rgb.shape[:2], 255, np.uint8), flags=cv2.INTER_NEAREST)
    inner = valid[32:-32, 32:-32]
    if (inner > 0).mean() < MIN_COVERAGE:
        return None
    reflect = cv2.BORDER_REFLECT_101
    crop_points = np.concatenate([points[:, :2] @ m[:, :2].T + m[:, 2], points[:, 2:] * scale], 1)
    flags = cv2.INTER_LINEAR if scale < 0.7 else cv2.INTER_CUBIC
    return {
        "crop": warp(rgb, flags=flags, borderMode=reflect),
        "valid": valid,
        "hair": warp(_to_u8(_teachers.hair(rgb)), flags=cv2.INTER_LINEAR, borderMode=reflect),
        "person": warp(_to_u8(_teachers.person(rgb)), flags=cv2.INTER_LINEAR, borderMode=reflect),
        "points": crop_points.astype(np.float32),
        "tile_points": points.astype(np.float32),
        "row": row | {"scale": scale},
    }


def run(args: Arguments) -> None:
    """Label and cut all tiles; prints how many were kept."""
    with (args.data / "faces" / "labels.csv").open() as f:
        rows = list(csv.DictReader(f))
    with args.pool() as pool:
        kept = [item for item in pool.map(partial(_prepare_tile, args.data), rows, chunksize=32) if item is not None]
    out = args.runs / "prepared"
    out.mkdir(parents=True, exist_ok=True)
    for key, name in (("crop", "crops"), ("valid", "valid"), ("hair", "hair"), ("person", "person")):
        np.save(out / f"{name}.npy", np.stack([item[key] for item in kept]))
    for key in ("points", "tile_points"):
        np.save(out / f"{key}.npy", np.stack([item[key] for item in kept]))
    (out / "index.json").write_text(json.dumps([item["row"] for item in kept]))
    n_val = sum(item["row"]["split"] == "val" for item in kept)
    print(f"prepare: kept {len(kept)} of {len(rows)} tiles, {n_val} of them val")
