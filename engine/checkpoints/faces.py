"""Face networks from their original files: what `read_nested` or `read_weights` answers -> architecture, kwargs, state.

Every function takes (raw, source): the content and what messages call the file; and raises BundleError naming the key,
its shape, what was expected and the likely cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mien.engine.checkpoints.face_fit import FaceNetwork, State, fit, sign, width
from mien.engine.checkpoints.reading import flatten
from mien.engine.errors import BundleError
from mien.engine.networks.bisenet import CLASSES, FaceParser
from mien.engine.networks.e4e import N_STYLES, E4e
from mien.engine.networks.ir_se50 import UNITS, IrSe50
from mien.engine.networks.iresnet import IResNet50
from mien.engine.networks.landmark_view import N_LANDMARKS
from mien.engine.networks.landmarks_mobilefacenet import MobileFaceNetLandmarks
from mien.engine.networks.landmarks_mobilenet import REPEATS, MobileNetLandmarks
from mien.engine.networks.landmarks_pfld import PfldLandmarks
from mien.engine.networks.wplus_projection import WPlusProjection

Raw = Mapping[str, Any]
_OUTPUTS = 2 * N_LANDMARKS


def e4e(raw: Raw, source: str) -> FaceNetwork:
    """`e4e_ffhq_encode.pt`: `state_dict` (encoder.*, decoder.*), `latent_avg`, `opts`. The decoder is dropped.

    The same keys and shapes are also those of a pSp encoder; only `opts` tells, so give the content of `read_nested`.
    """
    options = raw.get("opts")
    kind = options.get("encoder_type", "Encoder4Editing") if isinstance(options, Mapping) else "Encoder4Editing"
    if kind != "Encoder4Editing":
        raise BundleError(
            f"{source}: opts.encoder_type is {kind!r}, expected 'Encoder4Editing': this is another encoder of the pSp"
            " family, whose styles are not offsets to the first: give e4e_ffhq_encode.pt"
        )
    flat = flatten(raw, source)
    state = {key.removeprefix("encoder."): tensor for key, tensor in flat.items() if not key.startswith("decoder.")}
    if (mean := state.get("latent_avg")) is not None and mean.ndim:
        rows = mean.reshape(-1, mean.shape[-1])
        state["latent_avg"] = rows.expand(N_STYLES, -1) if len(rows) == 1 else rows  # one mean of W serves every style
        if isinstance(options, Mapping) and options.get("start_from_latent_avg") is False:
            state["latent_avg"] = torch.zeros_like(state["latent_avg"])
    found = {"channels": _ir_se_channels(state), "style_dim": width(state, "styles.0.linear.weight")}

    def cause(state: State) -> str:
        if "latent_avg" not in state:
            return "latent_avg lies beside state_dict in the original file: the mean code was lost, give that file"
        return _ir_se_cause(state)

    return fit(source, "e4e_ffhq_encode.pt", E4e, state, found, wanted="an e4e encoder", cause=cause)


def wplus_projection(raw: Raw, source: str) -> FaceNetwork:
    """`wplus_adapter.bin`: the dict `w_proj`; its `wplus_adapter` belongs to the UNet's attention."""
    flat = flatten(raw, source)
    state = {key.removeprefix("w_proj."): tensor for key, tensor in flat.items() if key.startswith("w_proj.")}
    if not state:
        have = sign(flat) or f"keys like {next(iter(flat), 'none')!r}"
        raise BundleError(
            f"{source}: the dict 'w_proj' is missing, found {have}: give the W+ Adapter's wplus_adapter.bin"
        )
    dims = {"cross_attention_dim": width(state, "norm.weight"), "style_dim": width(state, "proj_0.weight", 1) // 4}
    return fit(
        source, "wplus_adapter.bin", WPlusProjection, state, dims, wanted="the W+ Adapter's projection", cause=_nothing
    )


def ir_se50(raw: Raw, source: str) -> FaceNetwork:
    """`model_ir_se50.pth`: a plain state dict."""
    state = flatten(raw, source)
    found = {"channels": _ir_se_channels(state)}
    name, wanted = "model_ir_se50.pth", "the ArcFace IR-SE50"
    return fit(source, name, IrSe50, state, found, wanted=wanted, cause=_ir_se_cause)


def iresnet(raw: Raw, source: str) -> FaceNetwork:
    """insightface's `backbone.pth` of an r50: a plain state dict. The deeper and shallower ones are read too."""
    state = flatten(raw, source)
    units = [{key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")} for stage in (1, 2, 3, 4)]
    found = {
        "channels": tuple(width(state, f"layer{stage}.0.conv1.weight") for stage in (1, 2, 3, 4)),
        "units": tuple(len(numbers) for numbers in units),
    }
    name, wanted = "the r50's backbone.pth", "an iresnet of insightface"
    return fit(source, name, IResNet50, state, found, wanted=wanted, cause=_nothing)


def bisenet(raw: Raw, source: str) -> FaceNetwork:
    """`79999_iter.pth`: a plain state dict. The two heads that only training reads are dropped."""
    flat = flatten(raw, source)
    state = {key: tensor for key, tensor in flat.items() if not key.startswith(("conv_out16.", "conv_out32."))}
    context = width(state, "cp.conv_avg.conv.weight")
    channels = tuple(width(state, f"cp.resnet.layer{stage}.0.conv1.weight") for stage in (1, 2, 3, 4))
    found = {"channels": channels, "context": context if (channels[1] + context) % 4 == 0 else 0}

    def cause(state: State) -> str:
        classes = width(state, "conv_out.conv_out.weight")
        if classes not in (0, len(CLASSES)):
            return f"it was trained for {classes} classes, not for CelebAMask-HQ's {len(CLASSES)}"
        if any(key.startswith("cp.resnet.layer1.2.") for key in state):
            return "its context path is deeper than ResNet-18"
        return "it has a spatial path, as CoinCheung's BiSeNet v1" if any(k.startswith("sp.") for k in state) else ""

    return fit(source, "79999_iter.pth", FaceParser, state, found, wanted="BiSeNet v1", cause=cause)


def landmarks_mobilenet(raw: Raw, source: str) -> FaceNetwork:
    """`mobilenet_224_model_best_gdconv_external.pth.tar` (`state_dict`, `module.` before every key), or its 56 px form.

    The network's ImageNet copy (pretrain_net), which shares its weights, is dropped.
    """
    state = {key: tensor for key, tensor in flatten(raw, source).items() if not key.startswith("pretrain_net.")}
    first = [1 + sum(REPEATS[:stage]) for stage in range(len(REPEATS))]
    stages = tuple(width(state, f"base_net.0.{k}.conv.{2 if k > 1 else 1}.weight") for k in first)
    stem, last = width(state, "base_net.0.0.0.weight"), width(state, "base_net.0.18.0.weight")
    pixels = {7: 224, 2: 56}.get(width(state, "linear7.conv.weight", 2), 0)
    found = {"widths": (stem, *stages, last)} | ({"input_px": pixels} if pixels != 224 else {})
    name, wanted = "mobilenet_224_model_best_gdconv_external.pth.tar", "MobileNetV2-GDConv"
    return fit(
        source, name, MobileNetLandmarks, state, found, wanted=wanted, cause=_points_cause("linear1.conv.weight")
    )


def landmarks_pfld(raw: Raw, source: str) -> FaceNetwork:
    """`pfld_model_best.pth.tar` (`state_dict`). A norm that the network never used (bn8) is dropped."""
    state = {key: tensor for key, tensor in flatten(raw, source).items() if not key.startswith("bn8.")}
    first, second = width(state, "conv1.weight"), width(state, "conv4_1.conv.6.weight")
    scales = [width(state, key) for key in ("conv6_1.conv.6.weight", "conv7.0.weight", "conv8.weight")]
    found = {"widths": (first, second, *scales)}
    name, cause = "pfld_model_best.pth.tar", _points_cause("fc.weight")
    return fit(source, name, PfldLandmarks, state, found, wanted="PFLD", cause=cause)


def landmarks_mobilefacenet(raw: Raw, source: str) -> FaceNetwork:
    """`mobilefacenet_model_best.pth.tar` (`state_dict`)."""
    state = flatten(raw, source)
    layers = ("conv1.conv.weight", "conv_34.project.conv.weight", "conv_6_sep.conv.weight")
    found = {"widths": tuple(width(state, key) for key in layers)}
    name, cause = "mobilefacenet_model_best.pth.tar", _points_cause("output_layer.linear.weight")
    return fit(source, name, MobileFaceNetLandmarks, state, found, wanted="MobileFaceNet", cause=cause)


def landmarks(raw: Raw, source: str) -> FaceNetwork:
    """Whichever of the three landmark networks a file holds."""
    readers = {
        "MobileNetV2-GDConv": landmarks_mobilenet,
        "PFLD": landmarks_pfld,
        "MobileFaceNet": landmarks_mobilefacenet,
    }
    have = sign(flatten(raw, source))
    if have not in readers:
        what = f"is {have}" if have else "holds none of them"
        raise BundleError(f"{source} {what}: a landmark network is one of {', '.join(readers)}")
    return readers[have](raw, source)


def identity(raw: Raw, source: str) -> FaceNetwork:
    """Whichever of the two ArcFace networks a file holds; they want different crops."""
    readers = {"the ArcFace IR-SE50": ir_se50, "an iresnet of insightface": iresnet}
    have = sign(flatten(raw, source))
    if have not in readers:
        what = f"is {have}" if have else "holds none of them"
        raise BundleError(f"{source} {what}: an identity network is one of {', '.join(readers)}")
    return readers[have](raw, source)


def _ir_se_channels(state: State) -> tuple[int, ...]:
    first = [sum(UNITS[:stage]) for stage in range(len(UNITS))]
    channels = tuple(width(state, f"body.{unit}.res_layer.1.weight") for unit in first)
    return channels if all(c % 16 == 0 for c in channels) else (0,)


def _ir_se_cause(state: State) -> str:
    if f"body.{sum(UNITS)}.res_layer.1.weight" in state:
        return "its body has 100 or 152 layers, not 50"
    if "body.0.res_layer.4.weight" in state and "body.0.res_layer.5.fc1.weight" not in state:
        return "its units have no squeeze and excitation: it is an IR-50, not an IR-SE50"
    return ""


def _points_cause(last: str) -> Callable[[State], str]:
    """Why the last layer answers another number of values."""

    def cause(state: State) -> str:
        values = width(state, last)
        if values in (0, _OUTPUTS):
            return ""
        return f"it answers {values} numbers, not the {_OUTPUTS} of {N_LANDMARKS} points"

    return cause


def _nothing(_: State) -> str:
    return ""
