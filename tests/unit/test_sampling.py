"""`Sampling`: its grids, its JSON, its presets and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import BundleError, EditError
from mien.engine.manifest_section import Section
from mien.engine.sampler import sample_steps, step_ddim, step_lcm, step_of, step_tcd
from mien.engine.sampling import PRESETS, Sampling, preset
from mien.engine.schedule import Schedule


@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_through_json(name: str) -> None:
    value = preset(name)
    text = json.dumps(value.to_dict())
    assert Sampling.of(Section.of(json.loads(text), "bundle.json.sampling")) == value
    assert len(value.timesteps()) == value.num_steps


@pytest.mark.parametrize(
    ("name", "steps", "strength", "grid"),
    [
        ("lcm_lora", 4, 1.0, (999, 759, 499, 259)),
        ("lcm_lora", 4, 0.4, (399, 299, 199, 99)),
        ("tcd", 2, 0.5, (499, 259)),
        ("hyper_sd", 4, 1.0, (999, 749, 499, 249)),
        ("hyper_sd", 4, 0.5, (499, 249)),
        ("hyper_sd_1step", 1, 0.5, (499,)),
        ("sd_turbo", 1, 1.0, (999,)),
        ("sd_turbo", 2, 0.5, (499,)),
    ],
)
def test_preset_grids(name: str, steps: int, strength: float, grid: tuple[int, ...]) -> None:
    assert preset(name).timesteps(steps, strength) == grid


def test_published_settings() -> None:
    assert preset("lcm").guidance_embedding and not preset("lcm_lora").guidance_embedding
    assert preset("ddim").timesteps(strength=0.5)[0] == 481 and not preset("ddim").set_alpha_to_one
    assert preset("hyper_sd_1step").gamma == 1.0 and preset("tcd").gamma == 0.3
    assert all(value.guidance_scale == 1.0 for name, value in PRESETS.items() if name not in ("lcm", "ddim"))
    distilled = Sampling("euler", "trailing", "truncate", beta_schedule="linear")
    distilled.check(Schedule("linear"))
    preset("lcm_lora").check(Schedule("linear"))
    with pytest.raises(BundleError, match="give schedule.kind linear"):
        distilled.check(Schedule())


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("strength", [0.1, 0.37, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_subset_runs_all_steps_inside_the_strength(steps: int, strength: float, spacing: Any) -> None:
    grid = Sampling("ddim", spacing, "subset").timesteps(steps, strength)
    assert len(grid) == steps and grid[0] <= 1000 * strength
    assert list(grid) == sorted(set(grid), reverse=True) and grid[-1] >= 0


def test_the_two_strength_rules_differ() -> None:
    assert Sampling(strength_rule="subset").timesteps(4, 0.5) == (499, 379, 259, 139)
    assert Sampling(strength_rule="truncate").timesteps(4, 0.5) == (499, 259)


def test_a_strength_that_floats_fall_short_of() -> None:
    assert int(50 * 0.58) == 28 and Sampling().timesteps(29, 0.58)[0] == 29 * 20 - 1


def test_only_euler_runs_between_levels() -> None:
    assert Sampling("euler", "linspace").timesteps(3) == (999.0, 499.5, 0.0)
    assert Sampling("ddim", "linspace").timesteps(3) == (999, 500, 0)


@pytest.mark.parametrize(
    ("sampling", "steps", "strength", "words"),
    [
        (Sampling(), 8, 0.1, "give at most 5 steps or a strength of at least 0.16"),
        (Sampling(), 1, 0.01, "levels; give a strength of at least 0.02"),
        (Sampling(), 51, 1.0, "accepted: 1 to 50"),
        (Sampling(), 0, 1.0, "0 steps are impossible"),
        (Sampling(strength_rule="truncate"), 4, 0.2, "at least 5 steps or a strength of at least 0.25"),
        (preset("sd_turbo"), 1, 0.5, "at least 2 steps or a strength of at least 1"),
        (preset("hyper_sd"), 3, 0.3, "at least 4 steps or a strength of at least 0.3333"),
        (Sampling("ddim", "trailing"), 50, 0.01, "at most 10 steps or a strength of at least 0.05"),
        (Sampling("ddim", "leading"), 1000, 1.0, "give fewer steps"),
        (Sampling("ddim", "trailing"), 1001, 1.0, "at most 1000 steps"),
        (Sampling(), 4, 0.0, "above 0, up to 1"),
        (Sampling(), 4, 1.5, "above 0, up to 1"),
    ],
)
def test_where_no_step_is_left_it_says_what_to_change(
    sampling: Sampling, steps: int, strength: float, words: str
) -> None:
    with pytest.raises(EditError, match=words):
        sampling.timesteps(steps, strength)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampler": "dim"}, "did you mean 'ddim'"),
        ({"spacing": "even"}, "lcm, leading, trailing, linspace"),
        ({"strength_rule": "cut"}, "subset, truncate"),
        ({"beta_schedule": "squared"}, "scaled_linear, linear, cosine"),
        ({"gamma": 0.3}, "gamma is 0.3; accepted with sampler lcm: 0 to 0"),
        ({"sampler": "tcd", "gamma": 1.1}, "0 to 1"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(EditError, match=words):
        Sampling(**values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "heun"}, "sampling.sampler is 'heun', it must be one of lcm"),
        ({"gamma": 0.3}, "sampling: gamma is 0.3"),
        ({"guidance_embedding": 1}, "true or false"),
        ({"karras": True}, "'karras' is unknown"),
    ],
)
def test_wrong_manifests_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Sampling.of(Section.of(Sampling().to_dict() | change, "bundle.json.sampling"))
    values = Sampling().to_dict()
    del values["spacing"]
    with pytest.raises(BundleError, match="'spacing' is missing"):
        Sampling.of(Section.of(values, "bundle.json.sampling"))


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(EditError, match="did you mean 'sd_turbo'"):
        preset("sdturbo")


def test_step_of_takes_the_fields() -> None:
    schedule, (x, *noise) = Schedule(), np.random.default_rng(0).standard_normal((4, 1, 4, 6, 5))
    grid = (999, 749, 499)

    def denoiser(x: Any, t: float) -> Any:
        return np.tanh(x) * (1 - t / 2000)

    steps = {
        Sampling(): step_lcm,
        Sampling("tcd", gamma=0.7): partial(step_tcd, gamma=0.7),
        Sampling("ddim"): step_ddim,
        Sampling("euler"): step_ddim,
        Sampling("ddim", set_alpha_to_one=False): partial(step_ddim, final=0),
    }
    wanted = {key: sample_steps(step, denoiser, x, schedule, grid, noise) for key, step in steps.items()}
    for sampling, answer in wanted.items():
        got = sample_steps(step_of(sampling), denoiser, x, schedule, grid, noise)
        np.testing.assert_array_equal(got, answer)
    assert np.abs(wanted[Sampling("ddim")] - wanted[Sampling("ddim", set_alpha_to_one=False)]).max() > 1e-3
