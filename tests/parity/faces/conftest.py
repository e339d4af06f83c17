"""Random weights for the published face networks, and their way through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mien.engine.types import Array
from mien.export.onnx import export_onnx


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Fills a module's weights and statistics, none at a value that would hide a mistake."""
    return fill


def fill(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for key, tensor in module.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            scaled_in_use = ".linear." in key and "styles." in key
            tensor.normal_(0.0, 1.0 if scaled_in_use else (2.0 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("weight"):
            tensor.uniform_(0.3, 1.2, generator=generator)
        else:
            tensor.normal_(0.0, 0.2, generator=generator)
    return module.eval()


@pytest.fixture
def through_onnx() -> Callable[..., list[Array]]:
    """through_onnx(module, input shape, input): what ONNX Runtime answers for the exported module, all outputs."""

    def run(module: nn.Module, name: str, dims: tuple[int | str, ...], x: Tensor) -> list[Array]:
        with torch.no_grad():
            answer: Any = module(x)
        count = 1 if isinstance(answer, Tensor) else len(answer)
        model = export_onnx(module, {name: dims}, tuple(f"out_{k}" for k in range(count)), {name: x})
        feed: Mapping[str, Array] = {name: x.numpy()}
        return [np.asarray(part) for part in onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)]

    return run


@pytest.fixture
def relative_error() -> Callable[[Any, Any], float]:
    """Largest difference over the largest value of the second."""

    def error(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return float(np.abs(a - b).max() / np.abs(b).max())

    return error
