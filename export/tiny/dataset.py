"""The prepared tiles, as the training stages read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
