"""CUDA graphs: a function of tensors is recorded once and then launched as a whole, from buffers that never move.

    graphs = Graphs(TorchCuda("cuda:0"))
    step = graphs.capture(("unet", 8), unet, {"latents": latents, "timestep": timestep})
    (prediction,) = step(latents=fresh)   # copies `fresh` into the buffer, launches, answers the graph's own output
    step(latents=fresh, into=(slot,))     # the same, with the answer copied to `slot`

Graphs of one `Graphs` share a pool of memory for what lies between inputs and outputs, so they must run one after another:
each launch takes its turn, behind the one before it, on whatever stream and in whatever thread it is asked for. What may run at
the same time as something else gets a `Graphs` of its own.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from mien.engine.cuda.streams import ONE_CAPTURE
from mien.engine.errors import RunError, ShapeError

SHOWN = 60  # letters of a key in an error

_NUMBERS = itertools.count(1)

Function = Callable[..., Tensor | Sequence[Tensor] | None]


def own_key(of: str) -> str:
    """A key that is never given twice. of: what it is of. (An `id()` may come again while graphs outlive what had it.)"""
    return f"{of} {next(_NUMBERS)}"


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> object:
        """Launch it on the caller's stream."""

    def reset(self) -> object:
        """Free it."""


class Device(Protocol):
    """What capturing asks of a GPU. The caller's stream is the current one of the calling thread."""

    def new_pool(self) -> Any:
        """A pool of memory that graphs share."""

    def try_out(self, work: Callable[[], None]) -> None:
        """Run `work` on the recording stream, behind what the caller's stream holds and before what it is given next."""

    def record(self, work: Callable[[], None], pool: Any) -> Graph:
        """What `work` launches, recorded and not run; what it allocates comes from the pool."""

    def mark(self) -> None:
        """Remember what the caller's stream holds."""

    def wait(self) -> None:
        """Let the caller's stream wait for what was last remembered."""

    def synchronize(self) -> None:
        """Wait for all work of the device."""


class Captured:
    """A recorded function: calling it copies inputs in, launches, and answers the outputs.

    inputs: its buffers, by name; whoever fills them himself, in a turn of his own, need not give them to the call. outputs: its
    own buffers, which no other graph writes: what they hold lasts until the next launch of this graph. Who shares a graph with
    other threads takes answers by `into`.
    """

    def __init__(
        self, graphs: Graphs, key: Hashable, inputs: Mapping[str, Tensor], outputs: tuple[Tensor, ...], graph: Graph
    ) -> None:
        self.key, self.inputs, self.outputs = key, inputs, outputs
        self._graphs, self._graph = graphs, graph
        self._is_freed = False

    def __call__(self, *, into: Sequence[Tensor | None] | None = None, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Copy `inputs` to the buffers of the same names, launch on the caller's stream, copy the outputs `into` tensors of the
        same shapes, where there are any. Answers the graph's own outputs. Nothing is allocated and nobody waits, but for copies
        from and to memory of the CPU that is not pinned. Raises ShapeError, and RunError where the graph was given up.
        """
        with self._graphs.turn(), torch.no_grad():
            if self._is_freed:
                raise RunError(
                    f"the graph of {_words(self.key)} was given up for newer ones: allow more graphs, or capture it again"
                )
            given = [(f"input {name!r}", self._input(name), tensor) for name, tensor in inputs.items()]
            copy_all(given)
            self._graph.replay()
            if into is not None:
                if len(into) != len(self.outputs):
                    raise ShapeError(
                        f"{len(into)} tensors to write into for {len(self.outputs)} outputs of {_words(self.key)}"
                    )
                pairs = zip(into, self.outputs, strict=True)
                copy_all([(f"output {i}", to, of) for i, (to, of) in enumerate(pairs) if to is not None])
        return self.outputs

    def _input(self, name: str) -> Tensor:
        if name not in self.inputs:
            raise ShapeError(
                f"the graph of {_words(self.key)} has no input {name!r}, expected {', '.join(self.inputs)}"
            )
        return self.inputs[name]

    def _free(self) -> None:
        self._graph.reset()
        self._is_freed, self.outputs, self.inputs = True, (), {}


class Graphs:
    """Graphs by key, of any hashable kind. capacity: most of them kept, the least recently used given up first; None for any number.

    May be used from several threads.
    """

    def __init__(self, device: Device, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity is {capacity}: give 1 or more, or None")
        self._device, self._capacity = device, capacity
        self._pool: Any = None
        self._kept: OrderedDict[Hashable, Captured] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Of what is captured, the least recently used first."""
        with self._lock:
            return tuple(self._kept)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it no other thread launches a graph of these, and what the caller's stream is given comes behind every launch so far
        and before every later one. For those who fill inputs or read outputs in place; may be entered again within itself.
        """
        with self._lock:
            self._device.wait()
            try:
                yield
            finally:
                self._device.mark()

    def find(self, key: Hashable) -> Captured | None:
        """The graph of a key, if it is there; it counts as used."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def capture(self, key: Hashable, function: Function, static_inputs: Mapping[str, Tensor]) -> Captured:
        """Record `function(**static_inputs)`, whose tensors become the graph's buffers, and may be shared with other graphs.

        It is run twice first, so that kernels are compiled and chosen; afterwards the inputs hold what they held before, and
        what else it writes has been written.
        It must launch the same work every time: nothing of it may depend on values. It answers a tensor, a sequence of tensors,
        or, where it writes its inputs in place, nothing. Slow: hundreds of milliseconds, and it waits for the device. Raises
        ValueError for a key that is there already, RunError for a function that cannot be captured; a process should end then,
        because torch does not clean up after a capture that failed.
        """
        with self._lock, ONE_CAPTURE, torch.no_grad():
            if key in self._kept:
                raise ValueError(f"{_words(key)} is captured already")
            self._make_room()
            self._device.wait()
            if not self._kept:  # torch gives up a pool with its last graph
                self._pool = self._device.new_pool()
            before = [tensor.clone() for tensor in static_inputs.values()]
            try:
                outputs, graph = self._record(function, static_inputs)
            except RuntimeError as error:
                raise RunError(
                    f"cannot capture {_words(key)} as a CUDA graph: {str(error).partition(chr(10))[0]}"
                ) from error
            finally:
                copy_all([("input", to, of) for to, of in zip(static_inputs.values(), before, strict=True)])
                self._device.mark()
            captured = self._kept[key] = Captured(self, key, dict(static_inputs), outputs, graph)
            return captured

    def _record(self, function: Function, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Graph]:
        answers: list[Tensor] = []
        self._device.try_out(lambda: answers.extend(_tensors(function(**inputs))))
        with torch.inference_mode(False):  # and not of the pool, where other graphs would write
            outputs = tuple(torch.empty_like(answer) for answer in answers)
        answers.clear()

        def work() -> None:
            copy_all([("output", to, of) for to, of in zip(outputs, _tensors(function(**inputs)), strict=True)])

        self._device.try_out(work)
        return outputs, self._device.record(work, self._pool)

    def _make_room(self) -> None:
        while self._capacity is not None and len(self._kept) >= self._capacity:
            self._device.synchronize()
            self._kept.popitem(last=False)[1]._free()


def copy_all(pairs: Sequence[tuple[str, Tensor, Tensor]]) -> None:
    """Copy to each second tensor the third, named by the first, in as few launches as can be. Raises ShapeError."""
    alike: dict[tuple[Any, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for name, to, of in pairs:
        if to.shape != of.shape:
            raise ShapeError(f"{name} is {tuple(of.shape)}, expected {tuple(to.shape)}")
        if to.numel():
            kind = (to.dtype, of.dtype, to.device, of.device, to.stride() == of.stride())
            many = alike.setdefault(kind, ([], []))
            many[0].append(to)
            many[1].append(of)
    for to_all, of_all in alike.values():
        torch._foreach_copy_(to_all, of_all, non_blocking=True)


def _words(key: Hashable) -> str:
    words = repr(key)
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


def _tensors(answer: Tensor | Sequence[Tensor] | None) -> Sequence[Tensor]:
    if answer is None:
        return ()
    return (answer,) if isinstance(answer, Tensor) else answer
