"""What a bundle's manifest says of the networks of the SD1.5 class: file, architecture, inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mien.engine.errors import BundleError
from mien.engine.manifest import FREE
from mien.engine.networks.e4e import N_STYLES, STYLE_DIM
from mien.engine.networks.ir_se50 import EMBEDDING
from mien.engine.networks.sd_layout import Layout, Stage
from mien.engine.networks.sd_signature import (
    W_TOKENS,
    Dims,
    Signature,
    context_signature,
    controlnet_signature,
    unet_signature,
)

Entry = dict[str, Any]

TOKENS = 77
GRID_PX = 128  # what tracker and mask give to landmarks and parser
_CONTROL_STAGES: tuple[Stage, ...] = ("down", "mid")
_IMAGE: Dims = ("B", 3, "H", "W")
_IDENTITY_PX = {"iresnet.IResNet50": 112, "ir_se50.IrSe50": 256}


def entry(file: str, architecture: str, kwargs: Mapping[str, Any], signature: Signature) -> Entry:
    """One network of a safetensors file. An output's dimension that no input binds becomes free."""
    bound = {_name(dim) for dims in signature.inputs.values() for dim in dims if isinstance(dim, str)}
    outputs = {
        key: [FREE if isinstance(dim, str) and _name(dim) not in bound else dim for dim in dims]
        for key, dims in signature.outputs.items()
    }
    return {
        "file": file,
        "format": "safetensors",
        "architecture": {"name": architecture, "kwargs": {k: _plain(v) for k, v in kwargs.items()}},
        "inputs": {key: _tensor(list(dims), key) for key, dims in signature.inputs.items()},
        "outputs": {key: _tensor(dims, key) for key, dims in outputs.items()},
    }


def unet_entries(file: str, layout: Layout, *, adapter: bool, control: bool) -> dict[str, Entry]:
    """unet, with a bank in every layer, and context."""
    every = tuple(range(len(layout.layers())))
    kwargs = {**layout.kwargs(), "adapter": adapter, "control": control, "bank_layers": every}
    context = {**layout.kwargs(), "adapter": adapter}
    return {
        "unet": entry(file, "sd_unet.UNet", kwargs, unet_signature(layout, adapter, control, every)),
        "context": entry(file, "sd_unet.ContextProjection", context, context_signature(layout, adapter)),
    }


def controlnet_entries(file: str, layout: Layout) -> dict[str, Entry]:
    """controlnet, with a bank in every layer, and control_context."""
    every = tuple(range(len(layout.layers(_CONTROL_STAGES))))
    kwargs = {**layout.kwargs(), "bank_layers": every}
    context = context_signature(layout, stages=_CONTROL_STAGES)
    return {
        "controlnet": entry(file, "sd_controlnet.ControlNet", kwargs, controlnet_signature(layout, every)),
        "control_context": entry(file, "sd_controlnet.ControlContext", layout.kwargs(), context),
    }


def autoencoder_entries(file: str, classes: tuple[str, str], kwargs: Mapping[str, Any]) -> dict[str, Entry]:
    """vae_encoder and vae_decoder. classes: their architectures."""
    latents: Dims = ("B", int(kwargs["latent_channels"]), "H/8", "W/8")
    encoder = Signature({"image": _IMAGE}, {"latents": latents})
    decoder = Signature({"latents": latents}, {"image": _IMAGE})
    return {
        "vae_encoder": entry(file, classes[0], kwargs, encoder),
        "vae_decoder": entry(file, classes[1], kwargs, decoder),
    }


def text_encoder_entry(file: str, kwargs: Mapping[str, Any]) -> Entry:
    """tokens -> embeddings."""
    signature = Signature({"tokens": ("B", TOKENS)}, {"embeddings": ("B", TOKENS, int(kwargs["hidden_size"]))})
    return entry(file, "clip_text.ClipTextEncoder", kwargs, signature)


def face_entry(network: str, file: str, architecture: str, kwargs: Mapping[str, Any]) -> Entry:
    """w_encoder, w_projection, identity, parser or landmarks."""
    grid: Dims = ("B", 3, GRID_PX, GRID_PX)
    code: Dims = ("B", N_STYLES, int(kwargs.get("style_dim", STYLE_DIM)))
    if network == "identity":
        px = _IDENTITY_PX[architecture]
        return entry(
            file, architecture, kwargs, Signature({"image": ("B", 3, px, px)}, {"embedding": ("B", EMBEDDING)})
        )
    tokens: Dims = ("B", W_TOKENS, int(kwargs.get("cross_attention_dim", 768)))
    signatures = {
        "w_encoder": Signature({"image": ("B", 3, 256, 256)}, {"w_plus": code}),
        "w_projection": Signature({"w_plus": code}, {"w_tokens": tokens}),
        "parser": Signature({"image": grid}, {"probabilities": ("B", 4, GRID_PX, GRID_PX)}),
        "landmarks": Signature({"image": grid}, {"landmarks": ("B", 68, 2), "presence": ("B", 1)}),
    }
    return entry(file, architecture, kwargs, signatures[network])


def check_code_width(what: str, kwargs: Mapping[str, Any]) -> None:
    """Raise BundleError for a network whose codes are not e4e's."""
    width = int(kwargs.get("style_dim", STYLE_DIM))
    if width != STYLE_DIM:
        raise BundleError(f"{what} has styles of {width} numbers, codes of {N_STYLES} x {STYLE_DIM} are accepted")


def _name(dim: str) -> str:
    return dim.partition("/")[0]


def _tensor(dims: list[int | str], key: str) -> dict[str, Any]:
    return {"shape": dims, "dtype": "int64" if key == "tokens" else "float32"}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
