"""Weight files in every format and nesting, their hashes and their writing, diffusers' folders, and what does not fit."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import stat
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import BundleError, RunError

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from mien.engine.checkpoints.diffusers_folder import current_names, find_part, part_names  # noqa: E402
from mien.engine.checkpoints.matching import check, likely_cause  # noqa: E402
from mien.engine.checkpoints.reading import (  # noqa: E402
    flatten,
    hash_file,
    read_metadata,
    read_nested,
    read_weights,
    write_safetensors,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4, dtype=torch.float16)}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


@pytest.mark.parametrize("name", ["w.safetensors", "named_wrongly.ckpt"])
def test_safetensors_round_trip(tmp_path: Path, name: str) -> None:
    write_safetensors(tmp_path / "new" / name, WEIGHTS, {"made": "here"})
    assert same(read_weights(tmp_path / "new" / name), WEIGHTS)
    assert same(safetensors_torch.load_file(tmp_path / "new" / name), WEIGHTS)
    assert read_metadata(tmp_path / "new" / name) == {"format": "pt", "made": "here"}
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".safetensors"])
def test_pickles(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(OrderedDict(WEIGHTS), path, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(path), WEIGHTS)
    assert read_metadata(path) == {}


def test_nesting(tmp_path: Path) -> None:
    mean = torch.zeros(2)
    content = {"state_dict": {"module.x": torch.ones(1)}, "latent_avg": mean, "opts": {"lr": 0.1}, "epoch": 3}
    torch.save(content, tmp_path / "e4e.pt")
    assert same(read_weights(tmp_path / "e4e.pt"), {"x": torch.ones(1), "latent_avg": mean})
    assert read_nested(tmp_path / "e4e.pt")["opts"] == {"lr": 0.1}
    assert set(flatten({"w_proj": {"a": mean}, "wplus_adapter": {"1": {"b": mean}}}, "w.bin")) == {
        "w_proj.a",
        "wplus_adapter.1.b",
    }
    parameter = flatten({"a": torch.nn.Parameter(mean)}, "w.bin")["a"]
    assert not parameter.requires_grad and type(parameter) is torch.Tensor
    with pytest.raises(BundleError, match="w.bin holds the key 'a.b' twice"):
        flatten({"a.b": mean, "a": {"b": mean}}, "w.bin")


def test_what_lightning_leaves_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """v1-5-pruned.ckpt names its callback's class, which is not installed here and is not looked for; others keep the state
    of random numbers, arrays and paths.
    """

    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    module = ModuleType(name)
    vars(module)["ModelCheckpoint"] = callback
    allowed = torch.serialization.get_safe_globals()
    with monkeypatch.context() as patch:
        for known in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
            patch.setitem(sys.modules, known, module if known == name else ModuleType(known))
        beside = {"callbacks": {callback: {"best": "x"}, "own": callback()}, "opts": argparse.Namespace(lr=0.1)}
        beside |= {"rng": np.random.get_state(), "losses": np.ones(3), "best": tmp_path, "labels": {1, 2}}
        torch.save({"state_dict": WEIGHTS, **beside, "loss": np.float64(0.5)}, tmp_path / "v1-5-pruned.ckpt")
    assert same(read_weights(tmp_path / "v1-5-pruned.ckpt"), WEIGHTS)
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def test_hash(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "w").write_bytes(data)
    assert hash_file(tmp_path / "w") == hashlib.sha256(data).hexdigest()


def test_writing_is_atomic_and_takes_what_torch_gives(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    fused = torch.arange(12.0).reshape(6, 2)
    q, k, _ = fused.chunk(3)
    tied = torch.ones(3, requires_grad=True)
    tensors = {"q": q, "k": k, "turned": fused.T, "one": tied, "two": tied}
    write_safetensors(path, tensors)
    assert same(read_weights(path), {key: t.detach().contiguous() for key, t in tensors.items()})
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_safetensors(path, read_weights(path) | {"q": q + 1})  # over the file that is mapped
    assert torch.equal(read_weights(path)["q"], q + 1) and torch.equal(read_weights(path)["k"], k)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_safetensors(path, tensors, {"bad": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(RunError, match="cannot write"):
        write_safetensors(path / "below.safetensors", tensors)


def repository(root: Path, index: dict[str, Any] | None = None) -> Path:
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    parts |= {"text_encoder": ["transformers", "CLIPTextModel"], "safety_checker": [None, None]}
    root.mkdir()
    (root / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **parts, **(index or {})})
    )
    for name, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"_class_name": kind, "in_channels": 4}))
    (root / "text_encoder").mkdir()
    (root / "text_encoder" / "config.json").write_text(json.dumps({"architectures": ["CLIPTextModel"]}))
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    return root


def test_repository(tmp_path: Path) -> None:
    root = repository(tmp_path / "sd")
    assert part_names(root) == ("unet", "vae", "text_encoder")
    write_safetensors(root / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"a": torch.ones(1)})
    assert find_part(root, "unet").files[0].name == "diffusion_pytorch_model.fp16.safetensors"
    write_safetensors(root / "unet" / "diffusion_pytorch_model.safetensors", WEIGHTS)
    torch.save({"a": torch.ones(1)}, root / "unet" / "diffusion_pytorch_model.bin")
    for folder in (root, root / "unet"):
        part = find_part(folder, "unet")
        assert part.config["in_channels"] == 4 and same(part.read(), WEIGHTS)
    torch.save(
        {"text_model.embeddings.position_ids": torch.arange(3), **WEIGHTS}, root / "text_encoder" / "pytorch_model.bin"
    )
    assert same(find_part(root, "text_encoder").read(), WEIGHTS)
    assert find_part(root, "scheduler").config == {"prediction_type": "v_prediction"}
    old = {f"encoder.mid_block.attentions.0.{n}.weight": torch.ones(1) for n in ("query", "key", "value", "proj_attn")}
    torch.save(old, root / "vae" / "diffusion_pytorch_model.bin")
    assert [key.split(".", 4)[-1] for key in find_part(root, "vae").read()] == [
        f"{n}.weight" for n in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    unet = {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight": torch.ones(1)}
    assert current_names(unet) == unet


def test_shards(tmp_path: Path) -> None:
    unet = repository(tmp_path / "sd") / "unet"
    names = {"a.weight": "m-00001-of-00002.safetensors", "b.bias": "m-00002-of-00002.safetensors"}
    for key, file in names.items():
        write_safetensors(unet / file, {key: WEIGHTS[key]})
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert same(find_part(tmp_path / "sd", "unet").read(), WEIGHTS)
    (unet / names["b.bias"]).unlink()
    with pytest.raises(BundleError, match="has no m-00002-of-00002.safetensors, which .*index.json names"):
        find_part(unet, "unet")
    index.write_text(json.dumps({"weight_map": {"a": "../m.safetensors"}}))
    with pytest.raises(BundleError, match="'../m.safetensors', which is refused"):
        find_part(unet, "unet")


def test_what_a_repository_lacks(tmp_path: Path) -> None:
    root = repository(tmp_path / "sd")
    (root / "scheduler" / "config.json").write_text(json.dumps({"architectures": 5}))
    cases = [
        (root / "scheduler", "unet", "has no weights"),
        (root, "controlnet", "has no folder 'controlnet': model_index.json names unet, vae, text_encoder"),
        (root, "unet", "has no weights: it needs diffusion_pytorch_model.safetensors"),
        (root, "text_encoder", "has no weights: it needs model.safetensors"),
        (root / "vae", "unet", "is the folder of a part of class AutoencoderKL, not of a unet"),
        (tmp_path, "unet", "has no config.json: give a diffusers repository"),
        (tmp_path / "none", "unet", "there is no folder"),
    ]
    (root / "tokenizer").mkdir()
    cases.append((root, "tokenizer", "has no tokenizer/tokenizer_config.json"))
    for folder, name, words in cases:
        with pytest.raises(BundleError) as caught:
            find_part(folder, name)
        assert words in str(caught.value)
    (root / "unet" / "config.json").write_text("<html>")
    with pytest.raises(BundleError, match="config.json is not JSON"):
        find_part(root, "unet")


K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
GUIDANCE = "time_embedding.cond_proj.weight"
MOTION = "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight"
UNET = {
    "conv_in.weight": (320, 4, 3, 3),
    "conv_in.bias": (320,),
    K: (320, 768),
    "up_blocks.0.resnets.0.norm1.weight": (1280,),
}


def shaped(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize(
    "change, words",
    [
        ({K: (320, 1024)}, f"sd.safetensors: {K!r} is (320, 1024), expected (320, 768): "
         "this looks like an SD2.1 file in an SD1.5 slot"),
        ({K: (320, 2048)}, "SDXL file in an SD1.5 slot"),
        ({"conv_in.weight": (320, 8, 3, 3)}, "'conv_in.weight' is (320, 8, 3, 3), expected (320, 4, 3, 3): "
         "this looks like an InstructPix2Pix model (8 input channels) where a text-to-image one"),
        ({"conv_in.weight": (320, 9, 3, 3)}, "an inpainting model (9 input channels)"),
        ({"conv_in.weight": (320, 5, 3, 3)}, "a depth model (5 input channels)"),
        ({"add_embedding.linear_1.weight": (1280, 2816)}, "'add_embedding.linear_1.weight' (1280, 2816) belongs to no layer: "
         "it is an SDXL model where a UNet belongs"),
        ({"conditioner.embedders.1.model.ln_final.weight": (1280,)}, "it is an SDXL model where a UNet belongs"),
        ({"lora_unet_down_blocks_0.alpha": ()}, "it is a LoRA where a UNet belongs"),
        ({"unet.down_blocks.0.attn1.to_q.lora_A.weight": (4, 320)}, "it is a LoRA"),
        ({MOTION: (320, 320)}, "it is an AnimateDiff motion module where a UNet belongs"),
        ({"control_model.time_embed.0.weight": (1280, 320)}, "it is an original ControlNet where a UNet belongs"),
        ({"controlnet_mid_block.weight": (1, 1), "controlnet_down_blocks.0.weight": (1, 1)},
         "(1 more unexpected): it is a ControlNet where a UNet belongs"),
        ({GUIDANCE: (320, 256)}, "full LCM UNet"),
        ({"unknown": (1,)}, "'unknown' (1,) belongs to no layer"),
    ],
)  # fmt: skip
def test_likely_causes(change: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(BundleError) as caught:
        check(shaped(UNET | change), UNET, "sd.safetensors")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_check_counts_and_accepts() -> None:
    check(shaped(UNET), UNET, "unet")
    with pytest.raises(BundleError) as caught:
        check(shaped({K: (320, 768), "conv_in.bias": (4,), "x": (1,), "y": (1,)}), UNET, "unet")
    assert str(caught.value) == "unet: 'conv_in.bias' is (4,), expected (320,) (2 more missing, 2 more unexpected)"
    with pytest.raises(BundleError, match=r"unet: 'conv_in.weight' \(320, 4, 3, 3\) is missing \(3 more missing\)$"):
        check({}, UNET, "unet")
    tiny = {"encoder.layers.0.weight": (64, 3, 3, 3)}
    full = {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.mid_block.resnets.0.norm1.weight": (512,)}
    assert likely_cause(full, tiny) == "it is an autoencoder (AutoencoderKL) where a tiny autoencoder (TAESD) belongs"
    assert likely_cause(tiny, full) == "it is a tiny autoencoder (TAESD) where an autoencoder (AutoencoderKL) belongs"
    text = {"text_model.embeddings.token_embedding.weight": (49408, 768)}
    wide = {"text_model.embeddings.token_embedding.weight": (49408, 1024)}
    assert likely_cause(wide, text) == "this looks like an SD2.1 file in an SD1.5 slot"
    assert likely_cause(text, wide) == "this looks like an SD1.5 file in an SD2.1 slot"
    assert likely_cause(UNET, UNET | {GUIDANCE: (320, 256)}) is not None
