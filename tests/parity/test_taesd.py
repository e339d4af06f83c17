"""Our TAESD against diffusers' AutoencoderTiny on the same random weights, with the published files, and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderTiny

from mien.engine.errors import BundleError
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder, from_original, taesd_kwargs
from mien.export.onnx import export_onnx

# config.json of madebyollin/taesd
PUBLISHED: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
MINI = {
    **PUBLISHED,
    "decoder_block_out_channels": [16] * 4,
    "encoder_block_out_channels": [16] * 4,
    "latent_channels": 6,
    "num_decoder_blocks": [2, 3, 1, 1],
    "num_encoder_blocks": [1, 1, 3, 2],
}


def make_pair(config: dict[str, Any]) -> tuple[AutoencoderTiny, TaesdEncoder, TaesdDecoder]:
    """diffusers' network with its random weights, and our halves with the same; each half takes exactly its part."""
    torch.manual_seed(0)
    reference = AutoencoderTiny.from_config(config).eval()
    weights = reference.state_dict()
    kwargs = taesd_kwargs(config)
    halves = TaesdEncoder(**kwargs).eval(), TaesdDecoder(**kwargs).eval()
    for half in halves:
        half.load_state_dict({key: weights[key] for key in half.state_dict()})
    assert sorted(key for half in halves for key in half.state_dict()) == sorted(weights)
    return reference, *halves


def relative_error(got: Any, want: Any) -> float:
    assert got.shape == want.shape
    return float(np.abs(np.asarray(got) - np.asarray(want)).max() / np.abs(np.asarray(want)).max())


@pytest.mark.parametrize("config, shape", [(PUBLISHED, (1, 40, 72)), (MINI, (3, 64, 40))])
@torch.inference_mode()
def test_both_halves_answer_as_diffusers(config: dict[str, Any], shape: tuple[int, int, int]):
    reference, encoder, decoder = make_pair(config)
    batch, height, width = shape
    image = torch.rand(batch, 3, height, width) * 2 - 1
    latents = reference.encode(image).latents
    assert latents.shape == (batch, config["latent_channels"], height // 8, width // 8)
    assert relative_error(encoder(image), latents) < 1e-4
    beyond = 4 * torch.randn_like(latents)  # where the soft clamp bends
    assert relative_error(decoder(beyond), reference.decode(beyond).sample) < 1e-4


def test_the_defaults_are_those_of_sd():
    count = [sum(weight.numel() for weight in half().parameters()) for half in (TaesdEncoder, TaesdDecoder)]
    assert count == [1_222_532, 1_222_531]
    kwargs = {"latent_channels": 4, "channels": 64, "num_blocks": [1, 3, 3, 3]}
    assert taesd_kwargs(PUBLISHED) == taesd_kwargs({}) == kwargs


@pytest.mark.parametrize(
    "change, word",
    [
        ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL'"),
        ({"act_fn": "silu"}, "act_fn is 'silu'"),
        ({"scaling_factor": 0.18215}, "scaling_factor is 0.18215"),
        ({"num_decoder_blocks": [3, 3, 3, 3]}, "num_decoder_blocks is [3, 3, 3, 3]"),
        ({"encoder_block_out_channels": [32, 64, 64, 64]}, "not one width"),
        ({"latent_channels": 0}, "whole numbers above 0"),
    ],
)
def test_a_config_it_cannot_do_is_refused(change: dict[str, Any], word: str):
    with pytest.raises(BundleError, match="^taesd/config.json: ") as caught:
        taesd_kwargs({**PUBLISHED, **change}, "taesd/config.json")
    assert word in str(caught.value)


def original(half: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A half's weights under the names of the original files, where the decoder's layer 0 is the clamp."""
    shift = int(isinstance(half, TaesdDecoder))
    names = {}
    for key, weight in half.state_dict().items():
        _, _, number, rest = key.split(".", 3)
        names[f"{int(number) + shift}.{rest}"] = weight
    return names


@pytest.mark.parametrize("half, first", [("encoder", "0.weight"), ("decoder", "1.weight")])
def test_original_names_become_diffusers(half: str, first: str):
    network: torch.nn.Module = {"encoder": TaesdEncoder, "decoder": TaesdDecoder}[half](channels=16)
    published = original(network)
    assert first in published and "3.conv.2.bias" in published
    renamed = from_original(published, half)
    wanted = network.state_dict()
    assert list(renamed) == list(wanted) and all(torch.equal(renamed[key], wanted[key]) for key in wanted)
    other = {"encoder": "decoder", "decoder": "encoder"}[half]
    with pytest.raises(BundleError, match=f"this is not TAESD's {other}: give taesd_{other}.pth"):
        from_original(published, other)


@pytest.mark.parametrize("weights", [{}, {"encoder.layers.0.weight": 0}])
def test_what_is_no_original_file_is_refused(weights: dict[str, int]):
    with pytest.raises(BundleError, match="no weight of an original TAESD file"):
        from_original(weights, "encoder")


@torch.inference_mode()
def test_onnx_runtime_answers_as_torch():
    kwargs: dict[str, Any] = {"channels": 16, "num_blocks": (1, 1, 2), "has_pool": True}
    encoder, decoder = TaesdEncoder(**kwargs), TaesdDecoder(**kwargs)
    image, latents = torch.rand(3, 3, 40, 72) * 2 - 1, torch.randn(3, 4, 5, 9)
    for half, name, value, size in ((encoder, "image", image, 8), (decoder, "latents", latents, 2)):
        free = {name: ("batch", value.shape[1], "height", "width")}
        example = {name: torch.rand(2, value.shape[1], size, size + 4)}
        model = export_onnx(half, free, ("answer",), example)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {name: value.numpy()})
        assert relative_error(got, half(value)) < 1e-4


def load_original(path: Path, half: str, **kwargs: Any) -> torch.nn.Module:
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared data")
    network: torch.nn.Module = {"encoder": TaesdEncoder, "decoder": TaesdDecoder}[half](**kwargs)
    network.load_state_dict(from_original(torch.load(path, weights_only=True), half))
    return network.eval()


@pytest.mark.parametrize("name, kwargs", [("taesd", {}), ("taef2", {"latent_channels": 32, "has_pool": True})])
@torch.inference_mode()
def test_published_weights_keep_a_face(shared_data: Path, name: str, kwargs: dict[str, Any]):
    """There and back, 512 px of a portrait: TAEF2 keeps 35 to 41 dB, TAESD, with an eighth of its latents, less."""
    encoder = load_original(shared_data / "weights" / f"{name}_encoder.pth", "encoder", **kwargs)
    decoder = load_original(shared_data / "weights" / f"{name}_decoder.pth", "decoder", **kwargs)
    picture = cv2.imread(str(shared_data / "images" / "lp_s0.jpg"))
    crop = picture[96:608, 44:556, ::-1].transpose(2, 0, 1)
    image = torch.from_numpy(np.ascontiguousarray(crop, np.float32))[None] / 127.5 - 1
    latents = encoder(image)
    assert 0.3 < latents.std() < 3
    error = (decoder(latents).clamp(-1, 1) - image) / 2
    assert -10 * error.square().mean().log10() > {"taesd": 25, "taef2": 35}[name]
