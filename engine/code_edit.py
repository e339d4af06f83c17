"""What attribute edits do to a face's W+ code: most add a direction, GANSpace's lead it to a coordinate."""

from __future__ import annotations

import numpy as np

from mien.engine.bundle import Bundle
from mien.engine.manifest import Target
from mien.engine.spec import EditSpec
from mien.engine.types import Array


class CodeEdit:
    """A spec's active edits with a direction."""

    def __init__(self, spec: EditSpec, bundle: Bundle) -> None:
        edits = [(bundle.edit(name), strength) for name, strength in spec.active]
        self._parts = [
            (np.float32(strength * edit.gain), bundle.directions[edit.direction], edit.target)
            for edit, strength in edits
            if edit.direction is not None
        ]

    def __call__(self, w: Array) -> Array:
        """The edited code (1, N, D) of a code; every edit starts from the code itself, not from what another made of it."""
        parts = [strength * _way(w, dw, target) * dw for strength, dw, target in self._parts]
        return np.asarray(sum(parts, start=w), np.float32)


def _way(w: Array, dw: Array, target: Target | None) -> float:
    """How many times the direction strength 1 adds."""
    if target is None:
        return 1.0
    d = dw[int(dw.any(1).argmax())].astype(np.float64)
    return target.coordinate - (float(w[0, 0] @ d) / target.spread**2 - target.centre)
