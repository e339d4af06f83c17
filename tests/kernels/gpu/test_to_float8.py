"""`to_float8` on the CPU and in Triton against its definition, which knows every number there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mien.kernels.gpu.to_float8 import to_float8
from mien.kernels.to_float8 import LARGEST, to_float8_ref
from mien.kernels.to_float8 import to_float8 as public

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def samples() -> Tensor:
    """Both signs of every number, of every middle between two, of what lies beyond, and of what is next to nothing."""
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = torch.cat([middles * (1 + 2**-7), middles * (1 - 2**-7)])
    beyond = torch.tensor([449.0, 464.0, 480.0, 30_000.0, 2**-12, 1e-7])
    return torch.cat([numbers, -numbers, middles, -middles, near, -near, beyond, -beyond])


def test_the_definition_knows_its_numbers() -> None:
    x = torch.tensor([0.0, 1.0, 1.0625, 1.1875, -1.07, 500.0, -447.0, 2**-9, 2**-10, 0.75 * 2**-9])
    want = [0.0, 1.0, 1.0, 1.25, -1.125, 448.0, -448.0, 2**-9, 0.0, 2**-9]
    assert to_float8_ref(x, torch.ones(1)).tolist() == want
    assert to_float8_ref(x, torch.full((1,), 0.5)).tolist()[5:7] == [LARGEST, -LARGEST]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0])
def test_equals_the_definition(dtype: torch.dtype, scale: float) -> None:
    x, size = (samples() * scale).clamp(-60_000, 60_000).to(dtype), torch.full((1,), scale)
    want, got = to_float8_ref(x, size), public(x, size)
    assert got.dtype == torch.float8_e4m3fn and torch.equal(got.double(), want)
    # Triton's interpreter rounds in a way of its own, unlike a GPU: only what needs no rounding, or is cut, is compared.
    got = to_float8(x, size)
    assert got.dtype == torch.float8_e4m3fn
    exact = want == x.double() / scale
    assert int(exact.sum()) >= 254 and torch.equal(got.double()[exact], want[exact])
    beyond = (x.double() / scale).abs() > LARGEST
    assert int(beyond.sum()) >= 6 and torch.equal(got.double()[beyond], want[beyond])


@pytest.mark.parametrize("shape", [(1,), (3, 7, 5), (2049,), (2, 0), (1, 2048)])
def test_any_shape_and_strides(shape: tuple[int, ...]) -> None:
    numbers = samples()[:254]
    x = numbers[torch.randint(0, 254, shape, generator=torch.Generator().manual_seed(0))] / 8
    scale = torch.full((1,), 0.125)
    for part in (x, x[..., ::2], x.movedim(0, -1)):
        for way in (to_float8, public):
            got = way(part, scale)
            assert got.is_contiguous() and torch.equal(got.double(), 8 * part.double())
    out = torch.empty(shape, dtype=torch.float8_e4m3fn)
    assert to_float8(x, scale, out) is out and torch.equal(out.double(), 8 * x.double())


def test_what_does_not_fit_is_refused() -> None:
    x, scale = torch.randn(3, 4), torch.ones(1)
    for arguments, words in (
        ((x.long(), scale), "x must be floating point"),
        ((x, torch.tensor(1.0)), r"scale \(1,\) float32"),
        ((x, scale.double()), r"scale \(1,\) float32"),
        ((x, scale, torch.empty(3, 4)), "out must be contiguous"),
        ((x, scale, torch.empty(4, 3, dtype=torch.float8_e4m3fn)), "out must be contiguous"),
    ):
        with pytest.raises(ValueError, match=words):
            public(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(dtype: torch.dtype, device: str) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no 8-bit floats")
    x, scale = samples().to(dtype).to(device), torch.full((1,), 0.5, device=device)
    assert torch.equal(public(x, scale).double(), to_float8_ref(x, scale))
    large = torch.randn(1000, 4097, device=device).to(dtype)
    assert torch.equal(public(large, scale).double(), to_float8_ref(large, scale))
