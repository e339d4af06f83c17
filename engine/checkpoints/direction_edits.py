"""Published directions as a bundle's edits: constant ones by their file's name, GANSpace's by the names of its table.

Ranges are those of their publishers' use, which strengths outside lead to artefacts (W+ Adapter's notebook and figures, STIT's
examples): 8 either way for normals of unit length, 4 for the others. Strength 1 of a GANSpace edit leads to the coordinate of
its table, as published; twice as far and once as far the other way are accepted. A folder named as its publisher names it also
settles the rest: `latent_directions` (W+ Adapter) moves rows 0 to 7 alone, `w_directions` (STIT) is halved and goes to 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.engine.checkpoints.direction_files import GANSPACE_TABLE, read_directions
from mien.engine.checkpoints.directions import N_STYLES, STIT_FACTOR, WPLUS_ROWS, Direction
from mien.engine.errors import BundleError
from mien.engine.networks.e4e import STYLE_DIM
from mien.engine.types import Array

SUFFIXES = (".npy", ".pt", ".pth")
T_MAX = 500  # half the schedule, as note 000's partial denoising
UNIT_RANGE, OTHER_RANGE = 8.0, 4.0
TARGET_RANGE = (-1.0, 2.0)
_NUMPYS_OWN = ("file", "allow_pickle")  # arguments of np.savez, beside which the names of its arrays stand
_STYLEGAN1 = re.compile(r"(stylegan|pggan)_(celebahq|ffhq)_\w+_boundary")


@dataclass(frozen=True, slots=True)
class _Use:
    rows: tuple[int, int] = (0, N_STYLES)
    factor: float = 1.0
    limit: float | None = None


_USES = {"latent_directions": _Use(WPLUS_ROWS), "w_directions": _Use(factor=STIT_FACTOR, limit=UNIT_RANGE)}


@dataclass(frozen=True, slots=True)
class DirectionEdits:
    """directions: name -> (18, 512) float32. edits: name -> what the manifest says."""

    directions: dict[str, Array]
    edits: dict[str, dict[str, Any]]
    files: tuple[Path, ...]


def direction_edits(paths: Sequence[Path]) -> DirectionEdits:
    """Every direction of files and folders, which are searched with the folders below. Raises BundleError."""
    found: list[tuple[str, Path, Array, dict[str, Any]]] = []
    files = []
    for file in _files(paths):
        use = _USES.get(file.parent.name, _Use())
        if _STYLEGAN1.search(file.stem):
            raise BundleError(f"{file} is a direction of StyleGAN1: the codes of e4e are StyleGAN2's, leave it out")
        every = read_directions(file, rows=use.rows, factor=use.factor)
        for name, value in every.items():
            if value.dw.shape[1] != STYLE_DIM:
                raise BundleError(f"{file}: the direction {name!r} is {value.dw.shape[1]} wide, expected {STYLE_DIM}")
            found.append((name, file, value.dw, _told(value, use)))
        told_by = [file.with_name(GANSPACE_TABLE)] if any(value.target is not None for value in every.values()) else []
        files += [file, *told_by]
    names = [name for name, *_ in found]
    directions: dict[str, Array] = {}
    edits: dict[str, dict[str, Any]] = {}
    for name, file, dw, told in found:
        key = name if names.count(name) == 1 else f"{file.parent.name}_{name}"
        if key in edits or "=" in key:
            raise BundleError(f"{file}: a second direction would have the name {key!r}: rename one file")
        if key in _NUMPYS_OWN:
            raise BundleError(f"{file}: a direction cannot have the name {key!r}: rename the file")
        directions[key] = dw
        edits[key] = {
            "description": f"{name.replace('_', ' ').capitalize()}: the published direction {file.parent.name}/{file.name}.",
            "direction": key,
            "template": [],
            "regions": ["head"],
            "t_max": T_MAX,
            "gain": 1.0,
            "composition": "replace",
            **told,
        }
    return DirectionEdits(directions, edits, tuple(files))


def _told(value: Direction, use: _Use) -> dict[str, Any]:
    """The entries of an edit that depend on its direction's form."""
    if value.target is not None:
        return {"range": list(TARGET_RANGE), "target": asdict(value.target)}
    limit = use.limit or (UNIT_RANGE if _is_unit(value.dw) else OTHER_RANGE)
    return {"range": [-limit, limit]}


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path.absolute()
            continue
        inside = sorted(file for file in path.absolute().rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not inside:
            raise BundleError(f"--directions {path}: the folder has no {', '.join(SUFFIXES)} file")
        yield from inside


def _is_unit(dw: Array) -> bool:
    """Whether every row that moves is about of length 1."""
    norms = np.linalg.norm(dw, axis=1)
    return bool(np.all(np.abs(norms[norms > 0] - 1.0) < 1e-2))
