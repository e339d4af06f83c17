"""Frames of one form on the device: what was decoded, and beside it the copy that faces are put into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mien.engine.cuda.pools import Lease, Slots
from mien.engine.cuda.streams import Event, Stream, Streams
from mien.engine.errors import RunError
from mien.engine.frame_crop import bit_depth
from mien.engine.types import Array, ColorRange, Frame, Matrix
from mien.kernels.gpu.surfaces import Surfaces

Planes = tuple[Array, Array, Array]


@dataclass(frozen=True, slots=True)
class FrameForm:
    """What the frames of a pool have in common."""

    width: int
    height: int
    bit_depth: int
    matrix: Matrix
    color_range: ColorRange

    @classmethod
    def of(cls, frame: Frame) -> FrameForm:
        """A frame's."""
        return cls(frame.width_px, frame.height_px, bit_depth(frame), frame.matrix, frame.color_range)

    def __str__(self) -> str:
        return f"{self.width}x{self.height} at {self.bit_depth} bit, {self.matrix} {self.color_range}"


@dataclass(frozen=True, slots=True, eq=False)
class _Events:
    """Of a slot: its frame has arrived, its faces are done, they are back on the host."""

    arrived: Event
    edited: Event
    fetched: Event


class FramePool:
    """`count` frames. A stream brings them, another takes them back; those who work on them have streams of their own.

    source: as decoded; nothing but an upload writes there. edited: where faces are put into.
    """

    def __init__(self, streams: Streams, form: FrameForm, count: int) -> None:
        self.form, self.slots = form, Slots(streams, count, "frames on the device")
        self.bring, self.take = streams.stream(), streams.stream()
        self.events = [_Events(streams.event(), streams.event(), streams.event()) for _ in range(count)]
        dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
        half = ((form.height + 1) // 2, (form.width + 1) // 2)
        shapes = [(count, form.height, form.width), (count, *half), (count, *half)]
        self.source, self.edited = (
            _pool([torch.empty(shape, dtype=dtype, device=streams.device) for shape in shapes], form) for _ in range(2)
        )
        self.pinned = _pool([streams.pinned(shape, dtype) for shape in shapes], form)

    def upload(self, frame: Frame) -> FrameOnDevice:
        """Bring a frame's planes. Raises RunError where all slots are lent, or for a frame of another form."""
        if FrameForm.of(frame) != self.form:
            raise RunError(f"frame {frame.index} is {FrameForm.of(frame)}, those before it were {self.form}")
        brought = FrameOnDevice(self, frame, Lease(self.slots, self.take))
        slot = brought.slot
        for pinned, plane in zip(_parts(self.pinned, slot), frame.planes, strict=True):
            np.copyto(pinned.numpy(), plane)
        self.bring.run(lambda: _copy(self.source, self.pinned, slot))
        self.bring.record(brought.events.arrived)
        return brought


class FrameOnDevice:
    """A frame that was brought. Its slot goes back by `planes`, or when nobody holds this any more."""

    def __init__(self, pool: FramePool, frame: Frame, lease: Lease) -> None:
        self.frame, self.slot, self.events = frame, lease.slot, pool.events[lease.slot]
        self._pool, self._lease, self._is_open = pool, lease, False
        lease.after.append(self.events.arrived)

    def hold_until(self, event: Event) -> None:
        """Lend the slot to nobody before an event of work on it."""
        self._lease.after.append(event)

    def shown_to(self, stream: Stream) -> None:
        """Let a stream see the frame."""
        stream.wait(self.events.arrived)

    def open(self, stream: Stream) -> None:
        """Let a stream put faces into it; a second time does nothing."""
        if self._is_open:
            return
        pool, slot = self._pool, self.slot
        self._is_open = True
        self.hold_until(self.events.edited)
        self.shown_to(stream)
        stream.run(lambda: _copy(pool.edited, pool.source, slot))

    def touched(self, stream: Stream) -> None:
        """The stream has been handed work on the edited frame."""
        stream.record(self.events.edited)

    def fetch(self) -> None:
        """Send the edited frame back, behind what has touched it."""
        pool, slot = self._pool, self.slot
        pool.take.wait(self.events.edited)
        pool.take.run(lambda: _copy(pool.pinned, pool.edited, slot))
        pool.take.record(self.events.fetched)

    def planes(self) -> Planes:
        """The edited planes, once they are back; then the slot is free."""
        self.events.fetched.synchronize()
        y, u, v = (plane.numpy().copy() for plane in _parts(self._pool.pinned, self.slot))
        self._lease.close()
        return y, u, v


def _pool(planes: list[torch.Tensor], form: FrameForm) -> Surfaces:
    y, u, v = planes
    return Surfaces(y, u, v, form.bit_depth)


def _parts(surfaces: Surfaces, slot: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return surfaces.y[slot], surfaces.u[slot], surfaces.v[slot]


def _copy(to: Surfaces, of: Surfaces, slot: int) -> None:
    for target, source in zip(_parts(to, slot), _parts(of, slot), strict=True):
        target.copy_(source, non_blocking=True)
