"""The CPU path against the definition, and the definition against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mien.kernels.group_norm_silu import group_norm_silu, group_norm_silu_ref


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_definition_is_torch_in_float64_and_the_path_is_near_it(shifted: bool, silu: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 12, 5, 7) + 2, torch.randn(12), torch.randn(12)
    shift = torch.randn(3, 12) if shifted else None
    want = group_norm_silu_ref(x, 4, weight, bias, 1e-3, shift=shift, silu=silu)
    h = x.double() if shift is None else x.double() + shift.double()[:, :, None, None]
    normal = F.group_norm(h, 4, weight.double(), bias.double(), 1e-3)
    torch.testing.assert_close(want, F.silu(normal) if silu else normal)
    got = group_norm_silu(x, 4, weight, bias, 1e-3, shift=shift, silu=silu)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_gradients_flow_and_a_gpu_is_named_where_one_is_needed() -> None:
    x, ones = torch.randn(1, 4, 3, 3, requires_grad=True), torch.ones(4)
    group_norm_silu(x, 2, ones, ones).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0
    with pytest.raises(ValueError, match="on cpu; leave them out"):
        group_norm_silu(x, 2, ones, ones, out=torch.empty_like(x))
