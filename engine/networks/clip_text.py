"""CLIP's text encoder (Radford et al. 2021, section 2.4), as Stable Diffusion 1 and 2 read it; the network is transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from mien.engine.errors import BundleError, UnavailableError

# What transformers takes for a size that a config.json does not have.
SIZES = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}
ACTIVATIONS = ("quick_gelu", "gelu")


class ClipTextEncoder(nn.Module):
    """Tokens (B, 77) int64 -> embeddings (B, 77, D): the last hidden state, through the final layer norm.

    Parameter names as published (`text_model.embeddings...`). Defaults: SD 1. clip_skip: how many of the last layers are left out, 0 none;
    their weights are then no part of the network. Padding is attended to like any token, as Stable Diffusion was trained.
    Raises UnavailableError without transformers.
    """

    def __init__(
        self,
        vocab_size: int = 49408,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        max_position_embeddings: int = 77,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        clip_skip: int = 0,
    ) -> None:
        super().__init__()
        if find_spec("transformers") is None:
            raise UnavailableError("the text encoder needs transformers: pip install 'mien[export]'")
        if not 0 <= clip_skip < num_hidden_layers:
            raise BundleError(f"clip_skip is {clip_skip}, not from 0 to {num_hidden_layers - 1}: give it a smaller one")
        transformers = import_module("transformers")
        config = transformers.CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_hidden_layers - clip_skip,
            num_attention_heads=num_attention_heads,
            max_position_embeddings=max_position_embeddings,
            hidden_act=hidden_act,
            layer_norm_eps=layer_norm_eps,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            attn_implementation="sdpa",
        )
        self.text_model = transformers.CLIPTextModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode."""
        embeddings: Tensor = self.text_model(tokens).last_hidden_state
        return embeddings


def clip_text_kwargs(config: Mapping[str, Any], source: str = "the text encoder's config.json") -> dict[str, Any]:
    """The keyword arguments out of transformers' config.json of the text encoder, or of the whole of CLIP.

    Raises BundleError for what is no CLIP text encoder.
    """
    config = config.get("text_config", config)
    if not isinstance(config, Mapping):
        raise BundleError(f"{source}: text_config is {config!r}, not an object: use the text encoder of SD 1 or SD 2")
    kwargs: dict[str, Any] = {key: config.get(key, value) for key, value in SIZES.items()}
    kind = config.get("model_type", "clip_text_model")
    if kind not in ("clip_text_model", "clip"):
        raise BundleError(
            f"{source}: model_type is {kind!r}, not 'clip_text_model': use the text encoder of SD 1 or SD 2"
        )
    for key, value in kwargs.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise BundleError(f"{source}: {key} is {value!r}, not a whole number above 0")
    if kwargs["hidden_size"] % kwargs["num_attention_heads"]:
        raise BundleError(
            f"{source}: num_attention_heads {kwargs['num_attention_heads']} does not divide hidden_size {kwargs['hidden_size']}"
        )
    kwargs["hidden_act"] = config.get("hidden_act", "quick_gelu")
    if kwargs["hidden_act"] not in tuple(ACTIVATIONS):
        raise BundleError(f"{source}: hidden_act is {kwargs['hidden_act']!r}, not one of {', '.join(ACTIVATIONS)}")
    kwargs["layer_norm_eps"] = config.get("layer_norm_eps", 1e-5)
    if not isinstance(kwargs["layer_norm_eps"], float) or not 0 < kwargs["layer_norm_eps"] < 1:
        raise BundleError(f"{source}: layer_norm_eps is {kwargs['layer_norm_eps']!r}, not a number between 0 and 1")
    return kwargs
