"""A UNet on the rows of a batch of faces: what a track is told, its noise and its bank lie in pools and are gathered by its slot.

Rows go by faces, then by conditions: those of face b are b K to b K + K - 1. Every tensor is fetched by numbers that lie on the
device, so one recorded graph serves every call, and a face with fewer frames in its bank than another shares a batch with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.engine.bank import Held
from mien.engine.cuda.lane_spec import LaneSpec
from mien.engine.cuda.pools import FieldShape, Rows, TokenPool
from mien.engine.latent_model import Condition
from mien.engine.networks.sd_attention import BankInputs, LayerInputs
from mien.engine.networks.sd_layout import AttentionLayer
from mien.engine.networks.sd_signature import W_TOKENS
from mien.engine.networks.sd_unet import UNet
from mien.engine.types import Array
from mien.kernels.consistency_step import consistency_step

TEXT_TOKENS = 77


@dataclass(frozen=True, slots=True, eq=False)
class FaceRows:
    """What the faces of a batch read and write of the pools, on the device.

    track: (B,) int64 slots. held: (B, 2) int32, 1 where a face sees the first, the second of the policy's frames. write: (B,) int64,
    the bank's line for the frame's own keys and values.
    """

    track: Tensor
    held: Tensor
    write: Tensor


class RowDenoiser:
    """See the file's first lines. latents: (C, h, w) of a face. tracks: slots. most: faces of a batch. dtype: the network's."""

    def __init__(
        self, unet: UNet, spec: LaneSpec, latents: tuple[int, int, int], *, tracks: int, most: int, dtype: torch.dtype
    ) -> None:
        device = next(unet.parameters()).device
        self._unet, self._spec, self._tracks, self._dtype = unet, spec, tracks, dtype
        self._call: Any = unet.predict
        steps, names, layers = len(spec.timesteps), len(spec.names), unet.layers
        self._has_codes = any("wplus" in name for name, _ in unet.named_parameters())
        given = [("text", TEXT_TOKENS)] + [("w", W_TOKENS)] * self._has_codes
        pairs = {
            f"{of}_{kind}_{n.number}": (tokens, n.channels) for of, tokens in given for n in layers for kind in "kv"
        }
        self._told = TokenPool(pairs, (tracks, names), dtype, device)
        self._noise = torch.zeros((tracks, steps, *latents), device=device)
        self._scales = torch.zeros((tracks, steps, names), device=device)
        self._guidance = torch.zeros((tracks, names), device=device)
        self._bank: TokenPool | None = None
        seeing = [layers[i] for i in unet.bank_layers if layers[i].stage in spec.policy.stages]
        if spec.policy.frames and seeing:
            own = {f"{kind}_{n.number}": (_tokens(n, latents), n.channels) for n in seeing for kind in "kv"}
            self._bank = TokenPool(own, (steps, len(spec.policy.frames), tracks + 1, names), dtype, device)
        values = [spec.coefficients(i) for i in range(steps)]
        self._coefficients = torch.tensor(values, device=device)[:, None].repeat(1, most, 1)
        self._timesteps = torch.tensor(spec.timesteps, dtype=torch.float32, device=device)[:, None].repeat(
            1, most * names
        )
        self._weights = None if spec.weights == (1.0,) else torch.tensor([spec.weights], device=device).repeat(most, 1)
        self._rows = torch.arange(most * names, dtype=torch.int32, device=device).view(most, names)
        self._own_weight = torch.full((most * names,), float(spec.policy.own), device=device)

    @property
    def has_bank(self) -> bool:
        """Whether faces see what their last frames left."""
        return self._bank is not None

    @property
    def nowhere(self) -> int:
        """The bank's line that nobody reads."""
        return self._tracks

    def compile(self) -> None:
        """Call what torch.compile makes of the UNet from now on; its layers must stay what they are."""
        # As a whole, or it raises: what torch cannot trace, or traces anew too often, would otherwise run eager unnoticed.
        self._call = torch.compile(self._unet.predict, fullgraph=True, dynamic=False)

    def line(self, slot: int, frame: Held) -> int:
        """The bank's line of a track's anchor or previous frame."""
        return self._spec.policy.frames.index(frame) * (self._tracks + 1) + slot

    @property
    def told_fields(self) -> dict[str, FieldShape]:
        """Of the row in which a track is described, see `describe`."""
        exact = {"noise": self._noise, "scales": self._scales, "guidance": self._guidance}
        fields = {name: (torch.float32, tuple(pool.shape[1:])) for name, pool in exact.items()}
        return fields | {"told": (self._dtype, tuple(self._told.lines.shape[1:]))}

    def describe(self, row: Rows, told: Sequence[Mapping[str, Condition]], noise: Sequence[Array]) -> None:
        """Write a track into a row of `told_fields`. told: for each step its conditions by name. noise: (1, C, h, w) for each."""
        names = self._spec.names
        inputs = [told[0][name].inputs for name in names]
        lines = [np.concatenate([of[field].ravel() for field in self._told.fields]) for of in inputs]
        row["told"][0] = torch.from_numpy(np.stack(lines))
        row["noise"][0] = torch.from_numpy(np.concatenate(list(noise)))
        scales = [[float(at[name].inputs.get("w_scale", np.zeros(1))[0]) for name in names] for at in told]
        row["scales"][0] = torch.tensor(scales)
        row["guidance"][0] = torch.tensor([float(of.get("guidance", np.zeros(1))[0]) for of in inputs])

    def learn(self, slot: int, row: Rows) -> None:
        """Copy a track's description to its slot."""
        pools = {"told": self._told.lines, "noise": self._noise, "scales": self._scales, "guidance": self._guidance}
        for name, pool in pools.items():
            pool[slot].copy_(row[name][0], non_blocking=True)

    def replace(self, z: Tensor, faces: FaceRows, background: Tensor | None) -> Tensor:
        """Latents made anew of clean ones z (B, C, h, w) float32. background: (B, 1, h, w), 1 where the edit is, or None."""
        spec, schedule = self._spec, self._spec.schedule
        told, noise = self._gathered(faces), self._noise.index_select(0, faces.track)
        x: Tensor = schedule.add_noise(z, noise[:, 0], spec.timesteps[0])
        for i in range(len(spec.timesteps)):
            is_last = i + 1 == len(spec.timesteps)
            prediction = self._predict(x[:, None].expand(-1, len(spec.names), -1, -1, -1), i, told, faces)
            x = self._step(prediction, x, z if is_last else noise[:, i + 1], i)
            if background is not None:
                source = z if is_last else schedule.add_noise(z, noise[:, 0], spec.timesteps[i + 1])
                x = torch.lerp(source, x, background)
        return x

    def difference(self, z: Tensor, faces: FaceRows) -> Tensor:
        """Clean latents of z edited by what the edited rows answer differently from the source's, see `sample_difference`."""
        spec, schedule, out = self._spec, self._spec.schedule, z
        told, noise = self._gathered(faces), self._noise.index_select(0, faces.track)
        for i, t in enumerate(spec.timesteps):
            before, now = (schedule.add_noise(clean, noise[:, i], t) for clean in (z, out))
            rows = torch.stack([before if is_source else now for is_source in spec.is_source], 1)
            out = self._step(self._predict(rows, i, told, faces), now - before, z, i)
        return out

    def _step(self, prediction: Tensor, x: Tensor, noise: Tensor, i: int) -> Tensor:
        n = len(x)
        weights, rows = (None, None) if self._weights is None else (self._weights[:n], self._rows[:n])
        return consistency_step(prediction, x, noise, self._coefficients[i, :n], weights, rows)

    def _gathered(self, faces: FaceRows) -> tuple[list[LayerInputs], Tensor]:
        """What the layers are told, and the scales (B, T, K) of the codes."""
        named = self._told.views(self._told.lines.index_select(0, faces.track).flatten(0, 1))
        scales = self._scales.index_select(0, faces.track)
        layers = []
        for layer in self._unet.layers:
            text = (named[f"text_k_{layer.number}"], named[f"text_v_{layer.number}"])
            codes = (named[f"w_k_{layer.number}"], named[f"w_v_{layer.number}"]) if self._has_codes else None
            layers.append(LayerInputs(text, None if codes is None else (*codes, scales)))
        return layers, scales

    def _predict(self, rows: Tensor, i: int, told: tuple[list[LayerInputs], Tensor], faces: FaceRows) -> Tensor:
        """Predictions of rows (B, K, C, h, w) at step i; the bank is read, and then written."""
        layers, scales = told
        count = rows.shape[0] * rows.shape[1]
        scale = scales[:, i].flatten().to(self._dtype)
        seen = self._seen(i, faces, count)
        inputs = [
            replace(layer, wplus=layer.wplus and (*layer.wplus[:2], scale), bank=seen.get(number))
            for number, layer in enumerate(layers)
        ]
        latents = rows.flatten(0, 1).to(self._dtype, memory_format=torch.channels_last)
        guidance = self._guidance.index_select(0, faces.track).flatten()
        prediction: Tensor
        prediction, own = self._call(latents, self._timesteps[i, :count], inputs, guidance=guidance)
        if self._bank is not None:
            named = {
                f"{kind}_{number}": t for number, pair in enumerate(own) for kind, t in zip("kv", pair, strict=True)
            }
            lines = self._bank.joined(named).view(len(faces.track), -1)
            self._bank.lines[i].view(-1, lines.shape[1]).index_copy_(0, faces.write, lines)
        return prediction

    def _seen(self, i: int, faces: FaceRows, count: int) -> dict[int, BankInputs]:
        """What the layers with a bank see of other frames at step i, by their numbers."""
        if self._bank is None:
            return {}
        kinds = []
        for kind in range(len(self._spec.policy.frames)):
            lines = self._bank.lines[i, kind].index_select(0, faces.track)
            held = faces.held[:, kind : kind + 1].expand(-1, count // len(faces.track)).flatten()
            kinds.append((self._bank.views(lines.flatten(0, 1)), held))
        out = {}
        for name, (tokens, _) in self._bank.fields.items():
            number = int(name[2:])
            if number not in out:
                segments = tuple((named[f"k_{number}"], named[f"v_{number}"]) for named, _ in kinds)
                lengths = tuple(held * tokens for _, held in kinds)
                out[number] = BankInputs(segments, self._own_weight[:count], lengths)
        return out


def _tokens(layer: AttentionLayer, latents: tuple[int, int, int]) -> int:
    """Of a layer, at the latents' size."""
    return int(np.prod([-(-side // layer.downscale) for side in latents[1:]]))
