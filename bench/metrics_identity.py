"""Identity over time: TL-ID and TG-ID (STIT, Tzaban et al. 2022), and the drift from the source.

Embeddings are (n, d), a row a frame; cosines are of their directions, in float64, so rows need not be of unit length. A row
of NaN stands for a frame without a face: the pairs that it is part of are left out.
"""

from __future__ import annotations

import numpy as np

from mien.engine.errors import ShapeError
from mien.engine.types import Array

_ROWS = 256  # of the cosine matrices at a time: a clip's whole ones may not fit


def unit(embeddings: Array) -> Array:
    """Float64 rows (n, d) of unit length; NaN stays. Raises ShapeError for a row of zeros, which has no direction."""
    rows = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    if (lengths == 0).any():
        raise ShapeError(f"an embedding of {rows.shape[-1]} zeros has no direction: the network that made it is broken")
    return np.asarray(rows / lengths)


def tl_id(source: Array, edited: Array) -> float | None:
    """TL-ID, locally: mean over i of S_edited[i, i+1] / S_source[i, i+1], S the cosines of (n, d) rows.

    1: neighbouring frames show as much the same person as the source's do; it can exceed 1. None without a pair.
    """
    before, after = _pair(source, edited)
    ratios = (after[:-1] * after[1:]).sum(1) / (before[:-1] * before[1:]).sum(1)
    return _mean(ratios)


def tg_id(source: Array, edited: Array) -> float | None:
    """TG-ID, globally: mean over all i != j of S_edited[i, j] / S_source[i, j]. None without a pair."""
    before, after = _pair(source, edited)
    seen = ~(np.isnan(before).any(1) | np.isnan(after).any(1))
    before, after = before[seen], after[seen]
    count, total = len(before), 0.0
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        ratios = (after[rows] @ after.T) / (before[rows] @ before.T)
        total += float(ratios.sum() - np.diagonal(ratios, start).sum())
    return total / (count * (count - 1)) if count > 1 else None


def id_drift(source: Array, edited: Array) -> float | None:
    """Mean over i of 1 - cos(source_i, edited_i). None without a frame."""
    before, after = _pair(source, edited)
    return _mean(((before - after) ** 2).sum(1) / 2)  # the same, without cancellation where it is small


def _pair(source: Array, edited: Array) -> tuple[Array, Array]:
    if source.ndim != 2 or source.shape != edited.shape:
        raise ShapeError(f"embeddings are {source.shape} and {edited.shape}: give two of one shape (n, d)")
    return unit(source), unit(edited)


def _mean(values: Array) -> float | None:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else None
