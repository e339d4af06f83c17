"""`Sampling`: how a few-step checkpoint is to be sampled, as data of its bundle, and the published settings by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from mien.engine.errors import BundleError, EditError
from mien.engine.manifest_section import Section
from mien.engine.schedule import (
    BetaKind,
    Schedule,
    lcm_timesteps,
    leading_timesteps,
    linspace_timesteps,
    trailing_timesteps,
    truncate,
)
from mien.engine.spec import nearest

Sampler = Literal["lcm", "tcd", "ddim", "euler"]
Spacing = Literal["lcm", "leading", "trailing", "linspace"]
StrengthRule = Literal["subset", "truncate"]
_SAMPLERS: tuple[Sampler, ...] = ("lcm", "tcd", "ddim", "euler")
_SPACINGS: tuple[Spacing, ...] = ("lcm", "leading", "trailing", "linspace")
_RULES: tuple[StrengthRule, ...] = ("subset", "truncate")
_BETAS: tuple[BetaKind, ...] = ("scaled_linear", "linear", "cosine")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every field is a JSON type.

    spacing: the grid of timesteps; `lcm` is the distillation's, of origin_steps levels. steps_offset: of `leading` alone.
    strength_rule: `subset` runs all the steps inside [0, strength], as LCM's pipeline does; `truncate` runs the last
    min(int(n strength), n) of the n steps of strength 1, as the ordinary img2img pipelines do.
    gamma: of `tcd`, in [0, 1], 0 deterministic; diffusers calls it eta. set_alpha_to_one: of `ddim` and `euler`, whether the
    last step leads to the clean picture (diffusers' final_sigmas_type zero) or to level 0, with 3 % of noise.
    guidance_scale: the default, 1 for none (where published pipelines also write 0). guidance_embedding: whether the UNet
    takes w = guidance_scale - 1 as an input and runs once, in place of two evaluations (see sd_blocks.guidance_embedding).
    num_steps: the default. beta_schedule: the one it was distilled on and is bound to, None for any.
    Raises EditError for a value out of range.
    """

    sampler: Sampler = "lcm"
    spacing: Spacing = "lcm"
    strength_rule: StrengthRule = "subset"
    num_steps: int = 4
    guidance_scale: float = 1.0
    guidance_embedding: bool = False
    gamma: float = 0.0
    set_alpha_to_one: bool = True
    steps_offset: int = 1
    origin_steps: int = 50
    beta_schedule: BetaKind | None = None

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, object, tuple[str, ...]], ...] = (
            ("sampler", self.sampler, _SAMPLERS),
            ("spacing", self.spacing, _SPACINGS),
            ("strength_rule", self.strength_rule, _RULES),
            ("beta_schedule", self.beta_schedule or _BETAS[0], _BETAS),
        )
        for key, value, accepted in choices:
            if value not in accepted:
                raise EditError(f"{key} is {value!r}; accepted: {', '.join(accepted)}{nearest(str(value), accepted)}")
        numbers = (
            ("num_steps", self.num_steps, 1, 1000),
            ("guidance_scale", self.guidance_scale, 1, 100),
            ("gamma", self.gamma, 0, 1 if self.sampler == "tcd" else 0),
            ("steps_offset", self.steps_offset, 0, 999),
            ("origin_steps", self.origin_steps, 1, 1000),
        )
        for key, number, low, high in numbers:
            if not low <= number <= high:
                raise EditError(f"{key} is {number:g}; accepted with sampler {self.sampler}: {low} to {high}")

    def timesteps(
        self, num_steps: int | None = None, strength: float = 1.0, num_timesteps: int = 1000
    ) -> tuple[float, ...]:
        """The levels where the denoiser runs, descending; whole but for `euler` with `linspace`.

        num_steps: None for the default. strength: in (0, 1]. Raises EditError where no step is left, or the grid has too few.
        """
        n = self.num_steps if num_steps is None else num_steps
        if not 0.0 < strength <= 1.0:
            raise EditError(f"strength is {strength:g}; accepted: above 0, up to 1")
        if self.strength_rule == "truncate":
            return truncate(self._grid(n, num_timesteps), strength)
        if self.spacing == "lcm":
            return lcm_timesteps(n, strength, self.origin_steps, num_timesteps)
        whole = math.ceil(n / strength - 1e-9)  # the last n of so many are the first to lie inside [0, strength]
        if whole > num_timesteps:
            raise EditError(
                f"{n} steps at strength {strength:g} are more than the levels there are; give at most"
                f" {int(num_timesteps * strength)} steps or a strength of at least {n / num_timesteps:g}"
            )
        return self._grid(whole, num_timesteps)[-n:]

    def _grid(self, n: int, num_timesteps: int) -> tuple[float, ...]:
        if self.spacing == "lcm":
            return lcm_timesteps(n, 1.0, self.origin_steps, num_timesteps)
        if self.spacing == "leading":
            return leading_timesteps(n, num_timesteps, self.steps_offset)
        if self.spacing == "trailing":
            return trailing_timesteps(n, num_timesteps)
        grid = linspace_timesteps(n, num_timesteps)
        return grid if self.sampler == "euler" else tuple(round(t) for t in grid)

    def check(self, schedule: Schedule) -> None:
        """Raise BundleError where the schedule has other betas than the checkpoint was distilled on."""
        if self.beta_schedule not in (None, schedule.kind):
            raise BundleError(
                f"the schedule's betas are {schedule.kind}, but this sampling needs {self.beta_schedule}:"
                f" give schedule.kind {self.beta_schedule}, or another sampling"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `of` reads them back to an equal value."""
        return asdict(self)

    @classmethod
    def of(cls, section: Section) -> Sampling:
        """From a manifest's section, where every key must be. Raises BundleError naming key, value and what fits."""
        betas = section.optional_string("beta_schedule")
        try:
            value = cls(
                sampler=section.choice("sampler", _SAMPLERS),
                spacing=section.choice("spacing", _SPACINGS),
                strength_rule=section.choice("strength_rule", _RULES),
                num_steps=section.integer("num_steps"),
                guidance_scale=section.number("guidance_scale"),
                guidance_embedding=section.flag("guidance_embedding"),
                gamma=section.number("gamma"),
                set_alpha_to_one=section.flag("set_alpha_to_one"),
                steps_offset=section.integer("steps_offset"),
                origin_steps=section.integer("origin_steps"),
                beta_schedule=None if betas is None else section.choice("beta_schedule", _BETAS),
            )
        except EditError as error:
            raise BundleError(f"{section.where}: {error}") from None
        section.finish()
        return value


PRESETS: Mapping[str, Sampling] = MappingProxyType(
    {
        # Luo et al. 2023, 2310.04378: a whole UNet with an embedding of the guidance.
        "lcm": Sampling(guidance_scale=8.5, guidance_embedding=True),
        # Luo et al. 2023, 2311.05556.
        "lcm_lora": Sampling(),
        # Zheng et al. 2024, 2402.19159.
        "tcd": Sampling("tcd", gamma=0.3),
        # Ren et al. 2024, 2404.13686: the LoRA of N steps, ending as Stable Diffusion 1.5's own scheduler does, and the
        # unified one for 1.
        "hyper_sd": Sampling("ddim", "trailing", "truncate", set_alpha_to_one=False),
        "hyper_sd_1step": Sampling("tcd", num_steps=1, gamma=1.0),
        # Sauer et al. 2023, 2311.17042; num_steps * strength must reach 1.
        "sd_turbo": Sampling("euler", "trailing", "truncate", num_steps=2),
        # Song et al. 2021, as Stable Diffusion 1.5's pipelines set it.
        "ddim": Sampling("ddim", "leading", "truncate", num_steps=50, guidance_scale=7.5, set_alpha_to_one=False),
    }
)


def preset(name: str) -> Sampling:
    """One of PRESETS. Raises EditError for another name."""
    if name not in PRESETS:
        raise EditError(f"sampling {name!r} is unknown{nearest(name, PRESETS)}; accepted: {', '.join(PRESETS)}")
    return PRESETS[name]
