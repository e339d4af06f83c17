"""The variants of `bench/ablation.py`: the method `wplus`, whose denoiser is told to remember more or less of past frames.

Each differs from the one above in what its title says. Noise, codes and attention are the only things touched: crops, masks,
networks, levels and composition are those of the method that users run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import EXTENDED, OWN, Policy
from mien.engine.bundle import Bundle
from mien.engine.denoise import CropDenoiser, Wishes, guided_memory
from mien.engine.edits import Answer, View
from mien.engine.edits.wplus import WPlus
from mien.engine.embedded import Embedded
from mien.engine.guidance import LATENT_GUIDANCE, guide_latents
from mien.engine.sampler import Step, step_lcm
from mien.engine.schedule import Schedule
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack, TensorSpec

# Of the embedded bundle's denoiser: attention at 1/16, then three times at 1/32, 1/32 and 1/16 of the crop's side.
STAGES: Mapping[str, tuple[int, ...]] = {"down": (0, 1), "mid": (2,), "up": (3,)}
AROUND_DENOISER = ("vae_encoder", "vae_decoder", "difference_decoder")


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table. rows: of the difference, 0 for the `replace` composition.

    guided: "" never, "upper" as Pix2Video does, "all" after every step.
    """

    title: str
    rows: int = 0
    fixed_noise: bool = True
    shared_code: bool = True
    policy: Policy = OWN
    guided: str = ""

    def spec(self, spec: EditSpec) -> EditSpec:
        """A spec whose composition and options are the variant's."""
        if not self.rows:
            return replace(spec, composition="replace")
        return replace(spec, composition="delta", options=(("rows", float(self.rows)),))


FRESH = Variant("1 fresh noise, code per frame", fixed_noise=False, shared_code=False)
PLAIN = Variant("2 fixed noise", shared_code=False)
SHARED = Variant("3 + shared code")
PREVIOUS = Variant("4 + previous frame only", policy=Policy(("previous",)))
ANCHORED = Variant("5 + anchor and previous", policy=EXTENDED)
GUIDED = Variant("6 + guided latent update", policy=EXTENDED, guided="upper")
DECODER = Variant("5a 5, in the decoder only", policy=replace(EXTENDED, stages=("up",)))
GUIDED_ALL = Variant("6a 6, after every step", policy=EXTENDED, guided="all")
TWO_ROWS = Variant("7 difference of two rows", rows=2)
ONE_ROW = Variant("8 difference in one row", rows=1)
VARIANTS = (FRESH, PLAIN, SHARED, PREVIOUS, ANCHORED, DECODER, GUIDED, GUIDED_ALL, TWO_ROWS, ONE_ROW)

# What is to be read beside the table, and whose it is.
REPORTED = (
    "fixed noise (trial of this bundle's recipe: partial denoising, 1 step at 300, 3 clips of 40 frames, one run): 5 to 9"
    " times less flicker than fresh noise; by clip 5.1, 8.8 and, where the head turns, 1.6",
    "shared code (the same trial): costs 0 to 0.7 dB and freezes expressions in partial denoising; with the difference it"
    " does not matter",
    "difference (the same trial): decoded alone it flickers like the autoencoder; added to the frame's own pixels 4 to 14"
    " times less than that",
    "previous only (Pix2Video, Ceylan et al. 2023, ablation; DAVIS, 50 to 82 frames): temporal and structural artefacts;"
    " without the anchor more flicker, and the edit fades; anchor and previous is best",
    "encoder (Pix2Video, section 3.1): keys and values injected there too bring no further benefit, and slight artefacts",
    "guided update (Pix2Video, section 3.2): less flicker; for the first 25 of 50 steps, beyond them it hurts quality",
)


class FreshNoise(CropDenoiser):
    """Draws anew for every frame and keeps nothing; the first frame's noise is that of a `CropDenoiser`."""

    def noise(self, track: FaceTrack, z: Array) -> list[Array]:
        """(1, C, h, w) for every step."""
        frame = track.memory["frames"] = track.memory.get("frames", 0) + 1
        key = (self._wishes.seed, track.track_id)
        # Without the frame's number the key is the fixed noise's.
        keys = [(*key, step, *([frame] if frame > 1 else [])) for step in range(len(self._wishes.timesteps))]
        return [np.random.default_rng(k).standard_normal(z.shape[1:]).astype(np.float32)[None] for k in keys]


class Staged(Embedded):
    """The embedded family, whose layers are named by stage."""

    def reading_layers(self, policy: Policy) -> tuple[int, ...]:
        """Those of the policy's stages."""
        return tuple(layer for stage in policy.stages for layer in STAGES[stage])


class Stopwatch:
    """Adds up the seconds spent in networks."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def around(self, network: Network) -> Network:
        """The network, timed."""
        return _Timed(network, self)


class _Timed:
    def __init__(self, network: Network, watch: Stopwatch) -> None:
        self._network, self._watch = network, watch

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self._network.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self._network.outputs

    def __call__(self, **arrays: Array) -> Mapping[str, Array]:
        start = time.perf_counter()
        answer = self._network(**arrays)
        self._watch.spent_s += time.perf_counter() - start
        return answer


class Ablated(WPlus):
    """`wplus` as a variant wants it. denoising_ms, whole_ms: of each crop, without and with the autoencoder."""

    def __init__(self, variant: Variant, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        self._watch = Stopwatch()
        timed = {n: self._watch.around(net) if n in AROUND_DENOISER else net for n, net in networks.items()}
        super().__init__(variant.spec(spec), bundle, timed)
        self._variant, self._seed, self._model = variant, spec.seed, Staged(bundle.manifest, timed)
        self.timesteps = self._timesteps
        self.denoising_ms: list[float] = []
        self.whole_ms: list[float] = []

    def encode_anew(self, track: FaceTrack, crop: Array) -> None:
        """Where the variant has a code per frame, forget the track's and take this crop's (3, S, S), not warped."""
        if not self._variant.shared_code:
            track.w_sum, track.w_count = None, 0
            self.encode(track, crop)

    def finish(self, track: FaceTrack, view: View) -> Answer | None:
        """As `wplus` does it."""
        variant = self._variant
        wishes = Wishes(
            self._timesteps,
            edited={"edited": 1.0},
            source={"source": 1.0},
            step=guide_every_step(track) if variant.guided == "all" else step_lcm,
            policy=variant.policy,
            guided=variant.guided == "upper",
            seed=self._seed,
        )
        self._denoiser = (CropDenoiser if variant.fixed_noise else FreshNoise)(self._model, wishes)
        start, before = time.perf_counter(), self._watch.spent_s
        answer = super().finish(track, view)
        spent = time.perf_counter() - start
        self.whole_ms.append(1000 * spent)
        self.denoising_ms.append(1000 * (spent - self._watch.spent_s + before))
        return answer


def guide_every_step(track: FaceTrack) -> Step:
    """`step_lcm` followed by Pix2Video's update, wherever the schedule is."""
    memory = guided_memory(track)

    def guided(schedule: Schedule, x0: Any, x: Any, t: float, target: float | None, noise: Any) -> Any:
        out = step_lcm(schedule, x0, x, t, target, noise)
        previous, memory[t] = memory.get(t), x0
        return out if previous is None else guide_latents(out, x0, previous, LATENT_GUIDANCE)

    return guided


def held_bytes(track: FaceTrack) -> int:
    """Of all arrays that a track keeps from frame to frame: code, noise, bank, and what guidance remembers."""
    found: dict[int, Array] = {}
    bank = track.bank
    banked = [] if bank is None else [bank.anchor, bank.previous]
    _collect([track.w_sum, track.noise, track.memory, *banked], found)
    return sum(array.nbytes for array in found.values())


def _collect(value: Any, found: dict[int, Array]) -> None:
    if isinstance(value, np.ndarray):
        found[id(value)] = value
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
