"""The face lane: from frames on the device to edited frames on the device, a batch of faces at a time, as one recorded graph.

Crop, encode, noise, denoise, decode, composite. Pixels stay on the device; what the host decides of a face (where it lies, its mask,
its slots) goes there as one block of memory. Nothing of a graph depends on these values, so one for each batch size does for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.cuda.float8_trial import Float8Trial
from mien.engine.cuda.graphs import Graphs, own_key
from mien.engine.cuda.lane_spec import LaneSpec
from mien.engine.cuda.pixels import Pixels
from mien.engine.cuda.pools import FieldShape, Rows, Staging
from mien.engine.cuda.row_denoiser import FaceRows, RowDenoiser
from mien.engine.cuda.streams import Stream, Streams
from mien.engine.errors import ShapeError
from mien.engine.face.mask import DOUBT, GRID_PX
from mien.engine.latent_model import Condition
from mien.engine.networks.sd_unet import UNet
from mien.engine.rows import RowCounts
from mien.engine.types import Array

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class LaneNetworks:
    """unet: with a bank where its `bank_layers` say so. encoder: RGB on [-1, 1] to latents. decoder: and back."""

    unet: UNet
    encoder: nn.Module
    decoder: nn.Module


@dataclass(frozen=True, slots=True, eq=False)
class LaneSizes:
    """What a lane is made for. crop_px: S. soft_px: M, of masks that are soft and yet to be enlarged (see `FaceMasks.enlarged`); None
    for finished ones of the crop's size. batches: how many faces a call may have, each a graph. tracks: how many are remembered.
    channels, factor: of the latents.
    """

    crop_px: int
    soft_px: int | None = GRID_PX
    batches: tuple[int, ...] = (1, 2, 4, 8)
    tracks: int = 16
    channels: int = 4
    factor: int = 8

    def __post_init__(self) -> None:
        if self.crop_px % self.factor or not 0 < self.mask_px <= self.crop_px:
            raise ShapeError(
                f"crops of {self.crop_px} pixels with masks of {self.mask_px}; accepted: multiples of {self.factor}, and masks"
                " no larger than the crops"
            )
        if list(self.batches) != sorted(set(self.batches)) or not self.batches or self.batches[0] < 1:
            raise ShapeError(f"batches of {self.batches} faces; accepted: different numbers from 1, ascending")

    @property
    def mask_px(self) -> int:
        """Of the masks that the lane is given."""
        return self.crop_px if self.soft_px is None else self.soft_px


@dataclass(frozen=True, slots=True, eq=False)
class LaneRow:
    """One face of one frame. frame: its number in the pool. affine: (2, 3), crop to frame. mask: (M, M) in [0, 1]. slot: its track's.

    held: how many frames of the track came before, for the bank.
    """

    frame: int
    affine: Array
    box: Box
    mask: Array
    weight: float
    slot: int
    held: int = 0


class FaceLane:
    """Edits faces in the frames of `pixels`. graphs: records the batch sizes; None to run eagerly. One thread at a time.

    compiles: whether torch.compile is given the UNet, before it is recorded. trial: of the UNet; calls are eager until it is settled.
    latents: of the last call, for tests. counts: calls, and faces as their rows.
    """

    def __init__(
        self,
        networks: LaneNetworks,
        spec: LaneSpec,
        pixels: Pixels,
        sizes: LaneSizes,
        streams: Streams,
        graphs: Graphs | None = None,
        *,
        compiles: bool = False,
        trial: Float8Trial | None = None,
    ) -> None:
        weight = next(networks.unet.parameters())
        side, most = sizes.crop_px // sizes.factor, sizes.batches[-1]
        self._networks, self._spec, self._pixels, self._sizes = networks, spec, pixels, sizes
        self._dtype, self._graphs, self.counts = weight.dtype, graphs, RowCounts()
        self._key, self._compiles, self._trial = own_key("lane"), compiles, trial
        latents = (sizes.channels, side, side)
        self._denoiser = RowDenoiser(networks.unet, spec, latents, tracks=sizes.tracks, most=most, dtype=weight.dtype)
        packed = Rows(_fields(sizes.mask_px), most)
        self._rows = packed.on(torch.zeros(packed.bytes, dtype=torch.uint8, device=weight.device))
        self._staging = Staging(streams, self._rows)
        told = Rows(self._denoiser.told_fields, 1)
        self._telling = Staging(streams, told, depth=2)
        crops = torch.zeros((most, 3, sizes.crop_px, sizes.crop_px), dtype=weight.dtype, device=weight.device)
        self._crops = crops.to(memory_format=torch.channels_last)
        self.latents = torch.zeros((most, *latents), device=weight.device)
        self._fill([])
        self._rows.raw.copy_(self._staging.now.raw)
        streams.synchronize()

    @property
    def most(self) -> int:
        """Faces of a call."""
        return self._sizes.batches[-1]

    @property
    def has_bank(self) -> bool:
        """Whether a track's frames must come one after another, in calls of their own."""
        return self._denoiser.has_bank

    def prepare(self, stream: Stream) -> None:
        """Record every batch size, unless a trial is under way; where it is not called, a size is recorded when it is first wanted."""
        for size in self._sizes.batches:
            self._record(size, stream)

    def tell(self, slot: int, told: Sequence[Mapping[str, Condition]], noise: Sequence[Array], stream: Stream) -> None:
        """Give a slot to a track, or a new code to its track. told: for each step the conditions by name."""
        row = self._telling.fill()
        self._denoiser.describe(row, told, noise)
        stream.run(lambda: self._denoiser.learn(slot, row))
        self._telling.sent(stream)

    def edit(self, rows: Sequence[LaneRow], stream: Stream) -> None:
        """Put these faces into their frames. Raises ShapeError for more than `most`."""
        if not 0 < len(rows) <= self.most:
            raise ShapeError(f"{len(rows)} faces in a call of a lane; accepted: 1 to {self.most}")
        size = next(size for size in self._sizes.batches if size >= len(rows))
        trial = self._trial_under_way()
        if trial is not None:
            size = len(rows)  # rows of no frame are not what it is about
        self._record(size, stream)
        self._fill(rows)
        self._staging.send(self._rows, stream)
        stream.run(lambda: self._launch(size) if trial is None else trial.run(lambda: self._work(size)))
        if trial is not None:
            self.prepare(stream)
        self.counts.calls += 1
        self.counts.rows += len(rows)
        self.counts.padded += size - len(rows)

    def _trial_under_way(self) -> Float8Trial | None:
        return None if self._trial is None or self._trial.is_settled else self._trial

    def _fill(self, rows: Sequence[LaneRow]) -> None:
        """Write rows, and rows of no frame after them, into the next pinned block."""
        packed = self._staging.fill()
        fields = {name: packed.array(name) for name in _fields(1)}
        fields["frame"][:] = -1
        fields["affine"][:] = np.eye(2, 3)
        fields["write"][:] = self._denoiser.nowhere
        for name in ("track", "held"):
            fields[name][:] = 0
        for i, row in enumerate(rows):
            held, write = self._remembered(row)
            values: dict[str, Any] = {"frame": row.frame, "affine": row.affine, "box": row.box, "weight": row.weight}
            values |= {"mask": row.mask, "track": row.slot, "held": held, "write": write}
            for name, value in values.items():
                fields[name][i] = value

    def _remembered(self, row: LaneRow) -> tuple[list[bool], int]:
        """Which of the policy's frames the face sees, and the line for its own keys and values."""
        frames, line = self._spec.policy.frames, self._denoiser.line
        if not self.has_bank:
            return [False, False], self._denoiser.nowhere
        # A track's second frame has its anchor as the previous one, once.
        sees = {"anchor": row.held > 0, "previous": row.held > (1 if "anchor" in frames else 0)}
        write = self._denoiser.nowhere
        if row.held == 0:
            write = line(row.slot, frames[0])
        elif "previous" in frames:
            write = line(row.slot, "previous")
        return [sees[frame] for frame in frames] + [False] * (2 - len(frames)), write

    def _record(self, size: int, stream: Stream) -> None:
        """Capture a size; on rows of no frame, because recording runs the work."""
        graphs = self._graphs
        if graphs is None or self._trial_under_way() is not None or graphs.find((self._key, size)) is not None:
            return
        if self._compiles:
            self._denoiser.compile()
        self._fill([])
        self._staging.send(self._rows, stream)
        stream.run(lambda: graphs.capture((self._key, size), lambda raw: self._work(size), {"raw": self._rows.raw}))

    def _launch(self, size: int) -> None:
        graph = None if self._graphs is None else self._graphs.find((self._key, size))
        self._work(size) if graph is None else graph()

    def _work(self, size: int) -> None:
        """What a graph holds."""
        rows = {name: self._rows[name][:size] for name in _fields(1)}
        place = (rows["frame"], rows["affine"])
        crops = self._crops[:size]
        self._pixels.crop(*place, crops)
        z = self._networks.encoder(crops).float().contiguous()
        mask = self._enlarged(rows["mask"])
        faces = FaceRows(rows["track"], rows["held"], rows["write"])
        pasted = mask * rows["weight"][:, None, None]
        if self._spec.composition == "replace":
            here = F.max_pool2d(mask[:, None], self._sizes.factor).gt(0).float() if self._spec.keeps_source else None
            out = self._denoiser.replace(z, faces, here)
            self._pixels.replace(*place, rows["box"], self._decoded(out), pasted)
        else:
            out = self._denoiser.difference(z, faces)
            edited, source = self._decoded(torch.cat([out, z])).chunk(2)
            self._pixels.add(*place, rows["box"], edited.float() - source.float(), pasted)
        self.latents[:size].copy_(out)

    def _decoded(self, latents: Tensor) -> Tensor:
        picture: Tensor = self._networks.decoder(latents.to(self._dtype, memory_format=torch.channels_last))
        return picture

    def _enlarged(self, mask: Tensor) -> Tensor:
        """(B, M, M) to (B, S, S), as `FaceMasks.enlarged` does it."""
        size = self._sizes.crop_px
        if self._sizes.soft_px is None:
            return mask
        large = F.interpolate(mask[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
        return (large * (1.0 + 2.0 * DOUBT) - DOUBT).clamp(0.0, 1.0)


def _fields(mask_px: int) -> dict[str, FieldShape]:
    """Of a face's row."""
    return {
        "frame": (torch.int32, ()),
        "affine": (torch.float32, (2, 3)),
        "box": (torch.int32, (4,)),
        "weight": (torch.float32, ()),
        "track": (torch.int64, ()),
        "held": (torch.int32, (2,)),
        "write": (torch.int64, ()),
        "mask": (torch.float32, (mask_px, mask_px)),
    }
