"""W+ editing: directions added to a face's code, which is averaged over its frames; answers a difference, or a whole
new crop.

In `delta` composition only what the face's code w and the edited code w + dw make different, decoded, leaves here
(`sample_difference`). A bundle's network `difference` answers that in one row; without it the denoiser runs on two rows
with the same noise. In `replace` composition the crop is partly noised and denoised with w + dw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import Bank, bank_layers, empty_bank
from mien.engine.edits import Answer
from mien.engine.errors import EditError
from mien.engine.manifest import AttributeEdit, Manifest
from mien.engine.sampler import sample_ddim, sample_difference, sample_lcm, sample_tcd
from mien.engine.schedule import Schedule, even_timesteps, lcm_timesteps, trailing_timesteps, truncate
from mien.engine.spec import EditSpec, nearest
from mien.engine.types import Array, FaceTrack

CODE_PX = 128
# Latents decoded beyond the mask. Measured on the bundle's decoder: 4 leave less than one grey level to the whole decode, 2 leave 12.
HALO = 4
# Latents that change by less, further than this from the others, are not decoded: they would add less than a grey level.
LEAST_CHANGE, REACH = 0.03, 3
# Below this share of the mask no difference reaches a fifth of a 10-bit code: what is left of a mask averaged over frames.
LEAST_SHARE = 1 / 4096
# Of the [-1, 1] scale: a difference from which the source begins to count as hidden, and from which it is; low, because a lid
# differs little from the eye that it hides. The share of the crop's side by which gaps are closed (dark brows under dark glass
# differ less still), and that of the edge's softness.
COVERS_FROM, COVERS_WHOLLY, CLOSE_SHARE, SOFT_SHARE = 0.06, 0.18, 0.05, 0.006
_ALWAYS = ("w_encoder", "vae_encoder", "vae_decoder")


@dataclass(frozen=True, slots=True)
class Options:
    """w_scale: weight of the W+ tokens in the denoiser, 1 as trained, 0 none; the network `difference` has none.

    rows: of the difference, 1 (the network `difference`) or 2 (the denoiser); 0 is 1 where the bundle has that network.
    whole: 1 decodes the difference of the whole crop, 0 no more of it than can show.
    """

    w_scale: float = 1.0
    rows: float = 0
    whole: float = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.w_scale <= 2.0:
            raise EditError(f"w_scale is {self.w_scale:g}; accepted: 0 to 2")
        if self.rows not in (0, 1, 2):
            raise EditError(f"rows is {self.rows:g}; accepted: 0, 1, 2")
        if self.whole not in (0, 1):
            raise EditError(f"whole is {self.whole:g}; accepted: 0, 1")

    @classmethod
    def of(cls, pairs: tuple[tuple[str, float], ...]) -> Options:
        """From a spec's `options`. Raises EditError for one that wplus does not have."""
        known = [f.name for f in fields(cls)]
        for key, _ in pairs:
            if key not in known:
                raise EditError(
                    f"method 'wplus' has no option {key!r}{nearest(key, known)}; accepted: {', '.join(known)}"
                )
        return cls(**dict(pairs))


class WPlus:
    """The method; see the file's first lines.

    One object serves every track; calls for one track come in frame order.
    """

    @staticmethod
    def networks(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """None where every edit is only a landmark warp that keeps the picture's own pixels."""
        active = [manifest.edits[name] for name, _ in spec.active]
        if _composition(spec, active) == "replace":
            return *_ALWAYS, "denoiser"
        if all(edit.direction is None for edit in active):
            Options.of(spec.options)
            return ()
        return *_ALWAYS, "difference" if _one_row(spec, manifest) else "denoiser"

    @staticmethod
    def in_order(spec: EditSpec, manifest: Manifest) -> bool:
        """Where the denoiser reads a bank."""
        return bool(manifest.bank) and "denoiser" in WPlus.networks(spec, manifest)

    def __init__(
        self, spec: EditSpec, manifest: Manifest, directions: Mapping[str, Array], networks: Mapping[str, Network]
    ) -> None:
        edits = manifest.edits
        active = [(edits[name], strength) for name, strength in spec.active]
        coded = [edit for edit, _ in active if edit.direction is not None]
        self.composition = _composition(spec, [edit for edit, _ in active])
        wanted = self.networks(spec, manifest)
        self._runs, self._one_row = bool(wanted), "difference" in wanted
        self._networks = networks
        self._spec, self._manifest, self._options = spec, manifest, Options.of(spec.options)
        self._dw: Array = np.zeros((1, 12, 64), np.float32)
        for edit, strength in active:
            if edit.direction is not None:
                self._dw = self._dw + np.float32(strength * edit.gain) * directions[edit.direction]
        source = manifest.schedule
        self._schedule = Schedule(source.kind, source.beta_start, source.beta_end, source.num_timesteps)
        steps = spec.num_steps or manifest.default_num_steps
        t_max = max((edit.t_max for edit in coded or [edit for edit, _ in active]), default=500)
        if spec.strength is not None:
            t_max = min(round(source.num_timesteps * spec.strength), source.num_timesteps - 1)
        self._timesteps = self._grid(steps, t_max)

    def _grid(self, steps: int, t_max: int) -> tuple[int, ...]:
        total = self._manifest.schedule.num_timesteps
        if self.composition == "delta":
            return even_timesteps(steps, t_max)
        if self._spec.sampler == "ddim":  # a trailing grid of which `steps` levels lie up to t_max
            whole = math.ceil(steps * total / (t_max + 1) - 1e-9)
            return truncate(trailing_timesteps(whole, total), (t_max + 1) / total)
        return lcm_timesteps(steps, (t_max + 1) / total, num_timesteps=total)

    def wants_code(self) -> bool:
        """Whether `finish` needs a shared code."""
        return self._runs

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Add a crop's code to the track's mean."""
        small = cv2.resize(crop.transpose(1, 2, 0), (CODE_PX, CODE_PX), interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(small.transpose(2, 0, 1)[None], np.float32)
        code = self._networks["w_encoder"](image=image)["w_plus"]
        track.w_sum = code.copy() if track.w_sum is None else track.w_sum + code
        track.w_count += 1

    def finish(self, track: FaceTrack, crop: Array, mask: Array, hidden: Array | None = None) -> Answer | None:
        """The difference to add to the crop's picture (0 away from the mask), or the new crop as a cover."""
        if not self._runs:
            return None
        if track.w_sum is None:
            raise ValueError(f"track {track.track_id} has no code: encode a crop of it first")
        w = np.asarray(track.w_sum, np.float32) / np.float32(track.w_count)
        z = self._networks["vae_encoder"](image=crop[None])["latents"]
        bank: Bank | None = None
        if self._manifest.bank and not self._one_row:
            track.bank = bank = track.bank or Bank()
        noise = [self._noise(track, step, z.shape[1:]) for step in range(len(self._timesteps))]
        if self.composition == "delta":
            answer = self._delta(z, w, noise, bank, (mask, hidden))
        else:
            answer = Answer(cover=(self._replace(z, w, noise, bank), mask))
        if bank is not None:
            bank.step_frame()
        return answer

    def _delta(
        self, z: Array, w: Array, noise: list[Array], bank: Bank | None, masks: tuple[Array, Array | None]
    ) -> Answer:
        mask, hidden = masks

        def two_rows(z_t: Array, other_t: Array, t: int) -> Array:
            codes = np.concatenate([w, w + self._dw])
            x0 = self._denoise(np.concatenate([z_t, other_t]), t, codes, ("source", "edited"), bank)
            return x0[1:] - x0[:1]

        def one_row(_: Array, other_t: Array, t: int) -> Array:
            inputs = {"latents": other_t, "source": z, "w_plus": w, "w_edited": w + self._dw}
            timestep = np.full(1, t, np.float32)
            return self._networks["difference"](timestep=timestep, **inputs)["difference"]

        answer = one_row if self._one_row else two_rows
        out = sample_difference(answer, z, self._schedule, self._timesteps, noise)
        difference = np.zeros((3, *mask.shape), np.float32)
        rows = columns = slice(0, z.shape[2])
        if not self._options.whole:
            change = np.abs(out - z).max((0, 1))
            rows, columns = (_window(mask.max(axis), change.max(axis)) for axis in (1, 0))
        both = np.concatenate([out, z])[:, :, rows, columns]
        decoded = self._networks["vae_decoder"](latents=np.ascontiguousarray(both))["image"]
        factor = mask.shape[0] // z.shape[2]
        at = tuple(slice(s.start * factor, s.stop * factor) for s in (rows, columns))
        np.subtract(decoded[0], decoded[1], out=difference[:, *at])
        if hidden is None:
            return Answer(difference)
        picture = np.zeros_like(difference)
        picture[:, *at] = decoded[0]
        return Answer(difference, (picture, covered_share(difference) * np.minimum(mask, hidden)))

    def _replace(self, z: Array, w: Array, noise: list[Array], bank: Bank | None) -> Array:
        def denoiser(x: Array, t: int) -> Array:
            return self._denoise(x, t, w + self._dw, ("edited",), bank)

        start = self._schedule.add_noise(z, noise[0], self._timesteps[0])
        grid, later = self._timesteps, noise[1:]
        if self._spec.sampler == "ddim":
            out = sample_ddim(denoiser, start, self._schedule, grid)
        elif self._spec.sampler == "tcd":
            out = sample_tcd(denoiser, start, self._schedule, grid, later)
        else:
            out = sample_lcm(denoiser, start, self._schedule, grid, later)
        return np.asarray(self._networks["vae_decoder"](latents=out)["image"][0])

    def _denoise(self, x: Array, t: int, codes: Array, branches: tuple[str, ...], bank: Bank | None) -> Array:
        network = self._networks["denoiser"]
        inputs: dict[str, Any] = {
            "latents": np.ascontiguousarray(x, np.float32),
            "timestep": np.full(len(x), t, np.float32),
            "w_plus": codes,
            "w_scale": np.full(len(x), self._options.w_scale, np.float32),
        }
        rows = [(branch, t) for branch in branches]
        if bank is not None:
            inputs |= bank.read(rows, network.inputs, np.concatenate, _zeros)
        elif bank_layers(network.inputs):
            inputs |= empty_bank(network.inputs, len(x), _zeros)
        answer = network(**inputs)
        if bank is not None:
            bank.write(rows, answer)
        return np.asarray(self._schedule.to_x0(answer["v"], x, t, self._manifest.prediction), np.float32)

    def _noise(self, track: FaceTrack, step: int, shape: tuple[int, ...]) -> Array:
        """(1, C, h, w), the same for every frame of a track and step: drawn from (seed, track, step) once."""
        if step not in track.noise:
            drawn = np.random.default_rng((self._spec.seed, track.track_id, step)).standard_normal(shape)
            track.noise[step] = drawn.astype(np.float32)[None]
        return track.noise[step]


def _window(used: Array, changed: Array) -> slice:
    """The span of latents to decode, for a mask's largest values by row or column (n,) and the latents' changes (m,): where
    both meet, each grown by what a pixel sees around it.
    """
    masked = np.flatnonzero(used > LEAST_SHARE) * len(changed) // len(used)
    moved = np.flatnonzero(changed > LEAST_CHANGE)
    if not len(masked) or not len(moved):
        return slice(0, 1)
    first = max(0, int(masked[0]) - HALO, int(moved[0]) - REACH)
    last = min(len(changed) - 1, int(masked[-1]) + HALO, int(moved[-1]) + REACH)
    return slice(first, last + 1) if first <= last else slice(0, 1)


def covered_share(difference: Array) -> Array:
    """(S, S) in [0, 1]: how far a difference (3, S, S) is so strong that something new stands there; gaps are closed."""
    strength = np.abs(difference).max(0)
    share = np.clip((strength - COVERS_FROM) / (COVERS_WHOLLY - COVERS_FROM), 0.0, 1.0).astype(np.float32)
    side = max(3, round(CLOSE_SHARE * len(share)) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(share, cv2.MORPH_CLOSE, kernel)
    return np.minimum(cv2.GaussianBlur(closed, (0, 0), SOFT_SHARE * len(share)), np.float32(1.0))


def _one_row(spec: EditSpec, manifest: Manifest) -> bool:
    """Whether the difference comes in one row. Raises EditError where that is wanted of a bundle that cannot."""
    rows = Options.of(spec.options).rows
    if rows == 1 and "difference" not in manifest.networks:
        raise EditError(
            f"bundle {manifest.name} has no network 'difference': leave out the option rows, or give rows=2"
        )
    return rows != 2 and "difference" in manifest.networks


def _composition(spec: EditSpec, active: list[AttributeEdit]) -> str:
    if spec.composition != "auto":
        return spec.composition
    return "replace" if any(edit.composition == "replace" for edit in active) else "delta"


def _zeros(shape: tuple[int, ...]) -> Array:
    return np.zeros(shape, np.float32)


METHOD = WPlus
