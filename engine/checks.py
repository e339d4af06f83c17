"""Numbers that users give, as Python's own; numpy's are welcome, True and False are none."""

from __future__ import annotations

import math
from numbers import Integral, Real


def as_number(value: object) -> float | None:
    """A finite number as a float; None for anything else, also for a whole number that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_whole(value: object, low: int, high: float = math.inf) -> int | None:
    """A whole number in [low, high] as an int; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        return None
    return int(value)
