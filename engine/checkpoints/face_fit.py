"""Fitting a published state dict into one of mien's face networks: widths found, every shape checked, causes named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mien.engine.errors import BundleError

State = Mapping[str, Tensor]

# A key that only one kind of file has, and what that file is.
_SIGNS = (
    ("cp.resnet.", "BiSeNet v1"),
    ("out_mask_conv.", "ParseNet (parse_multi_iter_90000.pth), whose 19 classes have another order"),
    ("segment.", "BiSeNetV2"),
    ("styles.", "an e4e encoder"),
    ("output_layer.3.", "the ArcFace IR-SE50"),
    ("output_layer.conv_6_dw.", "MobileFaceNet"),
    ("layer1.0.prelu.", "an iresnet of insightface"),
    ("conv1_extra.", "PFLD"),
    ("base_net.", "MobileNetV2-GDConv"),
    ("w_proj.", "the W+ Adapter"),
)


class FaceNetwork(NamedTuple):
    """architecture: "file.Class" below mien.engine.networks. kwargs: what differs from the published size. state: its
    state dict, complete.
    """

    architecture: str
    kwargs: dict[str, Any]
    state: dict[str, Tensor]


def sign(state: State) -> str:
    """What kind of file keys belong to, in words; "" where unknown."""
    for start, words in _SIGNS:
        if any(key.removeprefix("encoder.").startswith(start) for key in state):
            return words
    return ""


def width(state: State, key: str, axis: int = 0) -> int:
    """The size of a tensor along an axis; 0 where it is not there."""
    return state[key].shape[axis] if key in state and state[key].ndim > axis else 0


def fit(
    source: str,
    name: str,
    architecture: type[nn.Module],
    state: State,
    found: Mapping[str, Any],
    *,
    wanted: str,
    cause: Callable[[State], str],
) -> FaceNetwork:
    """The network of the published size, or of the size found, whichever the file fits.

    found: kwargs read off the state's own shapes. wanted: the sign of the right file; name: what messages call the
    network. cause: why a file of the right sign does not fit, in words, or "". Raises BundleError.
    """
    state = {key: tensor for key, tensor in state.items() if not key.endswith(".num_batches_tracked")}
    plain = {key: value for key, value in found.items() if all(_numbers(value))}
    best: list[str] = []
    for kwargs in ({}, plain):
        with torch.device("meta"):
            expected = architecture(**kwargs).state_dict()
        problems = _problems(state, expected)
        if not problems:
            module = architecture.__module__.rpartition(".")[2]
            return FaceNetwork(f"{module}.{architecture.__name__}", dict(kwargs), {key: state[key] for key in expected})
        if not best or len(problems) < len(best):
            best = problems
    have = sign(state)
    why = cause(state) if have == wanted else f"this is {have}, not {wanted}" if have else ""
    more = f" ({len(best) - 1} more like this)" if len(best) > 1 else ""
    raise BundleError(f"{source}: {best[0]}{more}: {why or f'it is damaged or not {name}: download {name} again'}")


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _problems(state: State, expected: State) -> list[str]:
    """What does not fit, the most telling first."""
    wrong, missing = [], []
    for key, tensor in expected.items():
        if key not in state:
            missing.append(f"the key {key!r} of shape {tuple(tensor.shape)} is missing")
        elif state[key].shape != tensor.shape:
            wrong.append(f"{key} has the shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}")
    extra = [f"the key {key!r} of shape {tuple(state[key].shape)} is unknown" for key in state if key not in expected]
    return wrong + missing + extra
