"""Stage `unpack`: put the shipped bundle's weights back into the runs folder, as the training stages would have left them.

For going on from a bundle where its runs folder is gone: `pairs`, `decoder` and `pack` find what they need. Optimizer states are not part
of a bundle, so a stage that is trained on starts its own. Existing `final.pt` files are kept.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from mien.engine.bundle import PACKAGED, Bundle
from mien.export.tiny.loop import replace_file
from mien.export.tiny.stage import Arguments

ALONE = ("detector", "landmarks", "parser", "difference_decoder")  # stages of one network of that name


def weights_of(bundle: Bundle, network: str) -> dict[str, Tensor]:
    """Parameter name -> float32 tensor, read from a network's ONNX file."""
    graph = onnx.load(bundle.folder / bundle.networks[network].file).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    casts = {
        node.output[0]: stored[node.input[0]]
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in stored
    }
    state = {name: tensor for name, tensor in stored.items() if not name.endswith(".float16")} | casts
    return {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}


def _only(weights: dict[str, Tensor], module: str, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Those of a network's constants that are its parameters."""
    file, _, name = module.partition(".")
    made = getattr(importlib.import_module(f"mien.engine.networks.{file}"), name)(**kwargs)
    return {key: weights[key] for key in made.state_dict()}


def run(args: Arguments) -> None:
    """Write `final.pt` of every stage that has none."""
    bundle = Bundle.open(PACKAGED / "tiny")
    bundle.verify()

    def state(network: str) -> dict[str, Tensor]:
        architecture = bundle.networks[network].architecture
        return _only(weights_of(bundle, network), architecture.name, dict(architecture.kwargs))

    def kwargs(network: str) -> dict[str, Any]:
        return dict(bundle.networks[network].architecture.kwargs)

    made: dict[str, dict[str, Any]] = {name: {"state": state(name), "kwargs": kwargs(name)} for name in ALONE}
    made["autoencoder"] = {
        "kwargs": kwargs("vae_encoder"),
        "encoder": state("vae_encoder"),
        "decoder": state("vae_decoder"),
    }
    made["denoiser"] = {"kwargs": kwargs("denoiser"), "denoiser": state("denoiser")}
    made["difference"] = {
        "kwargs": kwargs("difference"),
        "difference": state("difference"),
        "w_encoder": state("w_encoder"),
        "directions": {name: torch.from_numpy(value.copy()) for name, value in bundle.directions.items()},
    }
    for name, content in made.items():
        path: Path = args.runs / name / "final.pt"
        if path.exists():
            print(f"unpack: {path} is there, kept")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
        print(f"unpack: {path}")
