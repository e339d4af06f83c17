"""One pass against the sampler's steps and the guidance's mixing, which know nothing of each other; and the CPU path's choices."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.engine.guidance import cfg_weights, dual_weights, mix
from mien.engine.sampler import Step, step_ddim, step_lcm, step_tcd
from mien.engine.schedule import Prediction, Schedule
from mien.kernels.consistency_step import consistency_step, consistency_step_ref, step_coefficients

SCHEDULE = Schedule()
SHAPE = (4, 3, 5)
# Sampler, timestep, target of the next: those of one batch.
ROWS: tuple[tuple[Step, float, float | None], ...] = (
    (step_lcm, 999, 499),
    (step_lcm, 19, None),
    (partial(step_tcd, gamma=0.3), 759, 259),
    (partial(step_tcd, gamma=0.0), 499, 99),
    (partial(step_tcd, gamma=1.0), 259, None),
    (step_ddim, 601, 301),
    (partial(step_ddim, final=0), 201, None),
    (step_ddim, 333.5, 166.25),
)


def coefficients(kind: Prediction) -> Tensor:
    rows = []
    for step, t, target in ROWS:
        to_x0 = partial(SCHEDULE.to_x0, t=t, prediction=kind)
        rows.append(step_coefficients(to_x0, lambda x0, x, n, s=step, t=t, to=target: s(SCHEDULE, x0, x, t, to, n)))
    return torch.tensor(rows, dtype=torch.float32)


def draw(seed: int, rows: int) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, *SHAPE)).astype(np.float32)


def near(got: Tensor, want: Any, tolerance: float = 2e-6) -> None:
    want = np.asarray(want, np.float64)
    assert np.abs(got.double().numpy() - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weights", [cfg_weights(1.0), cfg_weights(7.5), dual_weights(7.5, 1.5)], ids=["1", "2", "3"])
def test_equals_the_sampler_and_the_guidance(kind: Prediction, weights: dict[str, float]) -> None:
    """Rows of eight samplers and timesteps in one batch, each against its own step on numpy arrays."""
    n, names = len(ROWS), tuple(weights)
    x, noise, answers = draw(0, n), draw(1, n), draw(2, n * len(names))
    next_x, x0 = [], []
    for i, (step, t, target) in enumerate(ROWS):

        def branches(x: Any, t: float, names: tuple[str, ...], i: int = i) -> Any:
            mine = answers[i::n]
            return np.concatenate([SCHEDULE.to_x0(mine[k : k + 1], x, t, kind) for k in range(len(names))])

        here = x[i : i + 1].astype(np.float64)
        x0.append(mix(branches, weights)(here, t))
        next_x.append(step(SCHEDULE, x0[-1], here, t, target, noise[i : i + 1]))
    given = [torch.from_numpy(array) for array in (answers, x, noise)]
    shares = torch.tensor([list(weights.values())] * n, dtype=torch.float32)
    clean = torch.empty_like(given[1])
    got = consistency_step(*given, coefficients(kind), shares, x0_out=clean)
    for i in range(n):
        near(got[i], next_x[i][0])
        near(clean[i], x0[i][0])
    ref, ref_clean = consistency_step_ref(*given, coefficients(kind), shares)
    near(got, ref.numpy())
    near(clean, ref_clean.numpy())


def test_a_row_names_its_predictions() -> None:
    """Blocks of rows are the rows in that order; a row with fewer conditions names one of its own twice."""
    n = len(ROWS)
    x, noise, answers = (torch.from_numpy(draw(seed, rows)) for seed, rows in ((3, n), (4, n), (5, 2 * n)))
    table, weights = coefficients("epsilon"), torch.tensor([[-6.5, 7.5]]).repeat(n, 1)
    order = torch.arange(2 * n, dtype=torch.int32).reshape(2, n).T
    want = consistency_step(answers, x, noise, table, weights)
    torch.testing.assert_close(consistency_step(answers, x, noise, table, weights, order), want, rtol=0, atol=0)
    shuffled = torch.randperm(2 * n)
    where = torch.argsort(shuffled).int()[order.long()]
    torch.testing.assert_close(
        consistency_step(answers[shuffled], x, noise, table, weights, where), want, rtol=0, atol=0
    )
    where[2], weights[2] = where[2, 1], torch.tensor([0.0, 1.0])
    alone = consistency_step(answers[shuffled], x, noise, table, weights, where)[2]
    torch.testing.assert_close(alone, consistency_step(answers[n:], x, noise, table)[2])


def test_writes_into_what_it_is_given() -> None:
    n = len(ROWS)
    x, noise, answers = (torch.from_numpy(draw(seed, n)) for seed in (6, 7, 8))
    want = consistency_step(answers, x, noise, coefficients("epsilon"))
    out = x.clone()
    assert consistency_step(answers, out, noise, coefficients("epsilon"), out=out) is out
    torch.testing.assert_close(out, want, rtol=0, atol=0)
    halves = (answers.half(), x.half(), noise.half(), coefficients("epsilon"))
    got = consistency_step(*halves)
    assert got.dtype == torch.float16
    near(got, consistency_step_ref(*halves)[0].numpy(), 5e-4)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        (
            "prediction",
            torch.zeros(3, 4, 3, 5),
            "must be float16 or bfloat16 or float32 or float64 (2, 4, 3, 5) on cpu",
        ),
        ("noise", torch.zeros(1, 4, 3, 5), "noise must be"),
        ("coefficients", torch.zeros(2, 4), "coefficients must be float32 (2, 5)"),
        ("coefficients", torch.zeros(2, 5, dtype=torch.float64), "coefficients must be float32"),
        ("weights", torch.zeros(2, 0), "K of 1 or more"),
        ("rows", torch.zeros(2, 1, dtype=torch.int32), "rows without weights"),
        ("out", torch.zeros(2, 4, 3, 5, dtype=torch.float16), "out must be float32"),
        ("x", torch.zeros(4, 3, 5), "x must be"),
    ],
)
def test_refuses(name: str, value: Tensor, word: str) -> None:
    given = {key: torch.zeros(2, *SHAPE) for key in ("prediction", "x", "noise")} | {"coefficients": torch.zeros(2, 5)}
    consistency_step(**given)
    with pytest.raises(ValueError, match=re.escape(word)):
        consistency_step(**{**given, name: value})
