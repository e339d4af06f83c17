"""StreamDiffusion's stochastic similarity filter (Kodaira et al. 2023, section 3.4): a frame that looks like the last
one processed takes its result, by chance, so that a still picture costs little and never freezes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mien.engine.errors import EditError


class SimilarityFilter:
    """`reuse` is asked of every frame, in order; `reset` at a cut.

    threshold: cosine similarity from which frames may be skipped; 1 and more skips none. max_skip: after so many skips in a row
    a frame is processed whatever it looks like. Raises EditError for values out of range.
    """

    def __init__(self, threshold: float = 0.98, max_skip: int = 10, seed: int = 0) -> None:
        if not threshold > 0.0:
            raise EditError(f"the similarity threshold is {threshold:g}; accepted: above 0, 1 and more to skip nothing")
        if max_skip < 0:
            raise EditError(f"max_skip is {max_skip}; accepted: 0 and more")
        self.threshold, self.max_skip, self._seed = threshold, max_skip, seed
        self.reset()

    def reset(self) -> None:
        """Forget the last frame, and draw from the seed again."""
        self._last: Any = None
        self._skipped = 0
        self._random = np.random.default_rng(self._seed)

    def reuse(self, frame: Any) -> bool:
        """Whether the last processed frame's result serves for this one. Where not, the caller must process it.

        frame: an array on the CPU, the same shape each time, in [-1, 1] (or latents): in [0, 1] all frames look alike.
        """
        flat = np.asarray(frame, np.float32).reshape(-1)
        drawn = self._random.random()
        skip = (
            self._last is not None
            and self._skipped < self.max_skip
            and drawn < skip_probability(cosine_similarity(self._last, flat), self.threshold)
        )
        if skip:
            self._skipped += 1
        else:
            self._last, self._skipped = flat.copy(), 0
        return skip


def skip_probability(similarity: float, threshold: float) -> float:
    """max(0, 1 - (1 - similarity) / (1 - threshold)), up to 1: none at the threshold, surely for the same frame again."""
    return 0.0 if threshold >= 1.0 else min(1.0, max(0.0, 1.0 - (1.0 - similarity) / (1.0 - threshold)))


def cosine_similarity(a: Any, b: Any) -> float:
    """Of two vectors (N,), in [-1, 1]; 1 of two that are 0, 0 of one that is."""
    norm = math.sqrt(float(a @ a) * float(b @ b))
    if norm == 0.0:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return float(a @ b) / norm
