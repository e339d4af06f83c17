"""`geglu` in Triton against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mien.kernels.geglu import geglu as public
from mien.kernels.geglu import geglu_ref
from mien.kernels.gpu.geglu import geglu

TOLERANCES = {torch.float32: 5e-7, torch.float16: 6e-4, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCES)


def near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    assert float((got.double() - want).abs().max()) <= tolerance * float(want.abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 7, 26), (2, 9, 516), (600,), (1, 8, 512)])
def test_equals_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    got = geglu(x)
    assert got.dtype == dtype and got.is_contiguous()
    near(got, geglu_ref(x), TOLERANCES[dtype])


def test_every_gate_from_the_far_left_to_the_far_right() -> None:
    gate = torch.linspace(-40, 40, 16001)
    x = torch.cat([torch.ones_like(gate), gate])
    got, want = geglu(x).double(), geglu_ref(x)
    assert float((got - want).abs().max()) < 3e-6 and bool(got.isfinite().all())
    assert float((got - want).abs()[gate.abs() < 5].max()) < 7e-7


def test_any_strides() -> None:
    x = torch.randn(6, 10, 24)
    parts = (x[::2], x[:, 1:9], x[..., 3:17], x[..., ::2], x.transpose(0, 1), x[:0])
    for part in parts:
        got = geglu(part)
        assert got.is_contiguous() and got.shape == (*part.shape[:-1], part.shape[-1] // 2)
        torch.testing.assert_close(got.double(), geglu_ref(part), rtol=0, atol=2e-6)


def test_writes_into_what_it_is_given_and_refuses_the_rest() -> None:
    x = torch.randn(3, 5, 8)
    out = torch.empty(3, 5, 4)
    assert geglu(x, out) is out and torch.equal(out, geglu(x))
    with pytest.raises(ValueError, match="2 width"):
        geglu(x[..., :7])
    with pytest.raises(ValueError, match="out must be contiguous"):
        geglu(x, torch.empty(3, 5, 4, dtype=torch.float16))
    with pytest.raises(ValueError, match="out must be contiguous"):
        geglu(x, torch.empty(3, 4, 5).transpose(1, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 4096, 2560), (8, 4096, 2560), (2, 1024, 5120), (3, 256, 10240), (1, 64, 10240), (3, 7, 26)]
)
def test_equals_the_definition_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (3 * torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))).to(dtype)
    near(public(x), geglu_ref(x), 2e-6 if dtype == torch.float32 else TOLERANCES[dtype])


@pytest.mark.gpu
def test_is_captured_in_a_graph_without_allocating() -> None:
    x = torch.randn(2, 64, 512, device="cuda", dtype=torch.float16)
    out = torch.empty(2, 64, 256, device="cuda", dtype=torch.float16)
    public(x, out)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    public(x, out)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        public(x, out)
    x.mul_(2)
    graph.replay()
    near(out, geglu_ref(x), TOLERANCES[torch.float16])
