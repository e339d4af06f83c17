"""Memory that is made once and then used in turn: slots by event, pinned buffers, packed rows, keys and values by slot."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mien.engine.cuda.streams import Event, Stream, Streams
from mien.engine.errors import RunError
from mien.engine.types import Array

_ALIGNED = 256  # bytes: what kernels that load 16 bytes at a time, and copies, like best

FieldShape = tuple[torch.dtype, tuple[int, ...]]


class Slots:
    """The numbers 0..count - 1, each lent to one user at a time. what: they are of, for errors."""

    def __init__(self, streams: Streams, count: int, what: str) -> None:
        self._what, self._count = what, count
        self._events = [streams.event() for _ in range(count)]
        self._free = deque(range(count))
        self._lock = threading.RLock()  # a lease may be collected as garbage while this thread holds it

    def take(self) -> int:
        """The number that was given back first, once the device is done with it. Raises RunError where all are lent."""
        with self._lock:
            if not self._free:
                raise RunError(f"all {self._count} {self._what} are in use: let fewer frames be under work at a time")
            slot = self._free.popleft()
        self._events[slot].synchronize()
        return slot

    def give(self, slot: int, stream: Stream) -> None:
        """Give a number back; it is lent again when the stream's work so far is done."""
        stream.record(self._events[slot])
        with self._lock:
            self._free.append(slot)

    @property
    def free(self) -> int:
        """How many can be taken."""
        with self._lock:
            return len(self._free)


class Lease:
    """A slot that goes back when the lease is closed, or else when nobody holds it any more.

    after: events of the work that uses the slot; `last` waits for them before the slot is lent again.
    """

    def __init__(self, slots: Slots, last: Stream) -> None:
        self.slot, self.after = slots.take(), list[Event]()
        self._give_back = weakref.finalize(self, _give_back, slots, self.slot, last, self.after)
        self._give_back.atexit = False

    def close(self) -> None:
        """Give the slot back; a second time does nothing."""
        self._give_back()


def _give_back(slots: Slots, slot: int, last: Stream, after: list[Event]) -> None:
    for event in after:
        last.wait(event)
    slots.give(slot, last)


class Rows:
    """Fields of `count` rows, packed in one block of memory so that one copy moves them all.

    fields: name -> type and shape of a row. By name a field is a tensor (count, *shape).
    """

    def __init__(self, fields: Mapping[str, FieldShape], count: int, raw: Tensor | None = None) -> None:
        self._fields, self._count = dict(fields), count
        sizes = {name: dtype.itemsize * shape_size(shape) * count for name, (dtype, shape) in fields.items()}
        self.bytes = sum(-(-size // _ALIGNED) * _ALIGNED for size in sizes.values())
        self.raw = torch.zeros(self.bytes, dtype=torch.uint8) if raw is None else raw
        self._views, start = dict[str, Tensor](), 0
        for name, (dtype, shape) in fields.items():
            self._views[name] = self.raw[start : start + sizes[name]].view(dtype).view(count, *shape)
            start += -(-sizes[name] // _ALIGNED) * _ALIGNED

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def array(self, name: str) -> Array:
        """A field as an array of the same memory, of rows that lie on the CPU."""
        found: Array = self._views[name].numpy()
        return found

    def on(self, raw: Tensor) -> Rows:
        """The same fields in another block of as many bytes."""
        return Rows(self._fields, self._count, raw)


@dataclass(frozen=True, slots=True, eq=False)
class _Buffer:
    rows: Rows
    sent: Event


class Staging:
    """Pinned twins of rows, filled in turn. depth: how many copies may be on their way at a time."""

    def __init__(self, streams: Streams, rows: Rows, depth: int = 4) -> None:
        twins = (rows.on(streams.pinned((rows.bytes,), torch.uint8)) for _ in range(depth))
        self._buffers = deque(_Buffer(twin, streams.event()) for twin in twins)

    @property
    def now(self) -> Rows:
        """The twin that was filled last."""
        return self._buffers[-1].rows

    def fill(self) -> Rows:
        """The next twin, to be written by the host, once what was copied from it last has arrived."""
        self._buffers.rotate(-1)
        self._buffers[-1].sent.synchronize()
        return self.now

    def send(self, rows: Rows, stream: Stream) -> None:
        """Copy what was filled to rows on the device."""
        now = self.now
        stream.run(lambda: rows.raw.copy_(now.raw, non_blocking=True))
        self.sent(stream)

    def sent(self, stream: Stream) -> None:
        """The stream has been handed the copies of what was filled."""
        stream.record(self._buffers[-1].sent)


class TokenPool:
    """Tensors of tokens by slot: what a denoiser's layers read and answer, of every row in one flat line.

    fields: name -> tokens and channels. shape: the leading dimensions, the last but one a line's number of rows.
    """

    def __init__(
        self, fields: Mapping[str, tuple[int, int]], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.fields = dict(fields)
        self.width = sum(tokens * channels for tokens, channels in fields.values())
        self.lines = torch.zeros((*shape, self.width), dtype=dtype, device=device)

    def views(self, lines: Tensor) -> dict[str, Tensor]:
        """Lines (B, width) as tensors (B, tokens, channels) by name, without a copy."""
        out, start = {}, 0
        for name, (tokens, channels) in self.fields.items():
            out[name] = lines[:, start : start + tokens * channels].unflatten(1, (tokens, channels))
            start += tokens * channels
        return out

    def joined(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors (B, tokens, channels) by name as lines (B, width)."""
        return torch.cat([tensors[name].flatten(1) for name in self.fields], 1)


def shape_size(shape: tuple[int, ...]) -> int:
    """How many elements."""
    size = 1
    for n in shape:
        size *= n
    return size
