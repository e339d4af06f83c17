"""The prepared tiles, as the training stages read them, and samples made of them, as stages write and read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mien.engine.types import Array


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote (see there for shapes); arrays are memory-mapped. train_ids and val_ids never mix."""

    crops: Array
    valid: Array
    hair: Array
    person: Array
    points: Array
    tile_points: Array
    rows: list[dict[str, Any]]
    train_ids: Array
    val_ids: Array

    @classmethod
    def open(cls, runs: Path) -> Prepared:
        """Open `runs/prepared`; run the stage `prepare` first."""
        folder = runs / "prepared"
        arrays = {
            n: np.load(folder / f"{n}.npy", mmap_mode="r")
            for n in ("crops", "valid", "hair", "person", "points", "tile_points")
        }
        rows = json.loads((folder / "index.json").read_text())
        split = np.array([row["split"] for row in rows])
        return cls(
            **arrays, rows=rows, train_ids=np.flatnonzero(split == "train"), val_ids=np.flatnonzero(split == "val")
        )


def write_samples(
    folder: Path, names: Sequence[str], samples: Iterable[Sequence[Array]], is_val: Sequence[bool], every: int
) -> None:
    """Write samples, each one array a name, to `folder/<name>.npy` with a first axis over all of them.

    is_val (M,): which of the M samples are for validation; is_val.npy is there only where all samples are. every: how many
    samples a line of progress stands for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "is_val.npy").unlink(missing_ok=True)
    arrays: dict[str, Array] = {}
    for n, sample in enumerate(samples, 1):
        for name, value in zip(names, sample, strict=True):
            if name not in arrays:
                shape = (len(is_val), *value.shape)
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", value.dtype, shape)
            arrays[name][n - 1] = value
        if n % every == 0:
            print(f"{folder.name}: {n} of {len(is_val)} samples", flush=True)
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    np.save(folder / "is_val.npy", np.array(is_val))


def planes(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
