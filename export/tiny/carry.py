"""Stage `carry`: pack what `pairs` and the stages behind it read into few small files, for a machine that has only the repository.

Writes to the carry folder, N tiles: prepared.npz, readable without pickle, and <stage>.pt, the `final.pt` of STAGES.
prepared.npz holds, of each of PICTURES, NAME uint8 (bytes,), the encoded pictures one behind the other, and NAME_bytes int32 (N,);
valid (N * H * W / 8,) uint8 bits with valid_shape; tile_points int16 (N, 478, 3) in POINT_STEPS a pixel; index uint8 (bytes,) JSON.
Crop points follow from tile points (see uncarry.py). Weights that training goes on from travel as float16, the autoencoder's as they are.
Prints what the coding of the pictures costs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mien.engine.types import Array
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.stage import Arguments

PICTURES = {"crops": 90, "hair": 75, "person": 75}  # name in `prepared` -> quality of its WebP
EXACT, HALVED = ("autoencoder",), ("difference", "difference_decoder", "denoiser")
STAGES = (*EXACT, *HALVED)
POINT_STEPS = 64
LIMIT_MB = 44.0


def encode(picture: Array, quality: int) -> Array:
    """A picture (H, W) or (H, W, 3) RGB uint8 as the bytes of a WebP."""
    bgr = picture[..., ::-1] if picture.ndim == 3 else picture
    return np.asarray(cv2.imencode(".webp", np.ascontiguousarray(bgr), [cv2.IMWRITE_WEBP_QUALITY, quality])[1]).ravel()


def decode(data: Array, grey: bool) -> Array:
    """The way back: (H, W), or (H, W, 3) RGB."""
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("a carried picture cannot be decoded; is WebP missing from this OpenCV?")
    return picture if grey else np.ascontiguousarray(picture[..., ::-1])


def with_floats(value: Any, dtype: torch.dtype) -> Any:
    """Nested dicts of tensors, all floating-point ones as another type."""
    if isinstance(value, dict):
        return {key: with_floats(item, dtype) for key, item in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _pack_pictures(pictures: Array, quality: int, workers: int) -> tuple[dict[str, Array], float]:
    """Bytes and sizes of encoded pictures, and the PSNR in dB of all their pixels together."""

    def pack(picture: Array) -> tuple[Array, float]:
        data = encode(picture, quality)
        error = decode(data, picture.ndim == 2).astype(np.float32) - picture
        return data, float(np.square(error).mean())

    with ThreadPoolExecutor(workers) as pool:
        packed, errors = zip(*pool.map(pack, pictures), strict=True)
    sizes = np.array([len(data) for data in packed], np.int32)
    psnr = 10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9))
    return {"": np.concatenate(packed), "_bytes": sizes}, float(psnr)


def _pack_prepared(prepared: Prepared, runs: Path, path: Path, workers: int) -> dict[str, float]:
    """Write prepared.npz; the PSNR in dB of every kind of picture."""
    arrays: dict[str, Array] = {
        "valid": np.packbits(np.asarray(prepared.valid) > 0),
        "valid_shape": np.array(prepared.valid.shape, np.int32),
        "tile_points": np.rint(np.asarray(prepared.tile_points) * POINT_STEPS).astype(np.int16),
        "index": np.frombuffer((runs / "prepared" / "index.json").read_bytes(), np.uint8),
    }
    scores = {}
    for name, quality in PICTURES.items():
        parts, scores[name] = _pack_pictures(getattr(prepared, name), quality, workers)
        arrays |= {name + suffix: part for suffix, part in parts.items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return scores


def run(args: Arguments) -> None:
    """Write the carry folder; raises ValueError where it is too large to travel."""
    out = args.carried
    out.mkdir(parents=True, exist_ok=True)
    scores = _pack_prepared(Prepared.open(args.runs), args.runs, out / "prepared.npz", args.workers)
    for stage in STAGES:
        final = args.runs / stage / "final.pt"
        if not final.exists():
            print(f"carry: {stage} has no final.pt, left out")
            continue
        saved = torch.load(final, map_location="cpu", weights_only=True)
        torch.save(with_floats(saved, torch.float16) if stage in HALVED else saved, out / f"{stage}.pt")
    sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(out.iterdir())}
    print("carry: " + ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items()))
    print("carry: PSNR " + ", ".join(f"{name} {score:.2f} dB" for name, score in scores.items()))
    if sum(sizes.values()) > LIMIT_MB:
        raise ValueError(f"{out} holds {sum(sizes.values()):.1f} MB, more than {LIMIT_MB:.0f}")
    print(f"carry: {sum(sizes.values()):.1f} MB in {out}")
