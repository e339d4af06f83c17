"""Rows of network calls from several faces, frames and streams as the rows of one call.

Callers in threads of their own call a `RowBatcher` as they would call its network. Calls that come at about the same time are
joined, padded to a batch size the network is ready for, run once and taken apart again. Each row brings its own timestep,
tokens, bank and noise, so frames of one stream at different steps share a call too: with as many frames under work as there
are steps this is StreamDiffusion's stream batch (Kodaira et al. 2023, section 3.1), which here waits for no later frame at the
end of a stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.engine.backend import Network
from mien.engine.errors import ShapeError
from mien.engine.row_queue import RowCall, RowQueue
from mien.engine.types import TensorSpec

Concatenate = Callable[[list[Any]], Any]

LONGEST_WAIT_S = 1.0  # at a time: an interrupt that comes just before a thread begins to wait does not wake it


@dataclass(slots=True)
class RowCounts:
    """What was run. calls: of networks. rows: that callers gave. padded: that were added and dropped."""

    calls: int = 0
    rows: int = 0
    padded: int = 0

    def as_dict(self) -> dict[str, float]:
        """The counts, and the mean of the callers' rows in a call."""
        mean = round(self.rows / self.calls, 3) if self.calls else 0.0
        return {"calls": self.calls, "rows": self.rows, "padded": self.padded, "mean": mean}


class RowGathering:
    """Where the rows of several callers, and of several networks, meet. One call runs at a time, in the thread of a caller.

    A batch runs at once when every thread that is `at_work` waits in a call, when the largest size is full, or when its oldest
    call has waited for `max_wait_s`; a call from a thread that is not at work runs at once, with what waits of its kind.
    sizes: the batch sizes that networks are ready for. concatenate: np.concatenate or torch.cat. clock: seconds.
    """

    def __init__(
        self,
        sizes: Sequence[int] = (1, 2, 4, 8),
        max_wait_s: float = 0.05,
        *,
        concatenate: Concatenate = np.concatenate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sizes = tuple(sorted(set(sizes)))
        if not self.sizes or self.sizes[0] < 1:
            raise ValueError(f"sizes is {tuple(sizes)}: give one or more whole numbers from 1")
        if not max_wait_s >= 0.0:
            raise ValueError(f"max_wait_s is {max_wait_s}: give 0 or more")
        self.max_wait_s, self._concatenate, self._clock = max_wait_s, concatenate, clock
        self._condition = threading.Condition()
        self._queue = RowQueue(self.sizes[-1])
        self._at_work: dict[int, int] = {}  # thread -> how often it entered
        self._calls: dict[int, RowCall] = {}  # thread -> the call it waits in
        self._leader: int | None = None
        self._counts = RowCounts()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This thread is making calls, so that batches wait for it; may be entered again within itself."""
        me = threading.get_ident()
        with self._condition:
            self._at_work[me] = self._at_work.get(me, 0) + 1
        try:
            yield
        finally:
            with self._condition:
                self._at_work[me] -= 1
                if not self._at_work[me]:
                    del self._at_work[me]
                self._condition.notify_all()  # the others may have waited for this thread alone

    def run(self, network: Network, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """The network's answers for the caller's rows. An exception of the network reaches every caller of the batch."""
        me, call = threading.get_ident(), RowCall(network, arrays)
        try:
            with self._condition:
                call.due_s = self._clock() + (self.max_wait_s if me in self._at_work else 0.0)
                self._queue.add(call)
                self._calls[me] = call
            while batch := self._next(call, me):
                self._lead(batch)
        finally:
            self._leave(call, me)
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def counts(self) -> RowCounts:
        """So far."""
        with self._condition:
            return RowCounts(self._counts.calls, self._counts.rows, self._counts.padded)

    def _next(self, call: RowCall, me: int) -> list[RowCall]:
        """A batch for this thread to run, once one is due; none once its own call is done."""
        with self._condition:
            while call.waits:
                timeout = LONGEST_WAIT_S
                if self._leader is None:
                    now_s = self._clock()
                    if batch := self._queue.due(now_s, self._at_work.keys() <= self._calls.keys()):
                        self._leader = me
                        return batch
                    timeout = min(timeout, self._queue.due_in_s(now_s))
                self._condition.wait(timeout)
            return []

    def _lead(self, batch: list[RowCall]) -> None:
        """Run a batch and tell its callers."""
        answers: Sequence[Mapping[str, Any] | None] = [None] * len(batch)
        error, ran = None, RowCounts()
        try:
            answers, ran = run_batch(batch, self.sizes, self._concatenate)
        except Exception as raised:
            error = raised
        with self._condition:
            for call, answer in zip(batch, answers, strict=True):
                call.answer, call.error = answer, error
            self._queue.remove(batch)
            self._calls = {thread: call for thread, call in self._calls.items() if call not in batch}
            self._counts.calls += ran.calls
            self._counts.rows += ran.rows
            self._counts.padded += ran.padded
            self._leader = None
            self._condition.notify_all()

    def _leave(self, call: RowCall, me: int) -> None:
        """Clean up after a call that is done, or that an interrupt such as Ctrl-C ends; what it led is then led by another."""
        with self._condition:
            if self._leader == me:
                self._leader = None
            self._queue.remove([call])
            if self._calls.get(me) is call:
                del self._calls[me]
            self._condition.notify_all()


class RowBatcher:
    """A network whose rows are gathered with those of other callers; to a caller, the network itself.

    The rows of an answer are views of the batch's arrays, which the network must not write into again. Raises ShapeError for a
    network with an input or output that has no rows.
    """

    def __init__(self, network: Network, gathering: RowGathering) -> None:
        tensors = {**network.inputs, **network.outputs}
        for name, tensor in tensors.items():
            if not tensor.shape or tensor.shape[0] is not None:
                raise ShapeError(
                    f"{name!r} is {tensor.shape}: rows can be gathered only where the first dimension of every input and"
                    " output is free"
                )
        self._network, self._gathering = network, gathering

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The network's."""
        return self._network.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The network's."""
        return self._network.outputs

    def __call__(self, **arrays: Any) -> Mapping[str, Any]:
        """Run it on (B, ...) arrays. Raises ShapeError where they are of different B, and what the network raises."""
        return self._gathering.run(self._network, arrays)


def run_batch(
    batch: Sequence[RowCall], sizes: Sequence[int], concatenate: Concatenate
) -> tuple[list[Mapping[str, Any]], RowCounts]:
    """The answers of calls of one kind, and what it took.

    Their rows together run at the next of the `sizes` (ascending), the last row repeated for those that lack; what is more
    than the largest runs in several calls.
    """
    rows, largest, network = sum(call.rows for call in batch), sizes[-1], batch[0].network
    last = (rows - 1) % largest + 1  # rows of the last call
    pad = next(size for size in sizes if size >= last) - last
    inputs = {name: _joined([call.arrays[name] for call in batch], pad, concatenate) for name in batch[0].arrays}
    ran, pieces = RowCounts(0, rows, pad), []
    for start in range(0, rows + pad, largest):
        piece = inputs if rows + pad <= largest else {k: v[start : start + largest] for k, v in inputs.items()}
        size = min(largest, rows + pad - start)
        answer = network(**piece)
        for name, value in answer.items():
            if value.shape[0] != size:
                raise ShapeError(f"output {name!r} has {value.shape[0]} rows for {size}; it must have one for each")
        pieces.append(answer)
        ran.calls += 1
    whole = {name: _joined([piece[name] for piece in pieces], 0, concatenate) for name in pieces[0]}
    answers, start = list[Mapping[str, Any]](), 0
    for call in batch:
        answers.append({name: value[start : start + call.rows] for name, value in whole.items()})
        start += call.rows
    return answers, ran


def _joined(parts: list[Any], pad: int, concatenate: Concatenate) -> Any:
    parts = parts + [parts[-1][-1:]] * pad
    return parts[0] if len(parts) == 1 else concatenate(parts)
