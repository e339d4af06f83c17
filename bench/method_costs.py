"""What each method costs a frame and keeps of a track, beside plain partial denoising of the same UNet.

    python -m mien.bench.method_costs --bundle NAME_OR_FOLDER [--frames 6] [--steps 2] [--crop 256]

The bundle is an imported one; weights do not matter for it, and random ones are fine. Frames are made-up crops. Methods run in
turns, frame by frame, and the median counts: encode, denoise and decode, not the placing of faces. Memory is all that a track
keeps: noise, code, keys and values, conditions.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np

from mien.bench.ablation_variants import held_bytes
from mien.engine import edits as methods
from mien.engine.backend import Network, select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.edits import Method, View
from mien.engine.edits.controlnet import prompted
from mien.engine.errors import EditError
from mien.engine.guidance import cfg_weights
from mien.engine.prompt_edit import NETWORKS, PromptEdit, Recipe, bind_model, in_channels
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack

PLAIN = "partial denoising"
PROMPT = "a person"


@dataclass(slots=True)
class Cost:
    """Of one method: seconds by frame, and what its track holds in the end."""

    method: Method
    track: FaceTrack = field(default_factory=lambda: FaceTrack(0))
    seconds: list[float] = field(default_factory=list)

    def run(self, view: View) -> None:
        """One frame more."""
        begin = time.perf_counter()
        if self.method.wants_code() and not self.track.w_count:
            self.method.encode(self.track, view.crop)
        self.method.finish(self.track, view)
        self.seconds.append(time.perf_counter() - begin)


def specs(bundle: Bundle) -> dict[str, EditSpec]:
    """A spec for every method that the bundle can do, by name."""
    wanted: dict[str, EditSpec] = {}
    for name in methods.names():
        edits = tuple((edit, 1.0) for edit in list(bundle.edits)[:1]) if name == "wplus" else ()
        options: dict[str, dict[str, float | str]] = {"": {}}
        if name == "wplus":
            options |= {"extended": {"extended": 1.0}}
        if name == "text2video_zero" and "controlnet" in bundle.networks:
            options |= {"canny": {"control": "canny"}}
        if name == "controlnet":
            options |= {"residual_cfg": {"residual_cfg": "self"}}
        for label, chosen in options.items():
            spec = EditSpec(method=name, prompt=PROMPT, edits=edits, options=tuple(chosen.items()), guidance_scale=2.0)
            try:
                methods.load(name).networks(spec, bundle.manifest)
            except EditError:
                continue
            wanted[f"{name} {label}".strip()] = spec
    return wanted


def plain(bundle: Bundle, networks: dict[str, Network], steps: int, crop_px: int) -> PromptEdit:
    """Partial denoising under a prompt, frame by frame."""
    spec = EditSpec(prompt=PROMPT, num_steps=steps, crop_px=crop_px, guidance_scale=2.0)
    model = bind_model(bundle, {name: networks[name] for name in NETWORKS})
    conditions = prompted(model, spec, 2.0, "")
    return PromptEdit(
        spec, bundle.manifest, model, Recipe(cfg_weights(2.0), {"source": 1.0}, lambda track, t: conditions)
    )


def views(count: int, crop_px: int) -> list[View]:
    """Made-up crops that differ."""
    rng = np.random.default_rng(0)
    mask: Array = np.ones((crop_px, crop_px), np.float32)
    pictures = rng.uniform(-1, 1, (count, 3, crop_px, crop_px)).astype(np.float32)
    return [View(picture, mask, rng.uniform(0.3, 0.7, (68, 2)) * crop_px) for picture in pictures]


def measure(bundle: Bundle, config: EngineConfig, frames: int, steps: int, crop_px: int) -> dict[str, Cost]:
    """Every method on the same frames, in turns. Raises EditError for a bundle without a UNet that a prompt suffices for."""
    if "unet" not in bundle.networks:
        raise EditError(f"the bundle {bundle.name!r} has no UNet: give one made by mien models import")
    networks = {
        name: bundle.load(name, select(config, spec.format).backend, config) for name, spec in bundle.networks.items()
    }
    costs = {PLAIN: Cost(plain(bundle, networks, steps, crop_px))} if in_channels(bundle.manifest) == 4 else {}
    for name, spec in specs(bundle).items():
        whole = EditSpec.from_dict(spec.to_dict() | {"num_steps": steps, "crop_px": crop_px})
        method = methods.load(spec.method)
        wanted = (*method.networks(whole, bundle.manifest), "parser")
        costs[name] = Cost(method(whole, bundle, {n: networks[n] for n in wanted}))
    for view in views(frames + 1, crop_px):
        for cost in costs.values():
            cost.run(view)
    return costs


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m mien.bench.method_costs", description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    config = EngineConfig(device=args.device, threads=args.threads)
    costs = measure(Bundle.open(args.bundle), config, args.frames, args.steps, args.crop)
    base = np.median(next(iter(costs.values())).seconds[1:])
    print(f"{'method':28} {'ms a frame':>12} {'of the first':>14} {'kept a track':>14}")
    for name, cost in costs.items():
        seconds = float(np.median(cost.seconds[1:]))
        print(f"{name:28} {1000 * seconds:12.1f} {seconds / base:14.2f} {held_bytes(cost.track) / 2**20:11.2f} MB")


if __name__ == "__main__":
    main()
