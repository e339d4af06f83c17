"""Face networks out of files with the published keys and nesting: what is dropped, what is found, what errors say."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mien.engine.checkpoints import faces
from mien.engine.checkpoints.face_fit import FaceNetwork
from mien.engine.checkpoints.reading import read_nested, read_weights, write_safetensors
from mien.engine.errors import BundleError
from mien.engine.networks.bisenet import FaceParser
from mien.engine.networks.e4e import E4e
from mien.engine.networks.ir_se50 import IrSe50
from mien.engine.networks.iresnet import IResNet50
from mien.engine.networks.landmarks_mobilefacenet import MobileFaceNetLandmarks
from mien.engine.networks.landmarks_mobilenet import MobileNetLandmarks
from mien.engine.networks.landmarks_pfld import PfldLandmarks
from mien.engine.networks.wplus_projection import WPlusProjection

State = dict[str, Tensor]
BODY = (16, 16, 32, 48)
RESNET = (8, 12, 16, 24)
OPTS = {"encoder_type": "Encoder4Editing", "stylegan_size": 1024, "start_from_latent_avg": True}


def state_of(module: nn.Module) -> State:
    """As its training wrote it: with a counter beside every norm."""
    state = {key: torch.randn_like(tensor) for key, tensor in module.state_dict().items()}
    for key in list(state):
        if key.endswith(".running_var"):
            state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


def e4e_file(state: State | None = None, **changes: Any) -> dict[str, Any]:
    state = dict(state or state_of(E4e(BODY, 24)))
    mean = state.pop("latent_avg")
    encoder = {f"encoder.{key}": tensor for key, tensor in state.items()}
    decoder = {"decoder.style.1.weight": torch.zeros(4, 4), "decoder.input.input": torch.zeros(1, 4, 4, 4)}
    return {"state_dict": encoder | decoder, "latent_avg": mean, "opts": OPTS} | changes


def mobilenet_file(module: nn.Module) -> dict[str, Any]:
    state = state_of(module)
    copies = {key.replace("base_net.0.", "pretrain_net.features."): t for key, t in state.items() if "base_net" in key}
    copies["pretrain_net.classifier.1.weight"] = torch.zeros(10, 4)
    return {"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in (copies | state).items()}}


Case = tuple[Callable[[Any, str], FaceNetwork], nn.Module, dict[str, Any], Callable[[nn.Module], dict[str, Any]]]
MOBILENET = (4, 4, 6, 6, 8, 8, 10, 12, 20)
CASES: dict[str, Case] = {
    "e4e": (faces.e4e, E4e(BODY, 24), {"channels": BODY, "style_dim": 24}, lambda m: e4e_file(state_of(m))),
    "wplus": (
        faces.wplus_projection,
        WPlusProjection(40, 32),
        {"cross_attention_dim": 40, "style_dim": 32},
        lambda m: {"w_proj": state_of(m), "wplus_adapter": {"1.to_k_wplus.weight": torch.zeros(8, 40)}},
    ),
    "ir_se50": (faces.ir_se50, IrSe50(BODY), {"channels": BODY}, state_of),
    "identity ir_se50": (faces.identity, IrSe50(BODY), {"channels": BODY}, state_of),
    "iresnet": (
        faces.identity,
        IResNet50(RESNET, (1, 2, 3, 1)),
        {"channels": RESNET, "units": (1, 2, 3, 1)},
        lambda m: {f"module.{key}": tensor for key, tensor in state_of(m).items()},
    ),
    "bisenet": (
        faces.bisenet,
        FaceParser(RESNET, 8),
        {"channels": RESNET, "context": 8},
        lambda m: (
            state_of(m) | {"conv_out16.conv.conv.weight": torch.zeros(4, 8, 3, 3), "conv_out32.x": torch.zeros(1)}
        ),
    ),
    "mobilenet": (faces.landmarks, MobileNetLandmarks(MOBILENET), {"widths": MOBILENET}, mobilenet_file),
    "mobilenet 56": (
        faces.landmarks,
        MobileNetLandmarks(MOBILENET, 56),
        {"widths": MOBILENET, "input_px": 56},
        mobilenet_file,
    ),
    "pfld": (
        faces.landmarks,
        PfldLandmarks((6, 8, 4, 5, 7)),
        {"widths": (6, 8, 4, 5, 7)},
        lambda m: {"state_dict": state_of(m) | {"bn8.weight": torch.zeros(7), "bn8.running_var": torch.ones(7)}},
    ),
    "mobilefacenet": (
        faces.landmarks,
        MobileFaceNetLandmarks((4, 8, 12)),
        {"widths": (4, 8, 12)},
        lambda m: {"state_dict": state_of(m), "best_loss": 0.1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_becomes_a_network(name: str, tmp_path: Path) -> None:
    reader, module, kwargs, wrap = CASES[name]
    content = wrap(module)
    torch.save(content, tmp_path / "file.pth")
    found = reader(read_nested(tmp_path / "file.pth"), "file.pth")
    file, _, kind = found.architecture.partition(".")
    built = getattr(importlib.import_module(f"mien.engine.networks.{file}"), kind)(**found.kwargs)
    assert type(built) is type(module)
    assert found.kwargs == kwargs
    built.load_state_dict(found.state, strict=True)
    flat = str_keys(content)
    for key, tensor in built.state_dict().items():
        (same,) = [value for other, value in flat.items() if other.endswith(f"|{key}")]
        assert torch.equal(tensor, same), key


def str_keys(content: Mapping[str, Any]) -> State:
    """Every tensor by what its key ends with: the published prefix, a bar, the network's own key."""
    out: State = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            out |= str_keys(value)
        elif isinstance(value, Tensor):
            prefix = next((p for p in ("encoder.", "decoder.", "module.") if key.startswith(p)), "")
            out[f"{prefix}|{key.removeprefix(prefix)}"] = value
    return out


def test_the_published_size_needs_no_arguments() -> None:
    found = faces.landmarks_pfld({"state_dict": state_of(PfldLandmarks())}, "pfld_model_best.pth.tar")
    assert (found.architecture, found.kwargs) == ("landmarks_pfld.PfldLandmarks", {})


def test_a_flat_safetensors_file(tmp_path: Path) -> None:
    state = state_of(FaceParser(RESNET, 8))
    write_safetensors(tmp_path / "parser.safetensors", state)
    found = faces.bisenet(read_weights(tmp_path / "parser.safetensors"), "parser.safetensors")
    assert found.kwargs == {"channels": RESNET, "context": 8}
    assert torch.equal(found.state["cp.arm16.conv.bn.bias"], state["cp.arm16.conv.bn.bias"])


def test_a_mean_code_of_one_row_serves_every_style() -> None:
    mean = torch.randn(1, 24)
    found = faces.e4e(e4e_file(latent_avg=mean), "e4e.pt")
    assert torch.equal(found.state["latent_avg"], mean.expand(18, 24))
    found = faces.e4e(e4e_file(opts=OPTS | {"start_from_latent_avg": False}), "e4e.pt")
    assert found.state["latent_avg"].shape == (18, 24)
    assert not found.state["latent_avg"].any()


def damaged(state: State, **changes: Tensor | None) -> State:
    """Keys with __ for dots; None takes a key away."""
    out = dict(state)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        out.pop(key, None)
        if tensor is not None:
            out[key] = tensor
    return out


PFLD = state_of(PfldLandmarks())
PARSER = state_of(FaceParser(RESNET, 8))
ARCFACE = state_of(IrSe50(BODY))
PARSENET = {
    "encoder.0.conv2d.weight": torch.zeros(64, 3, 3, 3),
    "out_mask_conv.conv2d.weight": torch.zeros(19, 32, 3, 3),
}


@pytest.mark.parametrize(
    ("reader", "raw", "words"),
    [
        (
            faces.landmarks_pfld,
            damaged(PFLD, conv4_1__conv__0__weight=torch.zeros(64, 32, 1, 1)),
            r"f\.pth: conv4_1\.conv\.0\.weight has the shape \(64, 32, 1, 1\), expected \(64, 64, 1, 1\): it is damaged",
        ),
        (
            faces.landmarks_pfld,
            damaged(PFLD, fc__weight=torch.zeros(196, 176), fc__bias=torch.zeros(196)),
            r"fc\.weight has the shape \(196, 176\), expected \(136, 176\) \(1 more .*it answers 196 numbers, not the 136",
        ),
        (faces.landmarks_pfld, damaged(PFLD, conv8__bias=None), r"'conv8\.bias' of shape \(128,\) is missing"),
        (faces.landmarks_pfld, damaged(PFLD, aux__fc=torch.zeros(3)), r"'aux\.fc' of shape \(3,\) is unknown"),
        (faces.landmarks_pfld, ARCFACE, "this is the ArcFace IR-SE50, not PFLD"),
        (faces.bisenet, PARSENET, "this is ParseNet .* whose 19 classes have another order, not BiSeNet v1"),
        (
            faces.bisenet,
            damaged(PARSER, conv_out__conv_out__weight=torch.zeros(11, 20, 1, 1)),
            "11 classes, not for CelebAMask-HQ's 19",
        ),
        (faces.bisenet, PARSER | {"sp.conv1.conv.weight": torch.zeros(8, 3, 7, 7)}, "it has a spatial path"),
        (
            faces.bisenet,
            PARSER | {"cp.resnet.layer1.2.conv1.weight": torch.zeros(8, 8, 3, 3)},
            "deeper than ResNet-18",
        ),
        (
            faces.ir_se50,
            ARCFACE | {"body.24.res_layer.1.weight": torch.zeros(48, 48, 3, 3)},
            "100 or 152 layers, not 50",
        ),
        (
            faces.ir_se50,
            {key: tensor for key, tensor in ARCFACE.items() if "res_layer.5" not in key},
            "an IR-50, not an IR-SE50",
        ),
        (faces.ir_se50, e4e_file(), "this is an e4e encoder, not the ArcFace IR-SE50"),
        (faces.e4e, ARCFACE, "this is the ArcFace IR-SE50, not an e4e encoder"),
        (faces.e4e, e4e_file(opts={"encoder_type": "GradualStyleEncoder"}), "is 'GradualStyleEncoder', expected"),
        (
            faces.e4e,
            {"state_dict": e4e_file()["state_dict"]},
            "'latent_avg' of shape .* is missing: latent_avg lies beside",
        ),
        (faces.wplus_projection, e4e_file(), "'w_proj' is missing, found an e4e encoder"),
        (
            faces.wplus_projection,
            {"w_proj": damaged(state_of(WPlusProjection()), proj_3__weight=torch.zeros(768, 2048))},
            r"proj_3\.weight has the shape \(768, 2048\), expected \(768, 3072\)",
        ),
        (faces.landmarks, PARSER, "f.pth is BiSeNet v1: a landmark network is one of"),
        (faces.identity, {"weight": torch.zeros(1)}, "f.pth holds none of them: an identity network is one of"),
    ],
)
def test_errors_name_key_shape_and_cause(reader: Callable[[Any, str], Any], raw: Any, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        reader(raw, "f.pth")
    assert "\n" not in str(caught.value)
