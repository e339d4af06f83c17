"""Calls of networks that wait to share a batch: which go together, and when. No threads and no clock of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mien.engine.backend import Network
from mien.engine.errors import ShapeError


class RowCall:
    """One caller's call of a network: `rows` rows, the first dimension of every array.

    due_s: when it has waited long enough. answer, error: what became of it, None while it waits.
    """

    __slots__ = ("answer", "arrays", "due_s", "error", "kind", "network", "rows")

    def __init__(self, network: Network, arrays: Mapping[str, Any], due_s: float = 0.0) -> None:
        self.network, self.arrays, self.due_s = network, arrays, due_s
        self.rows = _rows(arrays)
        # A bank's length is a shape too. Kernels that take a length for each row will need a coarser kind, and padding.
        self.kind = (
            id(network),
            *sorted((name, tuple(array.shape[1:]), str(array.dtype)) for name, array in arrays.items()),
        )
        self.answer: Mapping[str, Any] | None = None
        self.error: Exception | None = None

    @property
    def waits(self) -> bool:
        """Whether it has neither an answer nor an error."""
        return self.answer is None and self.error is None


class RowQueue:
    """Calls in the order of their age. Those of one kind (network, names, shapes but for the rows, types) may share a batch of
    up to `largest` rows; a call of more has a batch of its own.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._calls: list[RowCall] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: RowCall) -> None:
        """The youngest call."""
        self._calls.append(call)

    def remove(self, calls: Iterable[RowCall]) -> None:
        """Forget calls that are done, or that nobody waits for any more."""
        gone = list(calls)
        self._calls = [call for call in self._calls if call not in gone]

    def due(self, now_s: float, everybody_waits: bool) -> list[RowCall]:
        """The oldest batch that is due, none where none is; its calls stay here until they are removed.

        Due is what fills a batch, what holds a call whose time has come, and anything once everybody waits.
        """
        kinds: dict[Any, list[RowCall]] = {}
        for call in self._calls:
            kinds.setdefault(call.kind, []).append(call)
        for calls in kinds.values():
            full = sum(call.rows for call in calls) >= self._largest
            if full or everybody_waits or any(call.due_s <= now_s for call in calls):
                return self._fitting(calls)
        return []

    def due_in_s(self, now_s: float) -> float:
        """How long until a call's time comes, 0 or more; infinite without calls."""
        return max(0.0, min((call.due_s for call in self._calls), default=math.inf) - now_s)

    def _fitting(self, calls: list[RowCall]) -> list[RowCall]:
        rows = 0
        for count, call in enumerate(calls):
            rows += call.rows
            if rows > self._largest:
                return calls[: max(count, 1)]
        return calls


def _rows(arrays: Mapping[str, Any]) -> int:
    counts = {name: array.shape[0] if getattr(array, "shape", ()) else None for name, array in arrays.items()}
    rows = set(counts.values())
    if len(rows) != 1 or None in rows or 0 in rows:
        raise ShapeError(f"the inputs of a call have the rows {counts}; give every input the same number, 1 or more")
    return int(rows.pop() or 0)
