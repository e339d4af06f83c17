"""LoRAs whose layers have LDM's names, and those that PEFT itself saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mien.engine.errors import BundleError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from mien.engine.checkpoints.lora import fuse, lora_metadata  # noqa: E402
from mien.engine.checkpoints.reading import read_metadata, write_safetensors  # noqa: E402
from tests import published_ldm  # noqa: E402
from tests.lora_layers import SCALE, Triple, assert_close, dotted, expected, kohya  # noqa: E402


@pytest.mark.parametrize("linear", [False, True], ids=["SD1.5", "SD2.1"])
@pytest.mark.parametrize("form", ["kohya", "ComfyUI"])
def test_names_of_ldm(form: str, linear: bool) -> None:
    """Every layer of four blocks of two, as ComfyUI's extraction and tools for the web UI write them."""
    down_types, up_types = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
    with torch.device("meta"):
        net = diffusers.UNet2DConditionModel(
            block_out_channels=(32, 32, 64, 64),
            down_block_types=(*down_types, "DownBlock2D"),
            up_block_types=("UpBlock2D", *up_types),
            cross_attention_dim=48,
            attention_head_dim=4,
            time_cond_proj_dim=8,
            use_linear_projection=linear,
        )
    state = {key: torch.ones(tensor.shape) for key, tensor in net.state_dict().items() if tensor.ndim > 1}
    embedding = state.pop("time_embedding.cond_proj.weight")
    theirs = [key.removeprefix("model.diffusion_model.") for key in published_ldm.unet(state)]
    state["time_embedding.cond_proj.weight"] = embedding
    write = kohya if form == "kohya" else dotted("diffusion_model.", ("lora_down", "lora_up"))
    lora: dict[str, Any] = {}
    layers: dict[str, Triple] = {}
    for i, (key, name) in enumerate(zip(state, [*theirs, "time_embed.cond_proj.weight"], strict=True)):
        down, up = torch.full((2, *state[key].shape[1:]), float(i)), torch.ones(state[key].shape[0], 2)
        layers[key.removesuffix(".weight")] = layer = (down, up.reshape(*up.shape, *[1] * (down.ndim - 2)), 1.0)
        lora |= write(name.removesuffix(".weight"), *layer)
    fused = fuse({"unet": state}, lora, SCALE)
    assert len(state) > 250
    assert_close(fused["unet"], expected(state, layers))


def test_alpha_of_peft_itself(tmp_path: Path) -> None:
    """adapter_model.safetensors has no alpha: it lies in adapter_config.json beside it."""
    state = {f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{name}.weight": torch.randn(8, 8) for name in "qkv"}
    layers: dict[str, Triple] = {key[:-7]: (torch.randn(4, 8), torch.randn(8, 4), None) for key in state}
    forms = {prefix: dotted(prefix, ("lora_A", "lora_B")) for prefix in ("base_model.model.", "unet.")}
    peft, other = (
        {key: tensor for name, layer in layers.items() for key, tensor in write(name, *layer).items()}
        for write in forms.values()
    )
    path, beside = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    write_safetensors(path, peft)
    with pytest.raises(BundleError, match="is PEFT's, whose adapter_config.json has its lora_alpha: put that file"):
        lora_metadata(path, peft)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {}, "use_rslora": False}
    beside.write_text(json.dumps(settings))
    fused = fuse({"unet": state}, peft, SCALE, metadata=lora_metadata(path, peft))
    known: dict[str, Triple] = {name: (down, up, 8.0) for name, (down, up, _) in layers.items()}
    assert_close(fused["unet"], expected(state, known))
    beside.write_text(json.dumps(settings | {"use_rslora": True}))
    with pytest.raises(BundleError, match="use_rslora is set, which is not read"):
        fuse({"unet": state}, peft, SCALE, metadata=lora_metadata(path, peft))
    write_safetensors(path, other)
    assert lora_metadata(path, other) == read_metadata(path)
