"""`consistency_step` in Triton against its definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mien.kernels.consistency_step import consistency_step as public
from mien.kernels.consistency_step import consistency_step_ref
from mien.kernels.gpu.consistency_step import consistency_step

TOLERANCES = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCES)
SHAPES = [(1, 4, 1, 1), (3, 4, 5, 7), (1, 5, 33, 9)]


def draw(rows: int, predictions: int, shape: tuple[int, ...], device: str = "cpu") -> tuple[Tensor, ...]:
    """prediction, x, noise, coefficients."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((predictions, *shape), (rows, *shape), (rows, *shape), (rows, 5))
    return tuple(torch.randn(size, generator=generator, device=device) for size in shapes)


def guided(rows: int, conditions: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """weights, and rows in no order."""
    generator = torch.Generator(device).manual_seed(1)
    weights = torch.randn(rows, conditions, generator=generator, device=device)
    order = torch.randperm(rows * conditions, generator=generator, device=device).int()
    return weights / weights.sum(1, keepdim=True), order.reshape(rows, conditions)


def near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert float((got.double() - want).abs().max()) <= tolerance * float(want.abs().max())


def compare(operation: Any, shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype], device: str) -> None:
    """Guided and not, with rows in order and not."""
    for conditions in (0, 1, 2, 3):
        prediction, x, noise, table = draw(shape[0], shape[0] * max(conditions, 1), shape[1:], device)
        prediction, x, noise = prediction.to(dtypes[0]), x.to(dtypes[1]), noise.to(dtypes[1])
        weights, order = guided(shape[0], conditions, device) if conditions else (None, None)
        for rows in (None, order):
            clean = torch.empty_like(x)
            got = operation(prediction, x, noise, table, weights, rows, x0_out=clean)
            want, want_clean = consistency_step_ref(prediction, x, noise, table, weights, rows)
            assert got.dtype == x.dtype
            near(got, want, TOLERANCES[dtypes[1]])
            near(clean, want_clean, TOLERANCES[dtypes[1]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtypes", [*((dtype, dtype) for dtype in DTYPES), (torch.float16, torch.float32)])
def test_equals_the_definition(dtypes: tuple[torch.dtype, torch.dtype], shape: tuple[int, ...]) -> None:
    compare(consistency_step, shape, dtypes, "cpu")


def test_any_strides_and_one_noise_for_all_rows() -> None:
    prediction, x, noise, table = draw(3, 3, (4, 6, 10))
    last = prediction.contiguous(memory_format=torch.channels_last)
    wide = torch.cat([table, table], 1)
    want, _ = consistency_step_ref(prediction, x, noise[:1].expand(3, -1, -1, -1), table)
    near(consistency_step(last, x, noise[:1].expand(3, -1, -1, -1), wide[:, 5:]), want, 1e-6)
    want, _ = consistency_step_ref(prediction[..., 2:7], x[..., 1:6], noise.transpose(2, 3)[:, :, :6, :5], table)
    near(consistency_step(last[..., 2:7], x[..., 1:6], noise.transpose(2, 3)[:, :, :6, :5], table), want, 1e-6)
    assert not len(consistency_step(prediction[:0], x[:0], noise[:0], table[:0]))


def test_writes_into_what_it_is_given() -> None:
    prediction, x, noise, table = draw(2, 2, (4, 6, 10))
    want = consistency_step(prediction, x, noise, table)
    out = x.contiguous(memory_format=torch.channels_last)
    assert consistency_step(prediction, out, noise, table, out=out) is out
    assert torch.equal(out, want)
    with pytest.raises(ValueError, match="x0_out must be a whole picture"):
        consistency_step(prediction, x, noise, table, x0_out=torch.empty(2, 4, 6, 20)[..., :10])


def test_a_row_does_not_depend_on_the_others() -> None:
    prediction, x, noise, table = draw(3, 3, (4, 6, 10))
    alone = consistency_step(prediction[1:2], x[1:2], noise[1:2], table[1:2])
    for tensor in (prediction, x, noise, table):
        tensor[0], tensor[2] = torch.nan, torch.nan
    assert torch.equal(consistency_step(prediction, x, noise, table)[1:2], alone)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 4, 64, 64), (8, 4, 64, 64), (3, 4, 33, 9), (2, 16, 24, 40)])
@pytest.mark.parametrize("dtypes", [*((dtype, dtype) for dtype in DTYPES), (torch.float16, torch.float32)])
def test_equals_the_definition_on_a_gpu(dtypes: tuple[torch.dtype, torch.dtype], shape: tuple[int, ...]) -> None:
    compare(public, shape, dtypes, "cuda")


@pytest.mark.gpu
def test_is_captured_in_a_graph_without_allocating() -> None:
    """Replayed with another step's coefficients and weights in the same tensors, and with x as the answer."""
    prediction, x, noise, table = draw(4, 8, (4, 64, 64), "cuda")
    weights, order = guided(4, 2, "cuda")
    prediction = prediction.half().contiguous(memory_format=torch.channels_last)
    start = x.clone()
    public(prediction, x, noise, table, weights, order, out=x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    public(prediction, x, noise, table, weights, order, out=x)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        public(prediction, x, noise, table, weights, order, out=x)
    for tensor, value in ((x, start), (table, table.flip(0)), (order, order.flip(1))):
        tensor.copy_(value)
    want, _ = consistency_step_ref(prediction, x, noise, table, weights, order)
    graph.replay()
    near(x, want, TOLERANCES[torch.float32])
