"""8-bit layers chosen while a lane works: its first calls are watched, then layers are timed on the device, and the faster kind stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from mien.engine.cuda.float8 import Seconds, Seen, Watch, candidates, choose, convert, measure

CALLS = 8
"""Of a lane, that scales come from: the bank of a track is full from the third on."""


class Float8Trial:
    """What becomes of one network that lanes call, one after another. It is watched in `calls` calls, which must be eager ones of faces
    alone; then its layers are 8-bit where that is faster here, and it changes no more. seconds: see `float8.measure`. One thread at
    a time.
    """

    def __init__(self, module: nn.Module, seconds: Seconds, calls: int = CALLS) -> None:
        self._module, self._seconds, self._calls, self._left = module, seconds, calls, calls
        self._of, self._chosen = len(candidates(module)), 0
        self._watch: Watch | None = Watch(module)

    @property
    def is_settled(self) -> bool:
        """Whether the network is what it stays."""
        return not self._left

    @property
    def note(self) -> str:
        """What came of it, for a report."""
        if self._left:
            done = self._calls - self._left
            return f"float8: no layer, all was float16: the edit ended after {done} of the {self._calls} calls that are watched first"
        if not self._chosen:
            return f"float8: faster in none of the {self._of} layers on this device, all was float16"
        return (
            f"float8: {self._chosen} of {self._of} layers, those that it makes faster on this device, after {self._calls} calls in"
            " float16"
        )

    def run(self, work: Callable[[], None]) -> None:
        """Do a call's work, uncompiled, and settle behind the last one that is watched, which takes seconds and waits for the device."""
        if (watch := self._watch) is None:
            work()
            return
        with torch.compiler.set_stance("force_eager"), watch:
            work()
        if self._left == 1:
            self._settle(watch.seen())
            self._watch = None  # it holds every layer as it was
        self._left -= 1

    def _settle(self, seen: Mapping[str, Seen]) -> None:
        wins = choose(measure(self._module, seen, self._seconds))
        replaced = candidates(self._module)  # held until the device has read them
        with torch.no_grad():
            convert(self._module, seen, wins)
        if any(layer.weight.is_cuda for layer in replaced.values()):
            torch.cuda.current_stream().synchronize()
        self._chosen = len(wins)
