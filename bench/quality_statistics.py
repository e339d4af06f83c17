"""What is made of a score's values: monotone or not, rank correlation, and the strengths at which they are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.engine.types import Array

# Share of the whole rise by which a step may go back and still count as monotone "within 2 %".
SLACK = 0.02


def is_monotone(responses: Sequence[float], slack: float = 0.0) -> bool:
    """Whether values by rising strength never fall by more than `slack` of their whole rise, which is above 0."""
    rise = responses[-1] - responses[0]
    return bool(rise > 0 and np.diff(responses).min() >= -slack * rise)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None where one of them is constant."""
    return correlation(_ranks(x), _ranks(y))


def from_nothing(strengths: Sequence[float], responses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Strengths and responses, rising, with that of strength 0 among them: no edit, no response."""
    known = {0.0: 0.0} | dict(zip(strengths, responses, strict=True))
    return sorted(known), [known[s] for s in sorted(known)]


def motion_kept(source: Sequence[float] | Array, result: Sequence[float] | Array, least_std: float) -> float | None:
    """Correlation of what moves in a result with what moves in its source: 0 for a result that stands still; None where the
    source moves by no more than `least_std`, which tells nothing.
    """
    if len(source) < 2 or np.std(source) <= least_std:
        return None
    r = correlation(source, result)
    return 0.0 if r is None else r


def correlation(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float | None:
    """Pearson's correlation; None where one does not move."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 2 or a.std() == 0.0 or b.std() == 0.0:
        return None
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))


def _ranks(values: Sequence[float]) -> Array:
    order = np.asarray(values, float)
    below = (order[None] < order[:, None]).sum(1)
    return np.asarray(below + ((order[None] == order[:, None]).sum(1) - 1) / 2)


def strengths_of(relative: Sequence[float] | None, low: float, high: float) -> list[float]:
    """Rising strengths for an edit's range. relative: shares of the range's ends, negative ones of the lower; None for
    five, even over either side. Shares of a side that the edit does not have are left out.
    """
    two_sided = low < 0 < high
    if relative is None:
        relative = (-1.0, -0.5, 0.0, 0.5, 1.0) if two_sided else (0.2, 0.4, 0.6, 0.8, 1.0)
        if not two_sided and high == 0.0:
            relative = [-v for v in relative]
    chosen = {
        round(float(v * high if v > 0 else -v * low if v < 0 else 0.0), 6) for v in relative if _has(v, low, high)
    }
    return sorted(chosen)


def _has(share: float, low: float, high: float) -> bool:
    return share == 0 or (high > 0 if share > 0 else low < 0)
