"""The ways of running a network that are compared: plain torch, our kernels, fused, captured, compiled, in 8 bit.

A form is a function of a network and its inputs on a device, and gives a call without arguments. What cannot be done here raises
UnavailableError, in one line.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mien.bench.plain_ops import plain_torch_ops
from mien.bench.random_networks import RandomNetwork
from mien.bench.timing import Call
from mien.engine.cuda.fuse import fuse
from mien.engine.errors import UnavailableError

FORMS: Mapping[str, str] = {
    "torch": "torch's operations one by one, pictures plane by plane: what one would write first",
    "eager": "with our kernels, channels last",
    "fused": "with our kernels, channels last, fused",
    "graph": "fused, captured as a CUDA graph",
    "fp8": "fused, 8-bit where it wins, captured as a CUDA graph",
    "torch compiled": "torch's operations through torch.compile with CUDA graphs, channels last",
    "fused compiled": "fused, through torch.compile",
    "fp8 compiled": "fused, 8-bit where it wins, through torch.compile",
}
SLOW_FORMS = ("torch compiled", "fused compiled", "fp8 compiled")
EIGHT_BIT = ("fp8", "fp8 compiled")
"""That take a minute before their first answer."""

Inputs = Mapping[str, Tensor]
Forward = Callable[..., Any]


class NetworkForms:
    """Forms of one network, each of its modules made when it is first wanted and kept. calibrate: inputs
    that 8-bit layers are scaled and chosen by."""

    def __init__(self, network: RandomNetwork, device: str, calibrate: Callable[[], Inputs]) -> None:
        self._network, self._device, self._calibrate = network, device, calibrate
        self._modules: dict[str, Forward] = {}
        self._graphs: Any = None

    def call(self, form: str, inputs: Inputs) -> Call:
        """A call of the form on these inputs. Raises UnavailableError."""
        if form in ("graph", *EIGHT_BIT, "torch compiled") and self._device == "cpu":
            raise UnavailableError(f"{form} needs a CUDA device")
        forward = self._module(form)
        tensors = list(inputs.values()) if form == "torch" else _channels_last(inputs.values())
        if form.startswith("torch"):
            return _within_plain(forward, tensors)
        if form not in ("graph", "fp8"):
            return lambda: forward(*tensors)
        return self._capture(form, forward, dict(zip(inputs, tensors, strict=True)))

    def _module(self, form: str) -> Forward:
        made = self._modules.get(form)
        if made is None:
            made = self._modules[form] = self._make(form)
        return made

    def _make(self, form: str) -> Forward:
        module: Any = copy.deepcopy(self._network.module)
        if form != "torch":
            module = module.to(memory_format=torch.channels_last)
        if form == "torch compiled":
            module = torch.compile(module, mode="reduce-overhead", dynamic=False)
        elif form not in ("torch", "eager"):
            module = fuse(module)
        if form in EIGHT_BIT:
            module = self._eight_bit(module)
        if form in ("fused compiled", "fp8 compiled"):
            module = torch.compile(module, fullgraph=True, dynamic=False)
        made: Forward = module
        return made

    def _eight_bit(self, module: nn.Module) -> nn.Module:
        """With 8 bits in the layers where they are faster here, at the batch size of `calibrate`."""
        from mien.engine.cuda.device import seconds_of
        from mien.engine.cuda.float8 import calibrate, choose, convert, measure, require_float8

        require_float8(self._device)
        seen = calibrate(module, [_channels_last(self._calibrate().values())])
        wins = choose(measure(module, seen, seconds_of))
        if not wins:
            raise UnavailableError(f"8 bits are faster in none of the {len(seen)} layers")
        convert(module, seen, wins)
        return module

    def _capture(self, form: str, forward: Forward, inputs: Inputs) -> Call:
        """Of these inputs; the graph of the same form and shapes captured before."""
        from mien.engine.cuda.device import TorchCuda
        from mien.engine.cuda.graphs import Graphs

        if self._graphs is None:
            self._graphs = Graphs(TorchCuda(self._device))
        key = (form, tuple(tuple(tensor.shape) for tensor in inputs.values()))
        graph = self._graphs.find(key) or self._graphs.capture(key, lambda **given: forward(*given.values()), inputs)
        return lambda: graph()


def _channels_last(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Pictures with their channels last, the others as they are."""
    return [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]


def _within_plain(forward: Forward, tensors: Sequence[Tensor]) -> Call:
    def call() -> object:
        with plain_torch_ops():
            return forward(*tensors)

    return call
