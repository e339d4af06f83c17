"""A network on a GPU: one CUDA graph for every set of input shapes it is called with, such as a batch size and a bank's length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mien.engine.backend import Network, bind, output_shape
from mien.engine.backends.torch import TorchNetwork, sent
from mien.engine.config import EngineConfig
from mien.engine.cuda.device import TorchCuda
from mien.engine.cuda.float8 import require_float8
from mien.engine.cuda.fold import fold
from mien.engine.cuda.fuse import fuse
from mien.engine.cuda.graphs import Captured, Graphs
from mien.engine.errors import InputError, ShapeError
from mien.engine.manifest import NetworkSpec

MOST_GRAPHS = 24
"""Of one network: four batch sizes by banks of none, one and two frames, at two sizes of pictures."""

PICTURE_MAKERS = ("sd_unet", "sd_controlnet", "taesd", "autoencoder_kl")
"""Modules that are fused, compiled if that is asked for, and in half precision if nothing else is. The others find and measure: a
coordinate in float16 jitters by a sixteenth of a pixel. Of these, batch norms are folded.
"""


def load_on_gpu(spec: NetworkSpec, module: nn.Module, config: EngineConfig) -> Network:
    """A module with its weights, on the CPU, as a network of a CUDA device, as the config's precision and execution say.

    Which layers are 8-bit is chosen later, by who calls them. Raises UnavailableError on a device that has no such products.
    """
    makes_pictures = spec.architecture.name.partition(".")[0] in PICTURE_MAKERS
    precision = config.precision
    if precision == "float8":
        require_float8(config.device)
    if precision in ("auto", "float8"):
        precision = "float16" if makes_pictures else "float32"
    dtype: torch.dtype = getattr(torch, precision)
    module = (fuse(module) if makes_pictures else fold(module)).to(device=config.device, dtype=dtype)
    if config.execution == "eager":
        return TorchNetwork(spec, module, config.device, dtype)
    if config.execution == "compiled" and makes_pictures:
        # As a whole, or it raises: what torch cannot trace, or traces anew too often, would otherwise run eager unnoticed.
        module.compile(fullgraph=True, dynamic=False)
    return CapturedNetwork(spec, module, config.device, dtype, Graphs(TorchCuda(config.device), MOST_GRAPHS))


class CapturedNetwork(TorchNetwork):
    """Graphs are captured at the first call with new shapes, which takes long, or by `warm_up`; the least recently used give way.

    As in `TorchNetwork`, tensors give tensors, new ones, which are the caller's. `run` can write them into tensors that are there,
    and `captured` lends a graph itself to those who fill its buffers in place. All of it runs on the caller's stream.
    """

    def __init__(self, spec: NetworkSpec, module: nn.Module, device: str, dtype: torch.dtype, graphs: Graphs) -> None:
        """module: on the device, of the type `dtype`. graphs: of this network alone."""
        super().__init__(spec, module, device, dtype)
        self.graphs = graphs
        weights = (weight for weight in module.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1)
        self._channels_last = any(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)

    def __call__(self, **arrays: Any) -> Mapping[str, Any]:
        """As `TorchNetwork`. What was captured for these shapes has been checked, so a later call is not."""
        if self._is_known(arrays):
            return self.run(arrays)
        return super().__call__(**arrays)

    def run(self, tensors: Mapping[str, Tensor], into: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """The answers to tensors that fit the spec, on any device. into: outputs by name, of their shapes, to be written and
        answered, and no others; None for all of them, in new tensors.
        """
        with self.graphs.turn():
            graph = self.captured(tensors)
            if into is None:
                into = {key: torch.empty_like(out) for key, out in zip(self.spec.outputs, graph.outputs, strict=True)}
            graph(into=[into.get(key) for key in self.spec.outputs], **tensors)
            return into

    def captured(self, tensors: Mapping[str, Tensor]) -> Captured:
        """The graph for inputs of these shapes, captured if it is not there. Its outputs are in the spec's order."""
        key = self._key(tensors)
        with self.graphs.turn():
            return self.graphs.find(key) or self._capture(key)

    def _to_host(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Out of the graph's own outputs."""
        with self.graphs.turn():
            graph = self.captured(given)
            return sent(dict(zip(self.spec.outputs, graph(into=None, **given), strict=True)))

    def warm_up(self, batch_sizes: Sequence[int], sizes: Mapping[str, int] | None = None) -> None:
        """Capture graphs for batches "B", the largest first, whose memory the others share.

        sizes: of the spec's other named dimensions, such as "H", "T" and "M0". Raises InputError for one that lacks.
        """
        for batch in sorted(set(batch_sizes), reverse=True):
            given = {**(sizes or {}), "B": batch}
            key = tuple(self._shape(name, given) for name in self.spec.inputs)
            with self.graphs.turn():
                if self.graphs.find(key) is None:
                    self._capture(key)

    def _is_known(self, arrays: Mapping[str, Any]) -> bool:
        if arrays.keys() != self.spec.inputs.keys() or not all(isinstance(a, Tensor) for a in arrays.values()):
            return False
        return self.graphs.find(self._key(arrays)) is not None

    def _key(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tensors[name].shape) for name in self.spec.inputs)

    def _shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        wanted = {str(dim).partition("/")[0] for dim in self.spec.shapes[name] if isinstance(dim, str)}
        if lacking := sorted(wanted - sizes.keys()):
            raise InputError(
                f"{self.spec.name}: input {name!r} has the dimensions {', '.join(lacking)}: give their sizes"
            )
        return tuple(size for size in output_shape(self.spec, name, sizes) if size is not None)

    def _capture(self, key: tuple[tuple[int, ...], ...]) -> Captured:
        """Of inputs of the shapes `key`."""
        names = tuple(self.spec.inputs)
        shapes = dict(zip(names, key, strict=True))
        as_spec = {n: SimpleNamespace(shape=s, ndim=len(s), dtype=self.spec.inputs[n].dtype) for n, s in shapes.items()}
        sizes = bind(self.spec, as_spec)
        with torch.inference_mode(False):
            buffers = {name: self._buffer(name, shape) for name, shape in shapes.items()}
        graph = self.graphs.capture(key, lambda **given: self.parts(self.module(*(given[n] for n in names))), buffers)
        for name, out in zip(self.spec.outputs, graph.outputs, strict=True):
            want = output_shape(self.spec, name, sizes)
            if len(want) != out.dim() or any(w not in (None, g) for w, g in zip(want, out.shape, strict=True)):
                raise ShapeError(f"{self.spec.name}: output {name!r} is {tuple(out.shape)}, the bundle says {want}")
        return graph

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        is_picture = len(shape) == 4 and self._channels_last
        layout = torch.channels_last if is_picture else torch.contiguous_format
        zeros = torch.zeros(shape, dtype=self.input_dtype(name), device=self.device)
        return zeros.contiguous(memory_format=layout)
