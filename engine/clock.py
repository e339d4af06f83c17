"""A stopwatch for parts of the work: `with clock("detect"): ...` tells a listener how long the part took, or does
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnTime = Callable[[str, float], None]


class Clock:
    """Calls `on_time(part, seconds)` after each timed part; None listens to nothing.

    The listener runs in the caller's thread.
    """

    def __init__(self, on_time: OnTime | None = None) -> None:
        self._on_time = on_time

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time the body, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._on_time is not None:
                self._on_time(part, time.perf_counter() - start)
