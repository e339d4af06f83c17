"""`group_norm_silu` in Triton against its definition in float64, in one launch and in two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mien.kernels.gpu import group_norm_silu as triton_path
from mien.kernels.gpu.group_norm_silu import group_norm_silu, workspace_size
from mien.kernels.group_norm_silu import group_norm_silu as public
from mien.kernels.group_norm_silu import group_norm_silu_ref

# numpy says so of the exponential in the SiLU of a very negative number, which is 0 all the same.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")

TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCES)
# Rows, channels, groups, height, width.
WEIRD = [(1, 40, 4, 3, 5), (3, 12, 2, 1, 3), (1, 24, 2, 5, 41), (1, 7, 7, 1, 1), (3, 6, 2, 5, 1), (1, 130, 1, 2, 2)]
SD15 = [
    (1, 320, 64),
    (8, 320, 64),
    (2, 960, 64),
    (1, 1920, 32),
    (3, 640, 32),
    (1, 1280, 16),
    (8, 2560, 8),
    (1, 1280, 8),
]


@pytest.fixture(params=["one launch", "two launches"])
def launches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways for any shape, with tiles so small that the loops over pixels turn more than once."""
    monkeypatch.setattr(triton_path, "GROUP_ELEMENTS", 1 << 30 if request.param == "one launch" else 0)
    monkeypatch.setattr(triton_path, "GROUP_TILE", 1024)
    monkeypatch.setattr(triton_path, "SPLIT_TILE", 2048)
    monkeypatch.setattr(triton_path, "_most_chunks", lambda n_pixels: 4)
    return str(request.param)


def draw(rows: int, channels: int, height: int, width: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """x, weight, bias, shift."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((rows, channels, height, width), (channels,), (channels,), (rows, channels))
    x, *others = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
    return [tensor.to(dtype) for tensor in (2 * x + 1, *others)]


def near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape and bool(got.isfinite().all())
    assert float((got.double() - want).abs().max()) <= tolerance * max(float(want.abs().max()), 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", WEIRD)
def test_equals_the_definition(launches: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, channels, groups, height, width = shape
    x, weight, bias, shift = draw(rows, channels, height, width, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    for with_shift, silu in ((shift, True), (None, False)):
        got = group_norm_silu(x, groups, weight, bias, 1e-5, shift=with_shift, silu=silu)
        assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
        near(got, group_norm_silu_ref(x, groups, weight, bias, 1e-5, shift=with_shift, silu=silu), TOLERANCES[dtype])


def test_any_strides(launches: str) -> None:
    x, weight, bias, shift = draw(4, 24, 3, 10, torch.float32)
    last = x.contiguous(memory_format=torch.channels_last)
    wide = torch.cat([shift, shift + 9], 1)
    for part in (x, last[1::2], last[:2, 8:20], last[:2, :, :, 2:7], x[:2].transpose(2, 3)):
        n = part.shape[1]
        moved = wide[: len(part), 24 : 24 + n]  # as a part of one projection for all blocks
        got = group_norm_silu(part, 2, weight[:n], bias[:n], shift=moved)
        assert got.is_contiguous(memory_format=torch.channels_last)
        near(got, group_norm_silu_ref(part, 2, weight[:n], bias[:n], shift=moved), 2e-6)
    shared = shift[:1].expand(4, -1)
    near(
        group_norm_silu(x, 2, weight, bias, shift=shared),
        group_norm_silu_ref(x, 2, weight, bias, shift=shared),
        2e-6,
    )


def test_a_mean_far_above_the_deviation_costs_no_digits(launches: str) -> None:
    x, weight, bias, shift = draw(1, 12, 5, 9, torch.float32)
    near(group_norm_silu(x + 3000, 3, weight, bias), group_norm_silu_ref(x + 3000, 3, weight, bias), 2e-4)
    near(
        group_norm_silu(x, 3, weight, bias, shift=shift + 3000),
        group_norm_silu_ref(x, 3, weight, bias, shift=shift + 3000),
        5e-4,
    )
    flat = torch.full_like(x, 3000.1)
    near(group_norm_silu(flat, 3, weight, bias, silu=False), bias.double()[:, None, None].expand(x.shape), 1e-6)


def test_a_row_does_not_depend_on_the_others(launches: str) -> None:
    x, weight, bias, shift = draw(2, 20, 3, 11, torch.float16)
    together = group_norm_silu(x, 4, weight, bias, shift=shift)
    x[0] = torch.nan
    assert torch.equal(group_norm_silu(x[1:], 4, weight, bias, shift=shift[1:]), together[1:])
    assert torch.equal(group_norm_silu(x, 4, weight, bias, shift=shift)[1:], together[1:])


def test_writes_into_what_it_is_given(launches: str) -> None:
    x, weight, bias, _ = draw(2, 20, 3, 11, torch.float16)
    needed = workspace_size(x, 4)
    assert (needed == 0) == (launches == "one launch")
    out = torch.empty_like(x, memory_format=torch.channels_last)
    workspace = torch.full((needed + 1,), torch.nan)
    assert group_norm_silu(x, 4, weight, bias, out=out, workspace=workspace) is out
    assert torch.equal(out, group_norm_silu(x, 4, weight, bias)) and bool(workspace[-1].isnan())
    assert not len(group_norm_silu(x[:0], 4, weight, bias))


def test_refuses(launches: str) -> None:
    x, weight, bias, shift = draw(2, 20, 9, 15, torch.float16)
    with pytest.raises(ValueError, match="C a multiple of 3"):
        group_norm_silu(x, 3, weight, bias)
    with pytest.raises(ValueError, match="weight must be"):
        group_norm_silu(x, 4, weight[1:], bias)
    with pytest.raises(ValueError, match="shift must be"):
        group_norm_silu(x, 4, weight, bias, shift=shift.T.contiguous().T)
    with pytest.raises(ValueError, match="out must be channels-last"):
        group_norm_silu(x, 4, weight, bias, out=torch.empty_like(x))
    if launches == "two launches":
        with pytest.raises(ValueError, match="workspace must be"):
            group_norm_silu(x, 4, weight, bias, workspace=torch.empty(3))


@pytest.mark.parametrize("side", [8, 16, 32, 64, 96, 128, 512])
def test_chunks_cover_the_pixels(side: int) -> None:
    for tile in (32, 64):
        count, pixels = triton_path._chunks(side * side, tile)
        assert pixels % tile == 0 and (count - 1) * pixels < side * side <= count * pixels
        assert count <= triton_path._most_chunks(side * side)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SD15)
def test_equals_the_definition_on_a_gpu(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, channels, side = shape
    x, weight, bias, shift = draw(rows, channels, side, side, dtype, "cuda")
    for layout in (torch.channels_last, torch.contiguous_format):
        given = x.contiguous(memory_format=layout)
        for with_shift, silu in ((shift, True), (None, True), (None, False)):
            got = public(given, 32, weight, bias, shift=with_shift, silu=silu)
            assert got.is_contiguous(memory_format=torch.channels_last)
            near(got, group_norm_silu_ref(given, 32, weight, bias, shift=with_shift, silu=silu), TOLERANCES[dtype])
            assert torch.equal(
                got[-1:],
                public(given[-1:], 32, weight, bias, shift=None if with_shift is None else shift[-1:], silu=silu),
            )


@pytest.mark.gpu
@pytest.mark.parametrize("shape", WEIRD)
def test_weird_shapes_on_a_gpu(launches: str, shape: tuple[int, ...]) -> None:
    rows, channels, groups, height, width = shape
    x, weight, bias, shift = draw(rows, channels, height, width, torch.float16, "cuda")
    got = public(x, groups, weight, bias, shift=shift)
    near(got, group_norm_silu_ref(x, groups, weight, bias, shift=shift), TOLERANCES[torch.float16])


@pytest.mark.gpu
@pytest.mark.parametrize("side", [8, 64])
def test_is_captured_in_a_graph_without_allocating(side: int) -> None:
    x, weight, bias, shift = draw(2, 320, side, side, torch.float16, "cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    out, workspace = torch.empty_like(x), torch.empty(workspace_size(x, 32), device="cuda")
    public(x, 32, weight, bias, shift=shift, out=out, workspace=workspace)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    public(x, 32, weight, bias, shift=shift, out=out, workspace=workspace)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        public(x, 32, weight, bias, shift=shift, out=out, workspace=workspace)
    x.mul_(3).add_(1)
    graph.replay()
    near(out, group_norm_silu_ref(x, 32, weight, bias, shift=shift), TOLERANCES[torch.float16])
