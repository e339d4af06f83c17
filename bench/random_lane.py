"""A face lane with random weights, frames of noise and tracks that were told something: what throughput and latency are measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.bench.random_networks import SIZES_PX, random_network
from mien.bench.unet_ops import TEXT_TOKENS
from mien.engine.bank import OWN, Policy
from mien.engine.cuda.fuse import fuse
from mien.engine.cuda.lane import FaceLane, LaneNetworks, LaneRow, LaneSizes
from mien.engine.cuda.lane_spec import Composition, LaneSpec
from mien.engine.cuda.pixels import Pixels
from mien.engine.cuda.streams import CudaStreams, HostStreams
from mien.engine.errors import InputError
from mien.engine.latent_model import Condition
from mien.engine.networks.sd_signature import W_TOKENS
from mien.engine.networks.sd_unet import UNet
from mien.engine.schedule import Schedule, lcm_timesteps
from mien.engine.types import Array
from mien.kernels.gpu.surfaces import Surfaces
from mien.kernels.planes import paste_box

ONE_FRAME = Policy(("previous",))
STRENGTH = 0.5
FACE_SHARE = 0.5  # of the frame's height that the crop takes
DEGREES = 6.0
MASK_PX = 128


class HereStream:
    """The current CUDA stream, where the benchmark's events are."""

    def run(self, work: Callable[[], Any]) -> None:
        """At once."""
        with torch.no_grad():
            work()

    def record(self, event: Any) -> None:
        """Of the work so far."""
        event.record()

    def wait(self, event: Any) -> None:
        """Before the work that comes."""
        torch.cuda.current_stream().wait_event(event)


@dataclass(frozen=True, slots=True)
class LaneParts:
    """The three networks of a lane, fused, and the FLOPs of one row of each; lanes share them."""

    model: str
    device: str
    networks: LaneNetworks
    flops: dict[str, int]

    @classmethod
    def make(cls, model: str, device: str) -> LaneParts:
        """Random ones, in half precision on a GPU."""
        dtype = torch.float16 if device != "cpu" else torch.float32
        made = {name: random_network(name, model, device, dtype) for name in ("unet", "taesd_encoder", "taesd_decoder")}
        unet, encoder, decoder = (fuse(network.module) for network in made.values())
        assert isinstance(unet, UNet)
        flops = {name: network.flops for name, network in made.items()}
        return cls(model, device, LaneNetworks(unet, encoder, decoder), flops)

    def graphs(self) -> Any:
        """For one lane; None on a CPU."""
        if self.device == "cpu":
            return None
        from mien.engine.cuda.device import TorchCuda
        from mien.engine.cuda.graphs import Graphs

        return Graphs(TorchCuda(self.device))


@dataclass(frozen=True, slots=True)
class LaneShape:
    """What one lane is measured with. rows: faces of a call, one of each of as many streams; streams is a multiple of it.
    frame: width and height. bank: whether self-attention sees the frame before, at 32x32 and below. any_rows: whether calls may have
    fewer rows.
    """

    streams: int
    rows: int
    steps: int
    frame: tuple[int, int] = (1280, 720)
    composition: Composition = "replace"
    bank: bool = True
    any_rows: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1 or self.streams < 1 or (self.streams % self.rows and not self.any_rows):
            raise InputError(f"{self.streams} streams with {self.rows} rows a call: give a multiple of the rows")

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of rows that graphs are recorded for."""
        smaller = (1 << i for i in range(self.rows.bit_length()) if 1 << i < self.rows)
        return (*smaller, self.rows) if self.any_rows else (self.rows,)

    def flops(self, parts: LaneParts) -> float:
        """Of one frame with one face."""
        rows, pictures = (2, 2) if self.composition == "delta" else (1, 1)
        of = parts.flops
        return float(self.steps * rows * of["unet"] + of["taesd_encoder"] + pictures * of["taesd_decoder"])

    def spec(self) -> LaneSpec:
        """The edit: LCM over so many steps."""
        return LaneSpec(
            schedule=Schedule(),
            prediction="epsilon",
            timesteps=tuple(float(t) for t in lcm_timesteps(self.steps, STRENGTH)),
            edited={"edited": 1.0},
            source={"source": 1.0} if self.composition == "delta" else {},
            composition=self.composition,
            policy=ONE_FRAME if self.bank else OWN,
        )


class RandomLane:
    """A lane, its graphs recorded, two pools with one frame of each stream, as it comes and edited, and a track for each."""

    def __init__(self, parts: LaneParts, shape: LaneShape, seed: int = 0) -> None:
        device, rng = torch.device(parts.device), np.random.default_rng(seed)
        self.shape, self.source = shape, _noise(shape, rng).to(device)
        self.edited = self.source.clone()
        source, edited = (Surfaces.nv12(pool, *shape.frame) for pool in (self.source, self.edited))
        crop_px, spec = SIZES_PX[parts.model], shape.spec()
        sizes = LaneSizes(crop_px, min(MASK_PX, crop_px), shape.batches, tracks=shape.streams)
        streams: Any = HostStreams() if parts.device == "cpu" else CudaStreams(device)
        pixels = Pixels(source, edited, "bt709", "limited")
        self.lane = FaceLane(parts.networks, spec, pixels, sizes, streams, parts.graphs())
        self._stream: Any = streams.stream() if parts.device == "cpu" else HereStream()
        self._rows = [_row(i, shape.frame, crop_px, sizes.mask_px) for i in range(shape.streams)]
        side = crop_px // sizes.factor
        told = {name: _condition(parts.networks.unet, rng) for name in spec.names}
        for slot in range(shape.streams):
            noise = [rng.standard_normal((1, sizes.channels, side, side)).astype(np.float32) for _ in spec.timesteps]
            self.lane.tell(slot, [told] * shape.steps, noise, self._stream)
        self.lane.prepare(self._stream)
        self._held = 0
        for _ in range(2):  # so that every bank holds a frame
            for start in range(0, shape.streams, shape.rows):
                self.edit(range(start, min(start + shape.rows, shape.streams)))
            self._held = 1

    def edit(self, streams: Sequence[int]) -> None:
        """A frame of each of these streams, in this order: copied as it is, and its face edited."""
        self._stream.run(lambda: self._copy(streams))
        self.lane.edit([replace(self._rows[i], held=self._held) for i in streams], self._stream)

    def turns(self) -> list[Callable[[], None]]:
        """A call for each group of streams whose frames go together."""
        starts = range(0, self.shape.streams, self.shape.rows)
        return [partial(self.edit, range(start, start + self.shape.rows)) for start in starts]

    def _copy(self, streams: Sequence[int]) -> None:
        """Frames beside each other in one launch."""
        start = 0
        for end in range(1, len(streams) + 1):
            if end == len(streams) or streams[end] != streams[end - 1] + 1:
                where = slice(streams[start], streams[end - 1] + 1)
                self.edited[where].copy_(self.source[where])
                start = end


def _noise(shape: LaneShape, rng: np.random.Generator) -> Tensor:
    """A pool in NV12."""
    width, height = shape.frame
    size = (shape.streams, height + (height + 1) // 2, width + width % 2)
    return torch.from_numpy(rng.integers(16, 236, size, np.uint8))


def _row(stream: int, frame: tuple[int, int], crop_px: int, mask_px: int) -> LaneRow:
    """A face in the middle of a stream's frame, turned a little, all of it edited but for the crop's edge."""
    side, turn = FACE_SHARE * frame[1], np.deg2rad(DEGREES)
    linear = side / crop_px * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine = np.column_stack([linear, np.array(frame) / 2 - linear @ np.full(2, (crop_px - 1) / 2)])
    edge = np.minimum(np.arange(mask_px), np.arange(mask_px)[::-1])
    ramp = np.clip(edge / (0.06 * mask_px), 0, 1)
    mask = np.outer(ramp, ramp).astype(np.float32)
    return LaneRow(stream, affine, paste_box(affine, crop_px, *frame), mask, 1.0, stream)


def _condition(unet: UNet, rng: np.random.Generator) -> Condition:
    """Random keys and values of text and code."""
    inputs: dict[str, Array] = {"w_scale": np.ones(1, np.float32)}
    for layer in unet.layers:
        for kind in "kv":
            for name, tokens in (("text", TEXT_TOKENS), ("w", W_TOKENS)):
                values = rng.standard_normal((1, tokens, layer.channels)).astype(np.float32)
                inputs[f"{name}_{kind}_{layer.number}"] = values
    return Condition(inputs)
