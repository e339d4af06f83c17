"""The CPU path against the definition, and the definition against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mien.kernels.geglu import geglu, geglu_ref


def test_definition_is_torch_in_float64_and_the_path_is_near_it() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(2, 5, 14)
    value, gate = x.double().chunk(2, -1)
    want = geglu_ref(x)
    torch.testing.assert_close(want, value * F.gelu(gate))
    torch.testing.assert_close(geglu(x).double(), want, rtol=1e-5, atol=1e-6)


def test_gradients_flow_and_a_gpu_is_named_where_one_is_needed() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    geglu(x).sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0
    with pytest.raises(ValueError, match="on cpu; leave it out"):
        geglu(x, torch.empty(3, 2))
