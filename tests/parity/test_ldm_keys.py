"""LDM checkpoints: keys as the LDM code base makes them, converted here and by diffusers' converters, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mien.engine.errors import BundleError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

from mien.engine.checkpoints.diffusers_folder import find_part  # noqa: E402
from mien.engine.checkpoints.family import (  # noqa: E402
    controlnet_config,
    prediction_type,
    text_config,
    unet_config,
    vae_config,
)
from mien.engine.checkpoints.ldm import convert, part_names  # noqa: E402
from mien.engine.checkpoints.matching import check  # noqa: E402
from mien.engine.checkpoints.reading import read_weights, write_safetensors  # noqa: E402
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder, kl_kwargs  # noqa: E402
from mien.engine.networks.clip_text import clip_text_kwargs  # noqa: E402
from mien.engine.networks.sd_layout import Layout  # noqa: E402
from mien.engine.networks.sd_unet import ContextProjection, UNet  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
FULL, SMALL = (320, (1, 2, 4, 4)), (32, (1, 2, 2))


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def resnet(name: str, c_in: int, c: int, time: int) -> Shapes:
    out = layer(f"{name}.in_layers.0", c_in) | layer(f"{name}.in_layers.2", c, c_in, 3, 3)
    out |= layer(f"{name}.emb_layers.1", c, time) | layer(f"{name}.out_layers.0", c)
    out |= layer(f"{name}.out_layers.3", c, c, 3, 3)
    return out | (layer(f"{name}.skip_connection", c, c_in, 1, 1) if c_in != c else {})


def transformer(name: str, c: int, context: int, linear: bool) -> Shapes:
    inner, one = f"{name}.transformer_blocks.0", () if linear else (1, 1)
    out = layer(f"{name}.norm", c) | layer(f"{name}.proj_in", c, c, *one) | layer(f"{name}.proj_out", c, c, *one)
    for attention, width in (("attn1", c), ("attn2", context)):
        out |= layer(f"{inner}.{attention}.to_q", c, c, bias=False) | layer(f"{inner}.{attention}.to_out.0", c, c)
        out |= layer(f"{inner}.{attention}.to_k", c, width, bias=False)
        out |= layer(f"{inner}.{attention}.to_v", c, width, bias=False)
    out |= layer(f"{inner}.ff.net.0.proj", 8 * c, c) | layer(f"{inner}.ff.net.2", c, 4 * c)
    return out | layer(f"{inner}.norm1", c) | layer(f"{inner}.norm2", c) | layer(f"{inner}.norm3", c)


def unet_down(size: tuple[int, tuple[int, ...]], context: int, linear: bool, c_in: int) -> tuple[Shapes, list[int]]:
    """The keys of LDM's openaimodel.UNetModel up to the middle, and the channels of its skips."""
    base, factors = size
    time = 4 * base
    out = layer("time_embed.0", time, base) | layer("time_embed.2", time, time)
    out |= layer("input_blocks.0.0", base, c_in, 3, 3)
    skips, c, i = [base], base, 1
    for level, factor in enumerate(factors):
        for _ in range(2):
            out |= resnet(f"input_blocks.{i}.0", c, factor * base, time)
            c = factor * base
            if level < len(factors) - 1:
                out |= transformer(f"input_blocks.{i}.1", c, context, linear)
            skips, i = [*skips, c], i + 1
        if level < len(factors) - 1:
            out |= layer(f"input_blocks.{i}.0.op", c, c, 3, 3)
            skips, i = [*skips, c], i + 1
    out |= resnet("middle_block.0", c, c, time) | transformer("middle_block.1", c, context, linear)
    return out | resnet("middle_block.2", c, c, time), skips


def unet(size: tuple[int, tuple[int, ...]], context: int, linear: bool = False, c_in: int = 4) -> Shapes:
    base, factors = size
    out, skips = unet_down(size, context, linear, c_in)
    c, i = skips[-1], 0
    for level in reversed(range(len(factors))):
        for j in range(3):
            out |= resnet(f"output_blocks.{i}.0", c + skips.pop(), factors[level] * base, 4 * base)
            c, place = factors[level] * base, 1
            if level < len(factors) - 1:
                out |= transformer(f"output_blocks.{i}.1", c, context, linear)
                place = 2
            if level and j == 2:
                out |= layer(f"output_blocks.{i}.{place}.conv", c, c, 3, 3)
            i += 1
    return out | layer("out.0", base) | layer("out.2", 4, base, 3, 3)


def controlnet(size: tuple[int, tuple[int, ...]], context: int, linear: bool = False) -> Shapes:
    """The keys of ControlNet's cldm.ControlNet."""
    out, skips = unet_down(size, context, linear, 4)
    for i, c in enumerate(skips):
        out |= layer(f"zero_convs.{i}.0", c, c, 1, 1)
    hints = [3, 16, 16, 32, 32, 96, 96, 256, size[0]]
    for i, (c_in, c) in enumerate(zip(hints[:-1], hints[1:], strict=True)):
        out |= layer(f"input_hint_block.{2 * i}", c, c_in, 3, 3)
    return out | layer("middle_block_out.0", skips[-1], skips[-1], 1, 1)


def vae(channels: tuple[int, ...]) -> Shapes:
    """The keys of LDM's AutoencoderKL."""

    def block(name: str, c_in: int, c: int) -> Shapes:
        out = layer(f"{name}.norm1", c_in) | layer(f"{name}.conv1", c, c_in, 3, 3)
        out |= layer(f"{name}.norm2", c) | layer(f"{name}.conv2", c, c, 3, 3)
        return out | (layer(f"{name}.nin_shortcut", c, c_in, 1, 1) if c_in != c else {})

    top, last, out = channels[-1], len(channels) - 1, {}
    for half, first, c_end in (("encoder", channels[0], 8), ("decoder", top, 3)):
        out |= layer(f"{half}.conv_in", first, 3 if half == "encoder" else 4, 3, 3)
        out |= block(f"{half}.mid.block_1", top, top) | block(f"{half}.mid.block_2", top, top)
        out |= layer(f"{half}.mid.attn_1.norm", top)
        for name in ("q", "k", "v", "proj_out"):
            out |= layer(f"{half}.mid.attn_1.{name}", top, top, 1, 1)
        ending = top if half == "encoder" else channels[0]
        out |= layer(f"{half}.norm_out", ending) | layer(f"{half}.conv_out", c_end, ending, 3, 3)
    for i, c in enumerate(channels):
        for j in range(2):
            out |= block(f"encoder.down.{i}.block.{j}", channels[max(i - 1, 0)] if j == 0 else c, c)
        for j in range(3):
            out |= block(f"decoder.up.{i}.block.{j}", channels[min(i + 1, last)] if j == 0 else c, c)
        out |= layer(f"encoder.down.{i}.downsample.conv", c, c, 3, 3) if i < last else {}
        out |= layer(f"decoder.up.{i}.upsample.conv", c, c, 3, 3) if i else {}
    return out | layer("quant_conv", 8, 8, 1, 1) | layer("post_quant_conv", 4, 4, 1, 1)


def open_clip(width: int, layers: int, vocabulary: int) -> Shapes:
    """The keys of OpenCLIP's text tower, as LDM's FrozenOpenCLIPEmbedder keeps it."""
    out: Shapes = {"positional_embedding": (77, width), "text_projection": (width, width), "logit_scale": ()}
    out |= layer("token_embedding", vocabulary, width, bias=False) | layer("ln_final", width)
    for i in range(layers):
        name = f"transformer.resblocks.{i}"
        out |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
        out |= (
            layer(f"{name}.attn.out_proj", width, width) | layer(f"{name}.ln_1", width) | layer(f"{name}.ln_2", width)
        )
        out |= layer(f"{name}.mlp.c_fc", 4 * width, width) | layer(f"{name}.mlp.c_proj", width, 4 * width)
    return out


def clip(width: int, layers: int, vocabulary: int) -> Shapes:
    """The keys of transformers' CLIP text model, as LDM's FrozenCLIPEmbedder keeps it."""
    out = layer("text_model.embeddings.token_embedding", vocabulary, width, bias=False)
    out |= layer("text_model.embeddings.position_embedding", 77, width, bias=False)
    out |= layer("text_model.final_layer_norm", width) | {"text_model.embeddings.position_ids": (1, 77)}
    for i in range(layers):
        name = f"text_model.encoder.layers.{i}"
        for end in ("k_proj", "v_proj", "q_proj", "out_proj"):
            out |= layer(f"{name}.self_attn.{end}", width, width)
        out |= layer(f"{name}.mlp.fc1", 4 * width, width) | layer(f"{name}.mlp.fc2", width, 4 * width)
        out |= layer(f"{name}.layer_norm1", width) | layer(f"{name}.layer_norm2", width)
    return out


def weights(shapes: Shapes, prefix: str = "", device: str = "cpu") -> dict[str, Any]:
    random = torch.Generator(device).manual_seed(0) if device == "cpu" else None
    return {prefix + key: torch.randn(shape, generator=random, device=device) for key, shape in shapes.items()}


def shapes_of(state: Mapping[str, Any]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def assert_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []


REST = {"alphas_cumprod": (1000,), "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)}
UNET = "model.diffusion_model."


@pytest.mark.parametrize("context, linear", [(768, False), (1024, True)], ids=["SD1.5", "SD2.1"])
@pytest.mark.parametrize("c_in", [4, 5, 8, 9])
def test_unet(context: int, linear: bool, c_in: int) -> None:
    state = weights(unet(SMALL, context, linear, c_in), UNET) | weights(REST)
    ours = convert(state, "unet")
    assert_same(ours, single_file.convert_ldm_unet_checkpoint(state, {"layers_per_block": 2}))
    config = unet_config(shapes_of(ours))
    assert (config["in_channels"], config["cross_attention_dim"]) == (c_in, context)
    assert prediction_type(config) == ("unknown" if linear else "epsilon")
    net = diffusers.UNet2DConditionModel(norm_num_groups=32, **config)
    net.load_state_dict(ours)
    check(ours, shapes_of(net.state_dict()), "unet")


def test_guidance_embedding() -> None:
    state = weights(unet(SMALL, 64) | layer("time_embed.cond_proj", 32, 8, bias=False), UNET)
    ours = convert(state, "unet")
    assert unet_config(shapes_of(ours))["time_cond_proj_dim"] == 8
    with torch.device("meta"):
        net = diffusers.UNet2DConditionModel(norm_num_groups=32, **unet_config(shapes_of(ours)))
    check(ours, shapes_of(net.state_dict()), "unet")


@pytest.mark.parametrize("context, linear, heads", [(768, False, (8, 8, 8, 8)), (1024, True, (5, 10, 20, 20))])
def test_full_size_keys(context: int, linear: bool, heads: tuple[int, ...]) -> None:
    """Every key and shape of the published networks, without their values; and the bundle's own networks take them."""
    ours = convert(weights(unet(FULL, context, linear), UNET, "meta"), "unet")
    layout = Layout.from_config(unet_config(shapes_of(ours)))
    assert layout == Layout(num_attention_heads=heads, cross_attention_dim=context, use_linear_projection=linear)
    with torch.device("meta"):
        net = diffusers.UNet2DConditionModel(**unet_config(shapes_of(ours)))
        control = diffusers.ControlNetModel(**controlnet_of(context, linear)[1])
        own = UNet(**layout.kwargs()).state_dict() | ContextProjection(**layout.kwargs()).state_dict()
    check(ours, shapes_of(net.state_dict()), "unet")
    check(ours, shapes_of(own), "unet")
    assert len(ours) == 686
    check(controlnet_of(context, linear)[0], shapes_of(control.state_dict()), "controlnet")
    kl = convert(weights(vae((128, 256, 512, 512)), "first_stage_model.", "meta"), "vae")
    with torch.device("meta"):
        auto = diffusers.AutoencoderKL(**diffusers_vae(vae_config(shapes_of(kl))))
    check(kl, shapes_of(auto.state_dict()), "vae")
    kwargs = kl_kwargs(vae_config(shapes_of(kl)))
    with torch.device("meta"):
        check(kl, shapes_of(KlEncoder(**kwargs).state_dict() | KlDecoder(**kwargs).state_dict()), "vae")


def controlnet_of(context: int, linear: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    state = convert(weights(controlnet(FULL, context, linear), "control_model.", "meta"), "controlnet")
    return state, controlnet_config(shapes_of(state))


def diffusers_vae(config: dict[str, Any]) -> dict[str, Any]:
    levels = len(config["block_out_channels"])
    return config | {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def test_averaged_weights() -> None:
    state = weights(unet(SMALL, 64), UNET)
    state |= {"model_ema." + key[6:].replace(".", ""): tensor + 1 for key, tensor in state.items()}
    state["model_ema.decay"] = torch.ones(())
    config = {"layers_per_block": 2}
    averaged = single_file.convert_ldm_unet_checkpoint(state, config, extract_ema=True)
    assert_same(convert(state, "unet", ema=True), averaged)
    assert_same(convert(state, "unet"), single_file.convert_ldm_unet_checkpoint(state, config))
    with pytest.raises(BundleError, match="no averaged weights .* leave out --ema"):
        convert(weights(unet(SMALL, 64), UNET), "unet", ema=True)


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
def test_vae(prefix: str) -> None:
    state = weights(vae((32, 64, 64)), prefix)
    more = {} if prefix else {"loss.logvar": torch.ones(()), "model_ema.decay": torch.ones(())}
    ours = convert(state | more, "vae")
    config = diffusers_vae(vae_config(shapes_of(ours)))
    assert_same(ours, single_file.convert_ldm_vae_checkpoint(dict(state), config))
    net = diffusers.AutoencoderKL(**config)
    net.load_state_dict(ours)
    assert config["block_out_channels"] == (32, 64, 64) and config["latent_channels"] == 4
    assert convert(ours, "vae").keys() == ours.keys()
    halfway = dict(state)  # as converters wrote it that knew diffusers' old names of the attention alone
    for half in ("encoder", "decoder"):
        for old, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            for kind in ("weight", "bias"):
                tensor = halfway.pop(f"{prefix}{half}.mid.attn_1.{old}.{kind}")
                halfway[f"{prefix}{half}.mid.attn_1.{new}.{kind}"] = tensor.flatten(1) if tensor.ndim > 1 else tensor
    assert_same(convert(halfway, "vae"), ours)


def test_clip() -> None:
    shapes = clip(64, 3, 100)
    state = weights(shapes, "cond_stage_model.transformer.")
    theirs = single_file.convert_ldm_clip_checkpoint(state)
    del theirs["text_model.embeddings.position_ids"]  # a buffer, which today's text encoder does not have
    ours = convert(state, "text_encoder")
    assert_same(ours, theirs)
    merged = {key.replace(".text_model", ""): tensor for key, tensor in state.items()}  # as some merging tools write it
    assert_same(convert(merged, "text_encoder"), theirs)
    bare = {key.removeprefix("text_model."): tensor for key, tensor in ours.items()}  # as transformers 5 saves it
    assert_same(convert(bare, "text_encoder"), theirs)
    more = {"text_projection.weight": torch.ones(64, 64), "logit_scale": torch.ones(())}  # of the whole of CLIP
    for prefix, known in (("cond_stage_model.transformer.", state), ("", ours)):
        assert_same(convert(known | {prefix + key: tensor for key, tensor in more.items()}, "text_encoder"), theirs)
    config = text_config(shapes_of(ours))
    assert clip_text_kwargs(config)["hidden_act"] == "quick_gelu" and config["num_hidden_layers"] == 3


def test_open_clip() -> None:
    """24 layers, as published: diffusers' converter knows the last one by its number. 64 wide, for one head."""
    prefix = "cond_stage_model.model."
    state = weights(open_clip(64, 24, 50), prefix)
    ours = convert(state, "text_encoder")
    # converted back by diffusers' script: the layers that are read, no projection, transformers' buffer under another name
    gone = (".resblocks.23.", "text_projection", "logit_scale")
    back = {key: tensor for key, tensor in state.items() if not any(name in key for name in gone)}
    back[f"{prefix}transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    turbo = {key.replace(prefix, "conditioner.embedders.0.model."): tensor for key, tensor in state.items()}
    for other in (back, turbo):
        assert_same(convert(other, "text_encoder"), ours)
        assert part_names(other) == ("text_encoder",)
    assert_same(
        ours, single_file.convert_open_clip_checkpoint(SimpleNamespace(config=SimpleNamespace(hidden_size=64)), state)
    )
    config = text_config(shapes_of(ours))
    assert config["num_hidden_layers"] == 23
    net = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config, bos_token_id=0, eos_token_id=1))
    check(
        {key.removeprefix("text_model."): tensor for key, tensor in ours.items()}, shapes_of(net.state_dict()), "text"
    )


def test_open_clip_config_full_size() -> None:
    ours = convert(weights(open_clip(1024, 24, 49408), "cond_stage_model.model.", "meta"), "text_encoder")
    config = text_config(shapes_of(ours))
    assert config == {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "max_position_embeddings": 77,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu",
    }


@pytest.mark.parametrize("prefix", ["control_model.", ""])
@pytest.mark.parametrize("linear", [False, True])
def test_controlnet(prefix: str, linear: bool) -> None:
    state = weights(controlnet(SMALL, 64, linear), prefix) | (weights(unet(SMALL, 64), UNET) if prefix else {})
    ours = convert(state, "controlnet")
    assert_same(ours, single_file.convert_controlnet_checkpoint(state, {"layers_per_block": 2}))
    config = controlnet_config(shapes_of(ours))
    diffusers.ControlNetModel(**config).load_state_dict(ours)
    assert config["conditioning_embedding_out_channels"] == (16, 32, 96, 256)
    assert_same(convert(ours, "controlnet"), ours)


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt"])
def test_a_whole_file(tmp_path: Path, name: str) -> None:
    """All three parts in one file, as it is published, half precision, with what training leaves beside them."""
    parts = {"unet": weights(unet(SMALL, 64), UNET), "vae": weights(vae((32, 64)), "first_stage_model.")}
    parts["text_encoder"] = weights(clip(32, 1, 10), "cond_stage_model.transformer.")
    state = {key: tensor.half() for part in parts.values() for key, tensor in part.items()} | weights(REST)
    if name.endswith("ckpt"):
        torch.save({"state_dict": state, "epoch": 1, "global_step": 840000}, tmp_path / name)
    else:
        write_safetensors(tmp_path / name, state)
    read = read_weights(tmp_path / name)
    assert part_names(read) == tuple(parts)
    for part, weight in parts.items():
        assert_same(convert(read, part), convert({key: tensor.half() for key, tensor in weight.items()}, part))


@pytest.mark.parametrize(
    "form", [{}, {"safe_serialization": False}, {"max_shard_size": "1MB"}, {"variant": "fp16"}], ids=str
)
def test_what_diffusers_saves(tmp_path: Path, form: dict[str, Any]) -> None:
    config = unet_config(shapes_of(convert(weights(unet(SMALL, 64), UNET), "unet")))
    net = diffusers.UNet2DConditionModel(**config)
    net.save_pretrained(tmp_path / "unet", **form)
    assert (len(list((tmp_path / "unet").iterdir())) > 3) == ("max_shard_size" in form)
    part = find_part(tmp_path / "unet", "unet")
    assert_same(part.read(), net.state_dict())
    told = Layout.from_config(config)
    assert Layout.from_config(part.config) == told and told.block_out_channels == (32, 64, 64)


def test_what_a_checkpoint_holds() -> None:
    text = weights(clip(32, 1, 10), "cond_stage_model.transformer.")
    whole = weights(unet(SMALL, 64), UNET) | weights(vae((32, 64)), "first_stage_model.") | text
    assert part_names(whole) == ("unet", "vae", "text_encoder")
    bare = convert(whole, "unet")
    assert part_names(bare) == ("unet",) and part_names(convert(whole, "vae")) == ("vae",)
    with pytest.raises(BundleError, match="has no controlnet, it holds unet, vae, text_encoder"):
        convert(whole, "controlnet")
    with pytest.raises(BundleError, match="has no text_encoder, it holds unet: it is an SDXL model"):
        convert(weights(unet(SMALL, 64) | layer("label_emb.0.0", 8, 8), UNET), "text_encoder")
    with pytest.raises(BundleError, match="has no unet, it holds keys such as 'lora_unet_x.alpha': it is a LoRA"):
        convert({"lora_unet_x.alpha": torch.ones(())}, "unet")
    with pytest.raises(BundleError, match="unknown part 'tokenizer'"):
        convert(whole, "tokenizer")


def test_unknown_keys_are_named_by_the_check() -> None:
    state = weights(unet(SMALL, 64), UNET)
    wanted = shapes_of(convert(state, "unet"))
    with pytest.raises(BundleError, match="'odd_block.0.weight' .* belongs to no layer"):
        check(convert(state | {UNET + "odd_block.0.weight": torch.ones(1)}, "unet"), wanted, "sd.ckpt, unet")
    del state[UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
    with pytest.raises(
        BundleError, match="'mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight' .* is missing"
    ):
        check(convert(state, "unet"), wanted, "sd.ckpt, unet")
