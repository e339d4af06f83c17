"""Products in 8-bit floats (e4m3, Micikevicius et al. 2022) with one scale for each tensor, in the layers where they are faster.

    seen = calibrate(module, samples)                # the largest input of every layer, on real inputs; or by a `Watch`
    times = measure(module, seen, seconds)           # of both kinds of every layer, on this GPU
    convert(module, seen, choose(times))             # keeps 8 bits where they win

Linear layers, among them convolutions of one pixel once a network is fused. Convolutions of 3 x 3 stay: torch has no 8-bit
convolution for CUDA, and a product over unfolded pixels would read nine times the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from mien.engine.errors import InputError, UnavailableError
from mien.engine.networks.sd_blocks import TimeEmbedding
from mien.kernels.to_float8 import LARGEST, to_float8

MULTIPLE = 16
"""Of what a layer reads and answers, for the tensor cores to take it."""

CAPABILITY = (8, 9)
"""The least compute capability with 8-bit products."""

Seconds = Callable[[Callable[[], object]], float]


def require_float8(device: str) -> None:
    """Raise UnavailableError where a CUDA device has no 8-bit products."""
    if (found := torch.cuda.get_device_capability(device)) < CAPABILITY:
        raise UnavailableError(
            f"8-bit products need compute capability {'.'.join(map(str, CAPABILITY))}, {torch.cuda.get_device_name(device)} has"
            f" {'.'.join(map(str, found))}: use float16"
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a layer was given. amax: the largest magnitude. rows: of the largest call."""

    amax: float
    rows: int


@dataclass(frozen=True, slots=True)
class Times:
    """Of one call of a layer, in seconds, as it is and with 8 bits."""

    plain_s: float
    float8_s: float


class Float8Linear(nn.Module):
    """x W^T + b with x and W rounded to 8 bits; sums and the answer are not. (..., K) -> (..., N).

    On a CPU it is emulated: the same roundings, then a product in float32.
    """

    def __init__(self, linear: nn.Linear, amax: float) -> None:
        """amax: largest magnitude of the inputs; what is larger still is cut at one to two times of it."""
        super().__init__()
        weight = linear.weight.detach()
        self.scale: Tensor
        self.weight_scale: Tensor
        self.weight8: Tensor
        self.bias = linear.bias
        self.register_buffer("scale", _scale(amax, weight.device))
        self.register_buffer("weight_scale", _scale(float(weight.abs().max()), weight.device))
        self.register_buffer("weight8", to_float8(weight, self.weight_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        rows = to_float8(x.reshape(-1, x.shape[-1]), self.scale)
        if x.is_cuda:
            out = torch._scaled_mm(
                rows,
                self.weight8.t(),
                self.scale,
                self.weight_scale,
                bias=self.bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:
            weight = self.weight8.float() * self.weight_scale
            bias = None if self.bias is None else self.bias.float()
            out = F.linear(rows.float() * self.scale, weight, bias).to(x.dtype)
        return out.view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"{self.weight8.shape[1]} -> {self.weight8.shape[0]}"


def candidates(module: nn.Module) -> dict[str, nn.Linear]:
    """The layers that may become 8-bit, by name. Those of the timestep, of a row for each picture, stay."""
    timing = {id(part) for time in module.modules() if isinstance(time, TimeEmbedding) for part in time.modules()}
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        and id(part) not in timing
        and not part.in_features % MULTIPLE
        and not part.out_features % MULTIPLE
    }


class Watch:
    """Sees what the candidates of a module are given, in all calls while it is entered; it may be entered again."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = candidates(module)
        self._largest, self._rows = dict[str, Tensor](), dict[str, int]()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Watch:
        self._hooks = [part.register_forward_pre_hook(partial(self._see, name)) for name, part in self._layers.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def seen(self) -> dict[str, Seen]:
        """Of every layer that was called, and whose inputs were finite. Waits for the device."""
        found = {name: Seen(float(amax), self._rows[name]) for name, amax in self._largest.items()}
        return {name: seen for name, seen in found.items() if math.isfinite(seen.amax)}

    def _see(self, name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        (x,) = given
        amax = x.detach().abs().amax().float()
        self._largest[name] = torch.maximum(self._largest[name], amax) if name in self._largest else amax
        self._rows[name] = max(self._rows.get(name, 0), x.numel() // x.shape[-1])


def calibrate(module: nn.Module, samples: Iterable[Sequence[Tensor]]) -> dict[str, Seen]:
    """Call the module, eager, with each sample's tensors; what its candidates were given. Raises InputError without a sample."""
    with torch.no_grad(), Watch(module) as watch:
        for sample in samples:
            module(*sample)
    if not (seen := watch.seen()):
        raise InputError("no layer was seen at work: give one or more samples, and a module with linear layers")
    return seen


def measure(module: nn.Module, seen: Mapping[str, Seen], seconds: Seconds) -> dict[str, Times]:
    """Time every layer that was seen, both kinds, on as many rows as it was given; those of one shape once.

    seconds: how long one call takes on the device, such as `device.seconds_of`.
    """
    known, out = dict[tuple[int, ...], Times](), dict[str, Times]()
    layers = candidates(module)
    with torch.no_grad():
        for name, given in seen.items():
            layer = layers[name]
            shape = (given.rows, layer.in_features, layer.out_features, layer.bias is not None)
            if shape not in known:
                like = layer.weight
                x = torch.randn((given.rows, layer.in_features), dtype=like.dtype, device=like.device)
                eight = Float8Linear(layer, 4.0)
                known[shape] = Times(seconds(lambda: layer(x)), seconds(lambda: eight(x)))  # noqa: B023
            out[name] = known[shape]
    return out


def choose(times: Mapping[str, Times], gain: float = 1.05) -> tuple[str, ...]:
    """The layers that are faster with 8 bits, rounding of their inputs included, by at least `gain`."""
    return tuple(name for name, of in times.items() if of.plain_s >= gain * of.float8_s)


def convert(module: nn.Module, seen: Mapping[str, Seen], names: Collection[str]) -> None:
    """Make these layers 8-bit, in place; graphs captured of the module before are of the old ones. Raises InputError."""
    layers = candidates(module)
    for name in names:
        if name not in layers or name not in seen:
            raise InputError(f"{name!r} is no layer that was calibrated: use names that `calibrate` answers")
        parent, _, last = name.rpartition(".")
        module.get_submodule(parent).add_module(last, Float8Linear(layers[name], seen[name].amax))


def _scale(amax: float, device: torch.device) -> Tensor:
    """(1,): the power of two by which amax fits; a float loses nothing by another power of two."""
    exponent = math.ceil(math.log2(amax / LARGEST)) if amax > 0 else 0
    return torch.full((1,), 2.0**exponent, device=device)
