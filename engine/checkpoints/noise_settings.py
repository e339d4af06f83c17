"""The noise schedule, the prediction and the sampling of an imported UNet, from its scheduler's config and what the user says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.engine.checkpoints.family import prediction_type
from mien.engine.checkpoints.sources import PREDICTIONS, Settings
from mien.engine.errors import BundleError
from mien.engine.manifest import ScheduleSpec
from mien.engine.networks.sd_layout import Layout
from mien.engine.sampling import Sampling, preset
from mien.engine.schedule import Schedule

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}


def schedule_of(scheduler: Mapping[str, Any], source: str) -> ScheduleSpec:
    """The schedule a scheduler_config.json asks for; {} for Stable Diffusion's. Raises BundleError."""
    known = {**STABLE_DIFFUSION, **{key: value for key, value in scheduler.items() if value is not None}}
    kind = known["beta_schedule"]
    if kind not in ("scaled_linear", "linear"):
        raise BundleError(f"{source}: beta_schedule is {kind!r}; accepted: scaled_linear, linear")
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if scheduler.get(key):
            raise BundleError(f"{source}: {key} is set: mien has schedules of beta_start and beta_end alone")
    numbers = [known[key] for key in ("beta_start", "beta_end", "num_train_timesteps")]
    if not all(isinstance(number, int | float) and number > 0 for number in numbers):
        raise BundleError(f"{source}: beta_start, beta_end and num_train_timesteps are {numbers}, not numbers above 0")
    return ScheduleSpec(kind, float(numbers[0]), float(numbers[1]), int(numbers[2]))


def prediction_of(settings: Settings, scheduler: Mapping[str, Any], layout: Layout, source: str) -> str:
    """What the UNet predicts: as told, as its scheduler's config says, or as every SD1.x does. Raises BundleError."""
    if settings.prediction is not None:
        return settings.prediction
    if scheduler:
        named = scheduler.get("prediction_type", "epsilon")  # what diffusers takes where it is absent
        if named not in PREDICTIONS:
            raise BundleError(f"{source}: prediction_type is {named!r}; accepted: {', '.join(PREDICTIONS)}")
        return str(named)
    told = prediction_type({"cross_attention_dim": layout.cross_attention_dim})
    if told == "unknown":
        raise BundleError(
            f"{source} does not tell whether it predicts the noise or v, as the 512 px and the 768 px model of SD2.1 do: give"
            " --prediction epsilon or v_prediction"
        )
    return told


def sampling_of(settings: Settings, schedule: ScheduleSpec, layout: Layout) -> tuple[str, Sampling]:
    """The sampling's name and value. Raises BundleError, EditError where it does not fit the UNet or the schedule."""
    guided = layout.time_cond_proj_dim is not None
    name = settings.sampling or ("lcm" if guided else "ddim")
    sampling = preset(name)
    if sampling.guidance_embedding and not guided:
        raise BundleError(
            f"--sampling {name} is for a whole LCM UNet, this one has no guidance embedding: see lcm_lora"
        )
    if guided and not sampling.guidance_embedding:
        raise BundleError(f"--sampling {name} does not fit: this UNet has a guidance embedding, give --sampling lcm")
    sampling.check(Schedule(schedule.kind, schedule.beta_start, schedule.beta_end, schedule.num_timesteps))
    return name, sampling
