"""Where a face's regions are: its crop and the parser on the device, the probabilities to pinned memory, all without waiting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.cuda.frame_pool import FrameOnDevice
from mien.engine.cuda.graphs import Graphs, own_key
from mien.engine.cuda.pixels import Pixels
from mien.engine.cuda.pools import FieldShape, Lease, Rows, Slots, Staging
from mien.engine.cuda.streams import Streams
from mien.engine.face.mask import GRID_PX
from mien.engine.types import Array

CLASSES, COLOURS = 4, 3
_FIELDS: dict[str, FieldShape] = {"frame": (torch.int32, ()), "affine": (torch.float32, (2, 3))}


class Parsing:
    """parser: (1, 3, P, P) RGB on [-1, 1] to probabilities (1, 4, P, P). crop_px: of the crop it sees a small picture of.

    count: how many results may wait to be read. graphs: records the work; None to run eagerly. One thread at a time.
    """

    def __init__(
        self,
        parser: nn.Module,
        pixels: Pixels,
        crop_px: int,
        streams: Streams,
        count: int,
        graphs: Graphs | None = None,
    ) -> None:
        weight = next(parser.parameters())
        self._parser, self._pixels, self._graphs, self._key = parser, pixels, graphs, own_key("parser")
        self._stream, self._slots = streams.stream(urgent=True), Slots(streams, count, "parsed faces")
        self._events = [streams.event() for _ in range(count)]
        packed = Rows(_FIELDS, 1)
        self._row = packed.on(torch.zeros(packed.bytes, dtype=torch.uint8, device=weight.device))
        self._staging = Staging(streams, self._row)
        self._crop = torch.zeros((1, COLOURS, crop_px, crop_px), dtype=weight.dtype, device=weight.device)
        self._shrink = torch.from_numpy(area_matrix(crop_px, GRID_PX)).to(self._crop)
        shape = (COLOURS + CLASSES, GRID_PX, GRID_PX)
        self._found = torch.zeros(shape, device=weight.device)
        self._pinned = streams.pinned((count, *shape), torch.float32)
        streams.synchronize()
        if graphs is not None:
            self._fill(-1, np.eye(2, 3))
            self._staging.send(self._row, self._stream)
            self._stream.run(lambda: graphs.capture(self._key, lambda raw: self._work(), {"raw": self._row.raw}))

    def begin(self, frame: FrameOnDevice, affine: Array) -> Parsed:
        """Ask for a face of a frame. Raises RunError where too many results wait."""
        parsed = Parsed(Lease(self._slots, self._stream), self)
        slot, event = parsed.slot, self._events[parsed.slot]
        frame.shown_to(self._stream)
        self._fill(frame.slot, affine)
        self._staging.send(self._row, self._stream)
        self._stream.run(lambda: self._launch(slot))
        self._stream.record(event)
        frame.hold_until(event)
        return parsed

    def found(self, slot: int) -> Array:
        """(7, P, P): the small picture, then the probabilities, once they are there."""
        self._events[slot].synchronize()
        out: Array = self._pinned[slot].numpy()
        return out

    def _fill(self, frame: int, affine: Array) -> None:
        packed = self._staging.fill()
        packed.array("frame")[0], packed.array("affine")[0] = frame, affine

    def _launch(self, slot: int) -> None:
        graph = None if self._graphs is None else self._graphs.find(self._key)
        self._work() if graph is None else graph()
        self._pinned[slot].copy_(self._found, non_blocking=True)

    def _work(self) -> None:
        self._pixels.crop(self._row["frame"], self._row["affine"], self._crop)
        small = self._shrink @ self._crop @ self._shrink.T
        probabilities: Tensor = self._parser(small)
        self._found[:COLOURS].copy_(small[0])
        self._found[COLOURS:].copy_(probabilities[0])


class Parsed:
    """A result that is on its way."""

    def __init__(self, lease: Lease, parsing: Parsing) -> None:
        self.slot, self._lease, self._parsing = lease.slot, lease, parsing

    def wait(self) -> tuple[Array, Array]:
        """The probabilities (4, P, P) and the small picture (3, P, P) on [-1, 1]; read them before `close`."""
        found = self._parsing.found(self.slot)
        return found[COLOURS:], found[:COLOURS]

    def close(self) -> None:
        """They have been read."""
        self._lease.close()


def area_matrix(size: int, out: int) -> Array:
    """(out, size) float32: means over equal parts of `size` pixels, as OpenCV's INTER_AREA makes a picture smaller."""
    edges = np.linspace(0.0, size, out + 1)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(covered, 0.0, None) * (out / size), np.float32)
