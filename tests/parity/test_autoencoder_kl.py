"""Our AutoencoderKL against diffusers', on the same random weights, and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL

from mien.engine.errors import BundleError
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder, kl_kwargs, rename_old
from mien.export.onnx import export_onnx

MINI: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 64,
}
CONFIGS = {
    "sd": MINI,
    "no attention, other widths": {
        **MINI,
        "block_out_channels": [16, 32, 32, 48],
        "layers_per_block": 2,
        "latent_channels": 6,
        "scaling_factor": 0.13025,
        "mid_block_add_attention": False,
    },
}
SIZES = [(1, 40, 72), (3, 64, 48)]
# config.json of the VAE of stable-diffusion-v1-5 and of stable-diffusion-2-1
SD1 = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SD2 = {**SD1, "sample_size": 768, "scaling_factor": 0.18215, "force_upcast": True, "latents_mean": None}


def make_pair(config: dict[str, Any], **changes: Any) -> tuple[AutoencoderKL, KlEncoder, KlDecoder]:
    """diffusers' network with every weight drawn, and our halves with the same; each half takes exactly its part."""
    torch.manual_seed(0)
    reference = AutoencoderKL.from_config(config).eval()
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    weights = reference.state_dict()
    kwargs = {**kl_kwargs(config), **changes}
    halves = KlEncoder(**kwargs).eval(), KlDecoder(**kwargs).eval()
    for half in halves:
        half.load_state_dict({key: weights[key] for key in half.state_dict()})
    taken = [key for half in halves for key in half.state_dict()]
    assert sorted(taken) == sorted(weights)
    return reference, *halves


def relative_error(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float(np.abs(np.asarray(got) - np.asarray(want)).max() / np.abs(np.asarray(want)).max())


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_both_halves_answer_as_diffusers(name: str, shape: tuple[int, int, int]):
    reference, encoder, decoder = make_pair(CONFIGS[name])
    batch, height, width = shape
    image = torch.rand(batch, 3, height, width) * 2 - 1
    factor = reference.config.scaling_factor
    latents = factor * reference.encode(image).latent_dist.mode()
    assert latents.shape == (batch, reference.config.latent_channels, height // 8, width // 8)
    assert relative_error(encoder(image), latents) < 1e-4
    noise = torch.randn_like(latents)
    assert relative_error(decoder(noise), reference.decode(noise / factor).sample) < 1e-4


@torch.inference_mode()
def test_a_factor_of_one_leaves_the_mode_unscaled():
    reference, encoder, decoder = make_pair(MINI, scaling_factor=1.0)
    image = torch.rand(1, 3, 24, 16) * 2 - 1
    mode = reference.encode(image).latent_dist.mode()
    assert relative_error(encoder(image), mode) < 1e-4
    assert relative_error(decoder(mode), reference.decode(mode).sample) < 1e-4


@pytest.mark.slow
@torch.inference_mode()
def test_full_size():
    reference, encoder, decoder = make_pair(SD1)
    image = torch.rand(1, 3, 64, 72) * 2 - 1
    latents = 0.18215 * reference.encode(image).latent_dist.mode()
    assert relative_error(encoder(image), latents) < 1e-4
    assert relative_error(decoder(latents), reference.decode(latents / 0.18215).sample) < 1e-4


def test_the_defaults_are_those_of_sd():
    """Parameters counted in systems' published files: 34,163,592 in the encoder, 49,490,179 in the decoder."""
    with torch.device("meta"):
        encoder, decoder = KlEncoder(), KlDecoder()
    count = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in (*encoder.named_children(), *decoder.named_children())
    }
    assert count == {"encoder": 34_163_592, "quant_conv": 72, "post_quant_conv": 20, "decoder": 49_490_179}
    for config in (SD1, SD2):
        assert kl_kwargs(config) == {
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
            "scaling_factor": 0.18215,
            "mid_block_add_attention": True,
        }


def test_old_names_become_todays():
    weights = make_pair(MINI)[0].state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    published = {}
    for key, weight in weights.items():
        for new, name in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        published[key] = weight
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in published
    renamed = rename_old(published)
    assert list(renamed) == list(weights)
    assert all(renamed[key] is weights[key] for key in weights)
    assert rename_old(weights) == dict(weights)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
        ({"use_quant_conv": False}, "use_quant_conv is False"),
        ({"shift_factor": 0.0609}, "shift_factor is 0.0609"),
        ({"act_fn": "relu"}, "act_fn is 'relu'"),
        ({"block_out_channels": None}, "block_out_channels is None"),
        ({"block_out_channels": [32, 0]}, "block_out_channels is [32, 0]"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types is"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "up_block_types is"),
        ({"down_block_types": 5}, "down_block_types is 5"),
        ({"layers_per_block": None}, "layers_per_block is None"),
        ({"latent_channels": 4.0}, "latent_channels is 4.0"),
        ({"norm_num_groups": 24}, "norm_num_groups 24 does not divide"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
    ],
)
def test_a_config_it_cannot_do_is_refused(change: dict[str, Any], word: str):
    with pytest.raises(BundleError, match="^vae/config.json: ") as caught:
        kl_kwargs({**MINI, **change}, "vae/config.json")
    assert word in str(caught.value)


@torch.inference_mode()
def test_onnx_runtime_answers_as_torch():
    halved = {key: value[:2] if isinstance(value, list) else value for key, value in MINI.items()}
    _, encoder, decoder = make_pair(halved)
    image, latents = torch.rand(3, 3, 40, 72) * 2 - 1, torch.randn(3, 4, 5, 9)
    for half, name, value, size in ((encoder, "image", image, 8), (decoder, "latents", latents, 4)):
        free = {name: ("batch", value.shape[1], "height", "width")}
        example = {name: torch.rand(2, value.shape[1], size, size + 2)}
        model = export_onnx(half, free, ("answer",), example)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {name: value.numpy()})
        assert relative_error(got, half(value)) < 1e-4
