"""Published directions as a bundle's edits: constant ones, each an edit of its file's name.

Ranges are those of their publishers' use, which strengths outside lead to artefacts (W+ Adapter's notebook and figures, STIT's
examples): 8 either way for normals of unit length, 4 for the others. A folder named as its publisher names it also settles the
rest: `latent_directions` (W+ Adapter) moves rows 0 to 7 alone, `w_directions` (STIT) is halved and goes to 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.engine.checkpoints.direction_files import read_directions
from mien.engine.checkpoints.directions import N_STYLES, STIT_FACTOR, WPLUS_ROWS, ConstantDirection
from mien.engine.errors import BundleError
from mien.engine.networks.e4e import STYLE_DIM
from mien.engine.types import Array

SUFFIXES = (".npy", ".pt", ".pth")
GANSPACE = "ffhq_pca.pt"
T_MAX = 500  # half the schedule, as note 000's partial denoising
UNIT_RANGE, OTHER_RANGE = 8.0, 4.0
_STYLEGAN1 = re.compile(r"(stylegan|pggan)_(celebahq|ffhq)_\w+_boundary")


@dataclass(frozen=True, slots=True)
class _Use:
    rows: tuple[int, int] = (0, N_STYLES)
    factor: float = 1.0
    limit: float | None = None


_USES = {"latent_directions": _Use(WPLUS_ROWS), "w_directions": _Use(factor=STIT_FACTOR, limit=UNIT_RANGE)}


@dataclass(frozen=True, slots=True)
class DirectionEdits:
    """directions: name -> (18, 512) float32. edits: name -> what the manifest says. notes: what was left out."""

    directions: dict[str, Array]
    edits: dict[str, dict[str, Any]]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def direction_edits(paths: Sequence[Path]) -> DirectionEdits:
    """Every constant direction of files and folders, which are searched with the folders below. Raises BundleError."""
    found: list[tuple[str, Path, ConstantDirection, float]] = []
    notes, files = [], []
    for file in _files(paths):
        if file.name == GANSPACE:
            notes.append(f"{file.name}: left out, GANSpace's directions aim at a target and an edit of a bundle adds")
            continue
        use = _USES.get(file.parent.name, _Use())
        if _STYLEGAN1.search(file.stem):
            raise BundleError(f"{file} is a direction of StyleGAN1: the codes of e4e are StyleGAN2's, leave it out")
        every = read_directions(file, rows=use.rows, factor=use.factor)
        constant = {name: value for name, value in every.items() if isinstance(value, ConstantDirection)}
        if len(constant) < len(every):
            notes.append(f"{file.name}: left out, GANSpace's directions aim at a target and an edit of a bundle adds")
        for name, value in constant.items():
            if value.dw.shape[1] != STYLE_DIM:
                raise BundleError(f"{file}: the direction {name!r} is {value.dw.shape[1]} wide, expected {STYLE_DIM}")
            limit = use.limit or (UNIT_RANGE if _is_unit(value.dw) else OTHER_RANGE)
            found.append((name, file, value, limit))
        files += [file] if constant else []
    names = [name for name, *_ in found]
    directions: dict[str, Array] = {}
    edits: dict[str, dict[str, Any]] = {}
    for name, file, value, limit in found:
        key = name if names.count(name) == 1 else f"{file.parent.name}_{name}"
        if key in edits or "=" in key:
            raise BundleError(f"{file}: a second direction would have the name {key!r}: rename one file")
        directions[key] = value.dw
        edits[key] = {
            "description": f"{name.replace('_', ' ').capitalize()}: the published direction {file.parent.name}/{file.name}.",
            "range": [-limit, limit],
            "direction": key,
            "template": [],
            "regions": ["head"],
            "t_max": T_MAX,
            "gain": 1.0,
            "composition": "replace",
        }
    return DirectionEdits(directions, edits, tuple(files), tuple(notes))


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
