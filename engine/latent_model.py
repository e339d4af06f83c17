"""A latent diffusion model behind the arithmetic that methods need: encode, predict the clean latents of rows, decode.

A row is one evaluation of the denoiser: latents, a timestep, and a `Condition`. Rows of one call share the timestep. What
differs between families of networks (what a condition is made of, more input channels, a ControlNet) is in their subclasses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import OWN, Bank, Policy, Row, bank_layers, empty_bank
from mien.engine.manifest import Manifest
from mien.engine.schedule import Schedule
from mien.engine.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """What a row is told, as inputs of the denoiser, each of one row; made once per edit, the same for every frame.

    sees_image: whether the row is given the frame's image latents (InstructPix2Pix), where the denoiser takes any.
    control: inputs of the ControlNet, where the row has one.
    """

    inputs: Mapping[str, Array]
    sees_image: bool = True
    control: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class FrameInputs:
    """What the denoiser is given of a frame beside its noised latents.

    image: (1, C, h, w) clean latents. extra: (1, n, h, w) more channels, such as depth. control: (1, 3, S, S) in [0, 1].
    """

    image: Array | None = None
    extra: Array | None = None
    control: Array | None = None


class LatentModel:
    """The networks of a bundle, bound. denoiser, output: the network and its answer."""

    denoiser, output = "denoiser", "v"

    def __init__(self, manifest: Manifest, networks: Mapping[str, Network]) -> None:
        source = manifest.schedule
        self.schedule = Schedule(source.kind, source.beta_start, source.beta_end, source.num_timesteps)
        self.prediction = manifest.prediction
        self._networks = networks

    def encode(self, crop: Array) -> Array:
        """(3, S, S) in [-1, 1] -> latents (1, C, h, w)."""
        return self._networks["vae_encoder"](image=crop[None])["latents"]

    def decode(self, latents: Array) -> Array:
        """(B, C, h, w) -> pictures (B, 3, S, S)."""
        return self._networks["vae_decoder"](latents=np.ascontiguousarray(latents, np.float32))["image"]

    def predict(
        self,
        x: Array,
        t: float,
        rows: Sequence[tuple[str, Condition]],
        frame: FrameInputs,
        bank: Bank | None = None,
        policy: Policy = OWN,
    ) -> Array:
        """Clean latents (n, C, h, w) of n rows x (n, C, h, w) at level t.

        rows: a name and a condition each; the name tells a row's keys and values in the bank from the others'.
        """
        network = self._networks[self.denoiser]
        conditions = [condition for _, condition in rows]
        inputs: dict[str, Any] = {
            "latents": np.ascontiguousarray(self.input_latents(x, conditions, frame), np.float32),
            "timestep": np.full(len(x), t, np.float32),
            **stacked([condition.inputs for condition in conditions]),
            **self.more_inputs(x, t, rows, frame, bank, policy),
        }
        keys, layers = [(name, t) for name, _ in rows], self.reading_layers(policy)
        answer = network(**inputs, **read_bank(bank, keys, network, policy, layers))
        if bank is not None:
            bank.write(keys, answer, layers)
        return np.asarray(self.schedule.to_x0(answer[self.output], x, t, self.prediction), np.float32)

    def input_latents(self, x: Array, conditions: Sequence[Condition], frame: FrameInputs) -> Array:
        """What the denoiser reads as latents."""
        return x

    def more_inputs(
        self,
        x: Array,
        t: float,
        rows: Sequence[tuple[str, Condition]],
        frame: FrameInputs,
        bank: Bank | None,
        policy: Policy,
    ) -> dict[str, Array]:
        """Inputs that depend on the frame or the step."""
        return {}

    def reading_layers(self, policy: Policy) -> tuple[int, ...] | None:
        """The layers of the policy's stages, None for all."""
        return None


def stacked(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One batch of the inputs of several rows."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_bank(
    bank: Bank | None, rows: Sequence[Row], network: Network, policy: Policy, layers: tuple[int, ...] | None
) -> dict[str, Array]:
    """The bank's inputs of a network for rows, nothing for a network without a bank."""
    if not bank_layers(network.inputs):
        return {}
    if bank is None or not policy.frames:
        inputs = empty_bank(network.inputs, len(rows), _zeros)
    else:
        inputs = bank.read(rows, network.inputs, np.concatenate, _zeros, policy.frames, layers)
    if "own_weight" in network.inputs:
        inputs["own_weight"] = np.full(len(rows), float(policy.own), np.float32)
    return inputs


def _zeros(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.float32)
