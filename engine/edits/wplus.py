"""W+ editing: directions added to a face's code, which is averaged over its frames; answers a difference, or a whole
new crop.

In `delta` composition only what the face's code w and the edited code w + dw make different, decoded, leaves here
(`sample_difference`). A bundle's network `difference` answers that in one row, and its `difference_decoder` draws it on the
crop's own pixels; without the first the denoiser runs on two rows with the same noise, without the second the decoder does.
In `replace` composition the crop is partly noised and denoised with w + dw.
A bundle with an SD1.5-class UNet does it with the W+ Adapter, see wplus_adapter.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mien.engine.backend import Network
from mien.engine.bank import EXTENDED, OWN
from mien.engine.bundle import Bundle
from mien.engine.code_edit import CodeEdit
from mien.engine.denoise import CropDenoiser, Wishes, end_frame
from mien.engine.difference import covered_share, decode_difference, two_rows
from mien.engine.edits import Answer, Method, View, edited_regions, read_options
from mien.engine.embedded import Embedded
from mien.engine.errors import EditError
from mien.engine.face.coordinates import face_coordinates
from mien.engine.latent_model import FrameInputs
from mien.engine.manifest import AttributeEdit, Manifest
from mien.engine.sampler import Step, sample_difference, step_ddim, step_lcm, step_tcd
from mien.engine.schedule import even_timesteps, lcm_timesteps, trailing_timesteps, truncate
from mien.engine.spec import EditSpec, check_choice, check_number
from mien.engine.types import Array, FaceTrack
from mien.engine.wplus_adapter import WPlusAdapter

_STEPS: Mapping[str, Step] = {"lcm": step_lcm, "tcd": step_tcd, "ddim": step_ddim}
DRAWER = "difference_decoder"
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
        check_number("w_scale", self.w_scale, 0, 2)
        check_choice("rows", self.rows, (0, 1, 2))
        check_choice("whole", self.whole, (0, 1))


class WPlus:
    """The method over the embedded bundle's family; see the file's first lines.

    One object serves every track; calls for one track come in frame order.
    """

    @staticmethod
    def networks(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """None where every edit is only a landmark warp that keeps the picture's own pixels; then options are refused."""
        wanted = _wanted(spec, manifest)
        if spec.active and not wanted and read_options(Options, spec) != Options():
            names, given = (", ".join(name for name, _ in pairs) for pairs in (spec.active, spec.options))
            raise EditError(f"the edits {names} run no network that has the options {given}: leave these out")
        return wanted

    @staticmethod
    def in_order(spec: EditSpec, manifest: Manifest) -> bool:
        """Where the denoiser reads a bank."""
        return bool(manifest.bank) and "denoiser" in _wanted(spec, manifest)

    @staticmethod
    def regions(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """Those of the edits."""
        return edited_regions(spec, manifest)

    def __init__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> None:
        manifest = bundle.manifest
        active = [(manifest.edits[name], strength) for name, strength in spec.active]
        coded = [edit for edit, _ in active if edit.direction is not None]
        self.composition = _composition(spec, [edit for edit, _ in active])
        wanted = _wanted(spec, manifest)
        self._runs, self._one_row, self._draws = bool(wanted), "difference" in wanted, DRAWER in wanted
        self._networks, self._model = networks, Embedded(manifest, networks)
        self._options = read_options(Options, spec)
        self._edited_code = CodeEdit(spec, bundle)
        t_max = max((edit.t_max for edit in coded or [edit for edit, _ in active]), default=500)
        if spec.strength is not None:
            total = manifest.schedule.num_timesteps
            t_max = min(round(total * spec.strength), total - 1)
        self._timesteps = self._grid(spec, manifest, t_max)
        policy = EXTENDED if manifest.bank and not self._one_row else OWN
        wishes = Wishes(
            self._timesteps, {"edited": 1.0}, {"source": 1.0}, _STEPS[spec.sampler or "lcm"], policy, seed=spec.seed
        )
        self._denoiser = CropDenoiser(self._model, wishes)

    def _grid(self, spec: EditSpec, manifest: Manifest, t_max: int) -> tuple[int, ...]:
        steps, total = spec.num_steps or manifest.default_num_steps, manifest.schedule.num_timesteps
        if self.composition == "delta":
            return even_timesteps(steps, t_max)
        if spec.sampler == "ddim":  # a trailing grid of which `steps` levels lie up to t_max
            whole = math.ceil(steps * total / (t_max + 1) - 1e-9)
            return truncate(trailing_timesteps(whole, total), (t_max + 1) / total)
        return lcm_timesteps(steps, (t_max + 1) / total, num_timesteps=total)

    def wants_code(self) -> bool:
        """Whether `finish` needs a shared code."""
        return self._runs

    def encode(self, track: FaceTrack, crop: Array) -> None:
        """Add a crop's code to the track's mean."""
        track.add_code(self._model.code(crop))

    def finish(self, track: FaceTrack, view: View) -> Answer | None:
        """The difference to add to the crop's picture, or the new crop as a cover."""
        if not self._runs:
            return None
        w, z = track.mean_code(), self._model.encode(view.crop)
        if self.composition == "replace":
            conditions = {"edited": self._model.condition(self._edited_code(w), self._options.w_scale)}
            out = self._denoiser.replace(track, z, lambda t: conditions, FrameInputs())
            answer = Answer(cover=(self._model.decode(out)[0], view.mask))
        else:
            answer = self._delta(track, z, w, view)
        end_frame(track)
        return answer

    def _delta(self, track: FaceTrack, z: Array, w: Array, view: View) -> Answer:
        if self._one_row:
            noise = self._denoiser.noise(track, z)
            place = face_coordinates(view.points, len(view.mask), z.shape[-1])[None]
            inputs = {"source": z, "w_plus": w, "w_edited": self._edited_code(w), "coordinates": place}

            def one_row(_: Array, other_t: Array, t: int) -> Array:
                level = np.full(1, t, np.float32)
                return self._networks["difference"](latents=other_t, timestep=level, **inputs)["difference"]

            out = sample_difference(one_row, z, self._model.schedule, self._timesteps, noise)
        else:
            scale = self._options.w_scale
            conditions = {
                "source": self._model.condition(w, scale),
                "edited": self._model.condition(self._edited_code(w), scale),
            }
            out = self._denoiser.difference(track, z, lambda t: conditions, FrameInputs())
        whole = bool(self._options.whole)
        draw = self._drawn if self._draws else two_rows(self._model.decode)
        difference, picture = decode_difference(draw, z, out, view.crop, view.mask, whole=whole)
        if view.hidden is None:
            return Answer(difference)
        return Answer(difference, (picture, covered_share(difference) * np.minimum(view.mask, view.hidden)))

    def _drawn(self, z: Array, edited: Array, crop: Array) -> tuple[Array, Array]:
        latents = {"source": np.ascontiguousarray(z), "edited": np.ascontiguousarray(edited)}
        difference = self._networks[DRAWER](**latents, image=np.ascontiguousarray(crop[None]))["difference"][0]
        return difference, crop + difference


def _wanted(spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
    """The networks of a spec, or of one pass of it, which may leave some of the spec's options to the other passes."""
    if told := _text_flags(spec):
        raise EditError(f"the bundle {manifest.name!r} reads no prompts: leave out {told}, or give another --bundle")
    active = [manifest.edits[name] for name, _ in spec.active]
    options, default = read_options(Options, spec), Options()
    if _composition(spec, active) == "replace":
        if (options.rows, options.whole) != (default.rows, default.whole):
            raise EditError("options rows and whole belong to --composition delta: leave them out")
        return *_ALWAYS, "denoiser"
    if spec.sampler is not None:
        raise EditError(f"sampler {spec.sampler!r} belongs to --composition replace: leave it out")
    if all(edit.direction is None for edit in active):
        return ()
    if not _one_row(options, manifest):
        return *_ALWAYS, "denoiser"
    if options.w_scale != default.w_scale:
        raise EditError("option w_scale belongs to the denoiser: leave it out, or give rows=2")
    if DRAWER in manifest.networks:
        return "w_encoder", "vae_encoder", "difference", DRAWER
    return *_ALWAYS, "difference"


def _text_flags(spec: EditSpec) -> str:
    """The flags given that only a network that reads text can heed, as words; empty where there is none."""
    flags = {
        "--prompt": bool(spec.prompt),
        "--negative-prompt": bool(spec.negative_prompt),
        "--guidance-scale": spec.guidance_scale is not None,
    }
    return ", ".join(flag for flag, given in flags.items() if given)


def _one_row(options: Options, manifest: Manifest) -> bool:
    """Whether the difference comes in one row. Raises EditError where that is wanted of a bundle that cannot."""
    if options.rows == 1 and "difference" not in manifest.networks:
        raise EditError(
            f"bundle {manifest.name} has no network 'difference': leave out the option rows, or give rows=2"
        )
    return options.rows != 2 and "difference" in manifest.networks


def _composition(spec: EditSpec, active: list[AttributeEdit]) -> str:
    if spec.composition != "auto":
        return spec.composition
    return "replace" if any(edit.composition == "replace" for edit in active) else "delta"


class _Families:
    """The method, by what the bundle's denoiser is."""

    def is_active(self, spec: EditSpec) -> bool:
        """With an edit whose strength is not 0, or a prompt."""
        return bool(spec.active or spec.prompt) and spec.strength != 0.0

    def networks(self, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """Of the family's."""
        return self._of(manifest).networks(spec, manifest)

    def in_order(self, spec: EditSpec, manifest: Manifest) -> bool:
        """As the family does it."""
        return self._of(manifest).in_order(spec, manifest)

    def regions(self, spec: EditSpec, manifest: Manifest) -> tuple[str, ...]:
        """Of the edits."""
        return self._of(manifest).regions(spec, manifest)

    def __call__(self, spec: EditSpec, bundle: Bundle, networks: Mapping[str, Network]) -> Method:
        """Bind it. Raises EditError for a prompt where no network reads text."""
        return self._of(bundle.manifest)(spec, bundle, networks)

    @staticmethod
    def _of(manifest: Manifest) -> type[WPlus] | type[WPlusAdapter]:
        return WPlusAdapter if "unet" in manifest.networks else WPlus


METHOD = _Families()
