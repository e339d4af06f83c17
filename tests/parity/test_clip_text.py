"""CLIP's text encoder against transformers' hidden states and a float64 transcription of the network, and in ONNX Runtime."""

from __future__ import annotations

import sys
from inspect import signature
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from mien.engine.errors import BundleError, UnavailableError
from mien.engine.networks.clip_text import ClipTextEncoder, clip_text_kwargs
from mien.export.onnx import export_onnx

MINI: dict[str, Any] = {
    "model_type": "clip_text_model",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
}
# config.json of the text encoders of stable-diffusion-v1-5 and stable-diffusion-2-1, less what says nothing of the network
SD1 = {
    "architectures": ["CLIPTextModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
SD2 = {
    **SD1,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
}


def make_pair(config: dict[str, Any], clip_skip: int = 0) -> tuple[CLIPTextModel, ClipTextEncoder]:
    """transformers' network with every weight drawn, and ours with the published names."""
    torch.manual_seed(0)
    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    reference = CLIPTextModel(CLIPTextConfig(**fields, attn_implementation="eager")).eval()
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    network = ClipTextEncoder(**clip_text_kwargs(config), clip_skip=clip_skip).eval()
    published = {f"text_model.{key}": weight for key, weight in reference.state_dict().items()}
    network.load_state_dict({key: published[key] for key in network.state_dict()})
    return reference, network


def draw_tokens(batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, MINI["vocab_size"], (batch, 77)))


def transcribe(weights: dict[str, np.ndarray], tokens: np.ndarray, heads: int, layers: int) -> np.ndarray:
    """The text transformer in float64: pre-norm blocks, each token sees those before it, x sigmoid(1.702 x)."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["text_model.embeddings.token_embedding.weight"][tokens]
    x = x + weights["text_model.embeddings.position_embedding.weight"]
    hidden = np.triu(np.full((77, 77), -np.inf), 1)
    for layer in range(layers):
        name = f"text_model.encoder.layers.{layer}"
        rows = norm(x, f"{name}.layer_norm1")
        q, k, v = (
            linear(rows, f"{name}.self_attn.{part}_proj").reshape(*rows.shape[:2], heads, -1).swapaxes(1, 2)
            for part in "qkv"
        )
        logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1]) + hidden
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        attended = (odds / odds.sum(-1, keepdims=True)) @ v
        x = x + linear(attended.swapaxes(1, 2).reshape(x.shape), f"{name}.self_attn.out_proj")
        rows = linear(norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        x = x + linear(rows / (1 + np.exp(-1.702 * rows)), f"{name}.mlp.fc2")
    return norm(x, "text_model.final_layer_norm")


def relative_error(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float(np.abs(np.asarray(got) - np.asarray(want)).max() / np.abs(np.asarray(want)).max())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@torch.inference_mode()
def test_clip_skip_is_that_of_diffusers(clip_skip: int, batch: int):
    """diffusers: hidden_states[-(clip_skip + 1)] through the final layer norm; none skipped: the last hidden state."""
    reference, network = make_pair(MINI, clip_skip)
    tokens = draw_tokens(batch)
    answer = reference(tokens, output_hidden_states=True)
    want = reference.final_layer_norm(answer.hidden_states[-(clip_skip + 1)])
    assert relative_error(network(tokens), want) < 1e-4
    assert (relative_error(want, answer.last_hidden_state) < 1e-4) == (clip_skip == 0)


@pytest.mark.parametrize("clip_skip", [0, 2])
@torch.inference_mode()
def test_the_transcribed_formula_answers_the_same(clip_skip: int):
    _, network = make_pair(MINI, clip_skip)
    tokens = draw_tokens(2)
    weights = {key: weight.double().numpy() for key, weight in network.state_dict().items()}
    want = transcribe(weights, tokens.numpy(), heads=2, layers=4 - clip_skip)
    assert relative_error(network(tokens), want) < 1e-4


@torch.inference_mode()
def test_sd2s_activation():
    reference, network = make_pair({**MINI, "hidden_act": "gelu"})
    tokens = draw_tokens(1)
    assert relative_error(network(tokens), reference(tokens).last_hidden_state) < 1e-4
    assert relative_error(network(tokens), make_pair(MINI)[1](tokens)) > 1e-3


def test_the_configs_of_sd():
    kwargs = clip_text_kwargs(SD1)
    defaults = {key: value.default for key, value in signature(ClipTextEncoder).parameters.items()}
    assert {**kwargs, "clip_skip": 0} == defaults
    assert clip_text_kwargs({"model_type": "clip", "text_config": SD2}) == {
        **kwargs,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
    }
    assert clip_text_kwargs({}) == {key: getattr(CLIPTextConfig(), key) for key in kwargs}
    with torch.device("meta"):
        weights = ClipTextEncoder().state_dict()
    assert sum(weight.numel() for weight in weights.values()) == 123_060_480
    assert weights["text_model.embeddings.token_embedding.weight"].shape == (49408, 768)
    assert "text_model.encoder.layers.11.self_attn.out_proj.bias" in weights


@pytest.mark.parametrize(
    "change, word",
    [
        ({"model_type": "t5"}, "model_type is 't5'"),
        ({"hidden_size": "768"}, "hidden_size is '768'"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 does not divide hidden_size 32"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_act": ["gelu"]}, "hidden_act is ['gelu']"),
        ({"text_config": None}, "text_config is None"),
    ],
)
def test_a_config_it_cannot_do_is_refused(change: dict[str, Any], word: str):
    with pytest.raises(BundleError, match="^text/config.json: ") as caught:
        clip_text_kwargs({**MINI, **change}, "text/config.json")
    assert word in str(caught.value)


@pytest.mark.parametrize("clip_skip", [-1, 4])
def test_a_skip_beyond_the_layers_is_refused(clip_skip: int):
    with pytest.raises(BundleError, match=f"clip_skip is {clip_skip}, not from 0 to 3"):
        ClipTextEncoder(**clip_text_kwargs(MINI), clip_skip=clip_skip)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnavailableError, match=r"pip install 'mien\[export\]'"):
        ClipTextEncoder(**clip_text_kwargs(MINI))


@torch.inference_mode()
def test_onnx_runtime_answers_as_torch():
    _, network = make_pair(MINI, clip_skip=1)
    model = export_onnx(network, {"tokens": ("batch", 77)}, ("embeddings",), {"tokens": draw_tokens(2)})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        tokens = draw_tokens(batch)
        (got,) = session.run(None, {"tokens": tokens.numpy()})
        assert relative_error(got, network(tokens)) < 1e-4
