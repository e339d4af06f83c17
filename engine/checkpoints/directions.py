"""Edit directions of StyleGAN's W+ space in the forms they were published in; `code_edit` applies them.

Every function takes the content of a file (an array, a tensor, or what holds them) and what messages call it. Directions
belong to one generator: those for StyleGAN2 FFHQ fit the codes of e4e. InterfaceGAN's own boundaries are StyleGAN1's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.engine.errors import BundleError
from mien.engine.manifest import Target
from mien.engine.types import Array

N_STYLES = 18
WPLUS_ROWS = (0, 8)  # those that the W+ Adapter's demo changes
STIT_FACTOR = 0.5  # STIT halves what the user asks for
_BOUNDARY = re.compile(r"(stylegan|pggan)_(celebahq|ffhq)_[a-z]+(_c_[a-z]+)?(?P<w>_w)?_boundary")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Direction:
    """dw: (18, D) float32. target: None where strength 1 adds dw to any code, else where dw leads a code to."""

    dw: Array
    target: Target | None = None

    def __repr__(self) -> str:
        return f"Direction(dw {self.dw.shape}, target {self.target})"


@dataclass(frozen=True, slots=True)
class GanspaceEntry:
    """A line of ganspace_configs.csv. rows: first and end of the styles that move. default_strength: the coordinate aimed at."""

    component: int
    rows: tuple[int, int]
    default_strength: float


def constant(value: Any, source: str, *, rows: tuple[int, int] = (0, N_STYLES), factor: float = 1.0) -> Direction:
    """A direction of any constant form: (D,) or (1, D) for every row, (18, D) or (1, 18, D).

    rows: first and end of those that move (WPLUS_ROWS as in the W+ Adapter's demo). factor: STIT_FACTOR for STIT's files.
    Raises BundleError.
    """
    array = _numbers(value, source)
    flat = array[0] if array.ndim == 3 and len(array) == 1 else array
    flat = flat[None] if flat.ndim == 1 else flat
    if flat.ndim != 2 or len(flat) not in (1, N_STYLES) or flat.shape[1] < 2:
        raise BundleError(f"{source} is {array.shape}: a direction is (1, 512), or ({N_STYLES}, 512) for every style")
    if not np.any(flat):
        raise BundleError(f"{source} is zero everywhere: it is no direction")
    dw = np.zeros((N_STYLES, flat.shape[1]), np.float32)
    first, end = _rows(rows, source)
    dw[first:end] = (factor * np.broadcast_to(flat, dw.shape))[first:end]
    return Direction(dw)


def boundary(value: Any, source: str, *, rows: tuple[int, int] = (0, N_STYLES), factor: float = 1.0) -> Direction:
    """An InterfaceGAN normal, (1, D) of unit length, in every row.

    Raises BundleError, also where the file's published name says that it lies in the latent space Z and not in W.
    """
    named = _BOUNDARY.search(source)
    if named and not named["w"]:
        raise BundleError(
            f"{source} lies in the space Z of {named[1]}: a code needs the one of W, {named[0].removesuffix('boundary')}w_boundary"
        )
    array = _numbers(value, source).reshape(-1)
    length = float(np.linalg.norm(array))
    if abs(length - 1.0) > 1e-2:
        raise BundleError(f"{source} has the length {length:.3g}: an InterfaceGAN boundary is one normal of length 1")
    return constant(array, source, rows=rows, factor=factor)


def attribute_scale(
    value: Any, source: str, *, rows: tuple[int, int] = (0, N_STYLES), factor: float = 1.0
) -> tuple[Direction, ...]:
    """att_direction_scale.pth: a list of tensors (1, 18, D), each row of unit length."""
    if isinstance(value, Mapping) or not isinstance(value, Sequence) or not value:
        raise BundleError(f"{source} holds a {type(value).__name__}: att_direction_scale.pth is a list of directions")
    return tuple(constant(item, f"{source}[{k}]", rows=rows, factor=factor) for k, item in enumerate(value))


def ganspace_table(text: str, source: str) -> dict[str, GanspaceEntry]:
    """ganspace_configs.csv: name, component, first row, end row and default strength, with tabs between."""
    entries = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *words = line.split("\t")
        try:
            component, first, end = (int(word) for word in words[:3])
            (strength,) = (float(word) for word in words[3:])
        except ValueError:
            raise BundleError(
                f"{source} line {number} is {line[:80]!r}: it must be a name, three whole numbers and a strength, with"
                " tabs between"
            ) from None
        entries[name.strip()] = GanspaceEntry(component, _rows((first, end), f"{source} line {number}"), strength)
    return entries


def ganspace(pca: Any, entry: GanspaceEntry, source: str) -> Direction:
    """One edit of ffhq_pca.pt: the dict of mean (1, D), comp (n, 1, D) and std (n,), the principal components of W
    (Haerkoenen et al. 2020). A code's coordinate is read off its first style, in standard deviations. Raises BundleError.
    """
    lacks = [key for key in ("mean", "comp", "std") if not isinstance(pca, Mapping) or key not in pca]
    if lacks:
        raise BundleError(f"{source} lacks {', '.join(lacks)}: ffhq_pca.pt is a dict of mean, comp and std")
    mean, comp, std = (_numbers(pca[key], f"{source}: {key}") for key in ("mean", "comp", "std"))
    size, n = mean.size, std.size
    if comp.shape not in ((n, 1, size), (n, size)) or mean.shape not in ((1, size), (size,)) or std.ndim != 1:
        shapes = f"mean {mean.shape}, comp {comp.shape}, std {std.shape}"
        raise BundleError(f"{source} holds {shapes}, expected (1, 512), (80, 1, 512) and (80,)")
    if not 0 <= entry.component < n or not std[entry.component] > 0:
        raise BundleError(f"{source} has no component {entry.component} with a spread, only 0 to {n - 1}")
    component, std_of = comp.reshape(n, size)[entry.component], float(std[entry.component])
    dw: Array = np.zeros((N_STYLES, size), np.float32)
    dw[entry.rows[0] : entry.rows[1]] = std_of * component
    return Direction(dw, Target(entry.default_strength, float(mean.reshape(-1) @ component) / std_of, std_of))


def _numbers(value: Any, source: str) -> Array:
    """float64."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise BundleError(f"{source} is a {type(value).__name__}, expected an array of numbers") from None
    if not np.isfinite(array).all():
        raise BundleError(f"{source} holds values that are not finite")
    return array


def _rows(rows: tuple[int, int], source: str) -> tuple[int, int]:
    if not 0 <= rows[0] < rows[1] <= N_STYLES:
        raise BundleError(f"{source}: the rows {rows[0]} to {rows[1]} (exclusive) are not within 0 to {N_STYLES}")
    return rows
