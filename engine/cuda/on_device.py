"""Whether a lane can do what a spec asks of a bundle, and the lane of a CUDA device that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.engine.clock import Clock
from mien.engine.config import EngineConfig
from mien.engine.cuda.device import TorchCuda, seconds_of
from mien.engine.cuda.face_edit import BATCHES, PARTS, LaneEdit
from mien.engine.cuda.float8_trial import Float8Trial
from mien.engine.cuda.graphs import Graphs
from mien.engine.cuda.streams import CudaStreams
from mien.engine.face.mask import GRID_PX
from mien.engine.manifest import Manifest
from mien.engine.prompt_edit import PromptEdit, alone
from mien.engine.spec import EditSpec


def on_device(
    config: EngineConfig,
    spec: EditSpec,
    manifest: Manifest,
    method: object,
    regions: tuple[str, ...],
    networks: Mapping[str, Any],
    crop_px: int,
    clock: Clock,
) -> LaneEdit | str:
    """What edits on a CUDA device as `config` says; or why no lane can, in words. networks: by name, of the torch backend."""
    why = why_not(spec, manifest, method, crop_px)
    if why is not None or not isinstance(method, PromptEdit):
        return why or ""
    parts = {name: networks[name].module for name in PARTS}
    return LaneEdit(
        spec,
        manifest,
        method,
        regions,
        parts,
        crop_px,
        clock,
        CudaStreams(config.device),
        batches=config.batch_sizes if config.batch_size > 1 else BATCHES,
        threads=config.num_threads,
        new_graphs=None if config.execution == "eager" else lambda: Graphs(TorchCuda(config.device)),
        compiles=config.execution == "compiled",
        trial=Float8Trial(parts["unet"], seconds_of) if config.precision == "float8" else None,
    )


def why_not(spec: EditSpec, manifest: Manifest, method: object, crop_px: int) -> str | None:
    """None where a lane does what the method does; else what it cannot do, in words."""
    if not isinstance(method, PromptEdit):
        return f"method {spec.method!r} has no denoiser of the SD family here"
    wishes = method.wishes
    edits = [manifest.edits[name] for name, _ in spec.active]
    cannot = {
        "what a frame shows beside its latents (a ControlNet, depth, an image to instruct)": method.recipe.frame
        is not alone,
        "residual_cfg": wishes.residual != "none",
        "similarity": bool(method.recipe.thrift.similarity),
        "guided_update": wishes.guided,
        "motion": wishes.motion is not None,
        "blend poisson": spec.blend == "poisson",
        "edits that move landmarks": any(edit.moves for edit in edits),
        "edits that hide what was there": any(edit.hides for edit in edits),
        f"crops of less than {GRID_PX} pixels": crop_px < GRID_PX,
    }
    return next((f"the lane has no {what}" for what, is_asked in cannot.items() if is_asked), None)
