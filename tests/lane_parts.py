"""A face lane in miniature, and the same edit by way of numpy, for tests on the CPU and on a GPU; needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.bank import OWN, Policy
from mien.engine.clock import Clock
from mien.engine.compose import FaceMemory, Placement
from mien.engine.cuda.face_edit import LaneEdit
from mien.engine.cuda.lane import FaceLane, LaneNetworks, LaneRow, LaneSizes
from mien.engine.cuda.lane_spec import LaneSpec
from mien.engine.cuda.pixels import Pixels
from mien.engine.cuda.streams import HostStreams, Streams
from mien.engine.denoise import CropDenoiser, Wishes, end_frame
from mien.engine.difference import decode_difference, two_rows
from mien.engine.latent_model import Condition, FrameInputs
from mien.engine.manifest import ScheduleSpec
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_signature import Signature
from mien.engine.networks.sd_unet import ContextProjection, UNet
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder
from mien.engine.prompt_edit import PromptEdit, Recipe
from mien.engine.sampler import Step, step_lcm
from mien.engine.spec import EditSpec
from mien.engine.stable_diffusion import StableDiffusion
from mien.engine.survey import EditedFrame, begin_faces
from mien.engine.types import Array, FaceTrack, Frame, TensorSpec
from mien.kernels.composite_yuv import composite_delta_yuv, composite_replace_yuv
from mien.kernels.crop_yuv import crop_yuv
from mien.kernels.gpu.surfaces import Surfaces
from mien.kernels.planes import paste_box
from mien.runtime.cuda_pipeline import lane_stages
from mien.runtime.pipeline import Pipeline
from mien.runtime.stage import MapStage

PX, WIDTH, HEIGHT = 64, 96, 80
COLOUR: dict[str, Any] = {"matrix": "bt709", "color_range": "limited"}
LAYOUT: dict[str, Any] = {
    "block_out_channels": (32, 32, 64, 64),
    "num_attention_heads": (2, 2, 2, 2),
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
    "layers_per_block": 1,
}
Planes = tuple[Array, Array, Array]


class NumpyNetwork:
    """A module with a network's manners."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        self._module = module
        self.inputs, self.outputs = (
            {name: TensorSpec(tuple(n if isinstance(n, int) else None for n in dims)) for name, dims in part.items()}
            for part in (signature.inputs, signature.outputs)
        )

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        with torch.no_grad():
            answer = self._module(*(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self.inputs))
        parts = (answer,) if isinstance(answer, torch.Tensor) else answer
        return {name: part.numpy() for name, part in zip(self.outputs, parts, strict=True)}


@dataclass
class Edit:
    """What both ways do."""

    timesteps: tuple[float, ...] = (499,)
    edited: Mapping[str, float] = field(default_factory=lambda: {"text": 1.0})
    source: Mapping[str, float] = field(default_factory=lambda: {"source": 1.0})
    step: Step = step_lcm
    composition: Any = "replace"
    policy: Policy = OWN
    seed: int = 5


def modules(seed: int = 0) -> dict[str, Any]:
    """The networks, alike for every call; weights that keep pictures and noise apart from 0."""
    torch.manual_seed(seed)
    layout = Layout(**LAYOUT)
    found: dict[str, Any] = {
        "unet": UNet(adapter=True, bank_layers=tuple(range(len(layout.layers()))), **LAYOUT),
        "context": ContextProjection(adapter=True, **LAYOUT),
        "vae_encoder": TaesdEncoder(channels=16, num_blocks=(1, 1, 1, 1)),
        "vae_decoder": TaesdDecoder(channels=16, num_blocks=(1, 1, 1, 1)),
        "parser": Parser(),
    }
    for module in found.values():
        module.eval().requires_grad_(False)
        for name, tensor in module.named_parameters():
            if name.endswith(("to_v.weight", "to_out.0.weight", "conv_out.weight")):
                tensor.mul_(3.0)  # so that it shows what the rows are told, and what other frames leave in the bank
    return found


class Reference:
    """The edit as methods do it, face by face, in numpy."""

    def __init__(self, edit: Edit, parts: Mapping[str, Any]) -> None:
        image, latents = ("B", 3, "H", "W"), ("B", 4, "H/8", "W/8")
        networks: dict[str, Any] = {
            name: NumpyNetwork(parts[name], parts[name].signature) for name in ("unet", "context")
        }
        networks["vae_encoder"] = NumpyNetwork(parts["vae_encoder"], Signature({"image": image}, {"latents": latents}))
        networks["vae_decoder"] = NumpyNetwork(parts["vae_decoder"], Signature({"latents": latents}, {"image": image}))
        networks["w_projection"] = lambda w_plus: {"w_tokens": w_plus[:, :4, :16]}
        kwargs = LAYOUT | {"adapter": True}
        unet = SimpleNamespace(architecture=SimpleNamespace(kwargs=kwargs))
        manifest = SimpleNamespace(
            schedule=ScheduleSpec("scaled_linear", 0.00085, 0.012, 1000),
            prediction="epsilon",
            latent_scale=1.0,
            networks={"unet": unet},
        )
        self.edit = edit
        self.model = StableDiffusion(manifest, networks, lambda: None)  # type: ignore[arg-type, return-value]
        wishes = Wishes(edit.timesteps, edit.edited, edit.source, edit.step, edit.policy, seed=edit.seed)
        self.denoiser = CropDenoiser(self.model, wishes)

    def told(self, track: FaceTrack) -> dict[str, Condition]:
        """What a track's rows are told."""
        random = np.random.default_rng(track.track_id)
        shared = np.random.default_rng(1000)
        texts = {name: shared.standard_normal((1, 77, 16)).astype(np.float32) for name in ("text", "none", "source")}
        code = random.standard_normal((1, 18, 512)).astype(np.float32)
        codes = {"text": code, "none": None, "source": -code}
        return {name: self.model.condition(texts[name], codes[name], 0.8) for name in texts}

    def __call__(
        self, track: FaceTrack, planes: Planes, source: Planes, affine: Array, mask: Array, weight: float
    ) -> tuple[Array, Planes]:
        """The latents, and `planes` with the face of `source` edited."""
        options = {**COLOUR, "bit_depth": 8 if source[0].dtype == np.uint8 else 10}
        crop = crop_yuv(source, affine, PX, **options)
        z = self.model.encode(crop)
        told = self.told(track)
        if self.edit.composition == "replace":
            here = (mask.reshape(PX // 8, 8, PX // 8, 8).max((1, 3)) > 0).astype(np.float32)[None, None]
            out = self.denoiser.replace(track, z, lambda t: told, FrameInputs(), here)
            new = composite_replace_yuv(planes, affine, self.model.decode(out)[0], mask * np.float32(weight), **options)
        else:
            out = self.denoiser.difference(track, z, lambda t: told, FrameInputs())
            difference, _ = decode_difference(two_rows(self.model.decode), z, out, crop, mask, whole=True)
            new = composite_delta_yuv(planes, affine, difference, mask * np.float32(weight), None, **options)
        end_frame(track)
        return out, new


def picture(seed: int, bits: int = 8) -> Planes:
    """A smooth frame."""
    random = np.random.default_rng(seed)
    planes = []
    for height, width in ((HEIGHT, WIDTH), *[(HEIGHT // 2, WIDTH // 2)] * 2):
        coarse = torch.from_numpy(random.uniform(60, 200, (1, 1, 6, 7)))
        large = nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0, 0].numpy() * 2 ** (bits - 8)
        planes.append(np.clip(large, 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16))
    return planes[0], planes[1], planes[2]


def affine(x: float, y: float, scale: float = 0.7, turn: float = 0.1) -> Array:
    """Crop to frame, the crop's corner about (x, y); float32 values, so that both ways have the same."""
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    return np.array([[c, -s, x], [s, c, y]], np.float32).astype(np.float64)


def soft_mask(size: int = PX) -> Array:
    """0 at the border and 1 in the middle."""
    ramp = np.clip((np.minimum(np.arange(size), np.arange(size)[::-1]) - size / 16) / (size / 8), 0, 1)
    return np.minimum(ramp[:, None], ramp[None]).astype(np.float32)


def pool(frames: Sequence[Planes], device: str | torch.device = "cpu", layout: str = "planar") -> Surfaces:
    """Frames on a device, as a decoder or an upload lays them."""
    bits = 8 if frames[0][0].dtype == np.uint8 else 10
    if layout == "planar":
        y, u, v = (torch.from_numpy(np.stack([frame[i] for frame in frames])).to(device) for i in range(3))
        return Surfaces(y, u, v, bits)
    shift = 0 if bits == 8 else 6
    pairs = [np.stack(frame[1:], 2).reshape(frame[1].shape[0], -1) for frame in frames]
    whole = np.stack([np.concatenate([frame[0], pair]) << shift for frame, pair in zip(frames, pairs, strict=True)])
    made = Surfaces.nv12 if bits == 8 else Surfaces.p010
    return made(torch.from_numpy(whole).to(device), WIDTH, HEIGHT)


def planes_of(surfaces: Surfaces, frame: int) -> Planes:
    """A frame of a pool as arrays."""
    y, u, v = (plane[frame].cpu().numpy() >> surfaces.shift for plane in (surfaces.y, surfaces.u, surfaces.v))
    return y, u, v


def lane_of(
    edit: Edit,
    parts: Mapping[str, Any],
    frames: Sequence[Planes],
    *,
    streams: Streams | None = None,
    layout: str = "planar",
    soft_px: int | None = None,
    batches: tuple[int, ...] = (1, 2, 4),
    tracks: int = 6,
    graphs: Any = None,
    **more: Any,
) -> tuple[FaceLane, Pixels]:
    """A lane over a pool of frames on a device, in the precision of its networks; every track has been told. more: of the lane."""
    streams = streams or HostStreams()
    source, edited = (pool(frames, streams.device, layout) for _ in range(2))
    pixels = Pixels(source, edited, **COLOUR)
    reference = Reference(edit, modules())
    schedule, prediction = reference.model.schedule, reference.model.prediction
    spec = LaneSpec(
        schedule, prediction, edit.timesteps, edit.edited, edit.source, edit.step, edit.composition, edit.policy
    )
    networks = LaneNetworks(parts["unet"], parts["vae_encoder"], parts["vae_decoder"])
    sizes = LaneSizes(PX, soft_px, batches, tracks)
    lane = FaceLane(networks, spec, pixels, sizes, streams, graphs, **more)
    stream = streams.stream()
    for slot in range(tracks):
        track = FaceTrack(slot)
        noise = reference.denoiser.noise(track, np.zeros((1, 4, PX // 8, PX // 8), np.float32))
        lane.tell(slot, [reference.told(track)] * len(edit.timesteps), noise, stream)
    return lane, pixels


def row(frame: int, slot: int, place: Array, mask: Array, weight: float = 1.0, held: int = 0) -> LaneRow:
    """A face whose box is its crop's."""
    return LaneRow(frame, place, paste_box(place, PX, WIDTH, HEIGHT), mask, weight, slot, held)


class Parser(nn.Module):
    """Probabilities of four classes by colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, P, P) to (B, 4, P, P)."""
        return (4 * self.conv(image)).softmax(1)


def method_of(edit: Edit) -> PromptEdit:
    """A prompted method that does the same, with the networks of `modules`."""
    reference = Reference(edit, modules())
    manifest: Any = SimpleNamespace(
        sampling=None, schedule=SimpleNamespace(num_timesteps=1000), default_strength=0.5, default_num_steps=1
    )
    recipe = Recipe(edit.edited, edit.source, lambda track, t: reference.told(track), policy=edit.policy)
    method = PromptEdit(EditSpec(prompt="a face", composition=edit.composition), manifest, reference.model, recipe)
    method.wishes, method.denoiser = reference.denoiser._wishes, reference.denoiser
    return method


def edit_of(edit: Edit, streams: Streams, parts: Mapping[str, Any], new_graphs: Any = None, **more: Any) -> LaneEdit:
    """A `LaneEdit` of crops of 128 pixels, two faces a call. more: its other options."""
    manifest: Any = SimpleNamespace(latent_channels=4, edits={})
    spec, method = EditSpec(prompt="a face"), method_of(edit)
    options: dict[str, Any] = {"batches": (1, 2), "new_graphs": new_graphs, **more}
    return LaneEdit(spec, manifest, method, ("all",), parts, 2 * PX, Clock(), streams, **options)


def clip(count: int, width: int = 160, height: int = 120) -> list[Frame]:
    """Frames that move, without a video."""
    y, x = np.mgrid[:height, :width]
    out = []
    for i in range(count):
        luma = (125 + 60 * np.sin((x + 2 * i) / 17) + 40 * np.cos(y / 13)).astype(np.uint8)
        u, v = (np.full((height // 2, width // 2), code + i, np.uint8) for code in (110, 140))
        out.append(Frame((luma, u, v), "yuv420p", "bt709", "limited", i, i, Fraction(1, 25)))
    return out


def edited_clip(lane: LaneEdit, frames: Sequence[Frame]) -> list[EditedFrame]:
    """Frames through the stages of a lane: two faces in each but the third, which has none."""
    memories = {k: FaceMemory(FaceTrack(k)) for k in range(2)}
    done: list[EditedFrame] = []

    def begin(frame: Frame) -> Item:
        quads = [np.array([[60.0 + 30 * k, 55.0 + frame.index], [34, 4 * k], [-4 * k, 34]]) for k in range(2)]
        points = [quad[0] + np.random.default_rng(k).uniform(-20, 20, (68, 2)) for k, quad in enumerate(quads)]
        places = [Placement(k, quads[k], points[k], 0.9) for k in range(2) if frame.index != 2]
        return Item(frame, begin_faces(lane, frame, places, memories))

    stages = (MapStage("prepare", begin), *lane_stages(lane), MapStage("end", lambda item: done.append(item.edited)))
    Pipeline(frames, stages).run()
    return done


@dataclass(frozen=True)
class Item:
    """As `edit_video` has it."""

    frame: Frame
    begun: Any = None
    edited: Any = None
    failure: Any = None
