"""The UNet of the SD family against diffusers, and against what its own signature promises, on random weights."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)

from mien.engine.errors import BundleError, ShapeError
from mien.engine.networks.sd_blocks import guidance_embedding
from mien.engine.networks.sd_layout import Layout, wplus_weights
from mien.engine.networks.sd_signature import unet_signature
from mien.engine.networks.sd_unet import ContextProjection, UNet

SD15: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "norm_num_groups": 16,
}
SD21: dict[str, Any] = {
    "block_out_channels": (32, 64, 96, 96),
    "attention_head_dim": (2, 4, 6, 6),
    "cross_attention_dim": 40,
    "use_linear_projection": True,
    "upcast_attention": True,
}
FULL: dict[str, Any] = {"cross_attention_dim": 768}


def reference(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).eval()


def ours(model: UNet2DConditionModel, **kwargs: Any) -> tuple[UNet, ContextProjection]:
    """The two networks with diffusers' weights: none is left over, none is missing. Adapter weights stay random."""
    layout = Layout.from_config(dict(model.config)).kwargs()
    layout = {key: tuple(value) if isinstance(value, list) else value for key, value in layout.items()}
    unet, context = UNet(**kwargs, **layout).eval(), ContextProjection(kwargs.get("adapter", False), **layout).eval()
    weights, left = model.state_dict(), set(model.state_dict())
    for network in (unet, context):
        wanted = {key for key in network.state_dict() if "wplus" not in key}
        assert wanted <= left
        left -= wanted
        network.load_state_dict({**network.state_dict(), **{key: weights[key] for key in wanted}}, assign=True)
    assert not left
    return unet, context


def inputs(channels: int, width: int, size: tuple[int, int] = (8, 8), rows: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(rows, channels, *size, generator=generator)
    return [latents, torch.linspace(999, 259, rows), torch.randn(rows, 7, width, generator=generator)]


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def no_bank(unet: UNet, rows: int) -> list[torch.Tensor]:
    return [torch.zeros(rows, 0, unet.layers[i].channels) for i in unet.bank_layers for _ in "kv"]


@torch.no_grad()
@pytest.mark.parametrize("channels", [4, 5, 8, 9])
@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd15", "sd21"])
def test_equals_diffusers(config: dict[str, Any], channels: int) -> None:
    model = reference({**config, "in_channels": channels})
    unet, context = ours(model)
    latents, timestep, text = inputs(channels, config["cross_attention_dim"])
    (got,) = unet(latents, timestep, *context(text))
    assert error(got, model(latents, timestep, text).sample) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 20), (9, 7), (16, 11)])
@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd15", "sd21"])
def test_equals_diffusers_at_any_size(config: dict[str, Any], size: tuple[int, int]) -> None:
    model = reference(config)
    unet, context = ours(model)
    latents, timestep, text = inputs(4, config["cross_attention_dim"], size, rows=1)
    (got,) = unet(latents, timestep, *context(text))
    assert error(got, model(latents, timestep, text).sample) < 1e-4


@torch.no_grad()
def test_equals_diffusers_with_guidance_embedding() -> None:
    model = reference({**SD15, "time_cond_proj_dim": 16})
    unet, context = ours(model)
    latents, timestep, text = inputs(4, 24)
    guidance = torch.tensor([7.5, 0.4])
    condition = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, guidance, embedding_dim=16)
    want = model(latents, timestep, text, timestep_cond=condition).sample
    assert error(unet(latents, timestep, guidance, *context(text))[0], want) < 1e-4
    assert error(unet(latents, timestep, guidance.flip(0), *context(text))[0], want) > 1e-3


def test_guidance_embedding_is_lcms() -> None:
    guidance = torch.tensor([0.0, 1.0, 7.5])
    want = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, guidance, embedding_dim=256)
    torch.testing.assert_close(guidance_embedding(guidance, 256), want, rtol=0, atol=2e-3)  # sines of up to 7500


@torch.no_grad()
@pytest.mark.slow
def test_equals_diffusers_at_full_size() -> None:
    model = reference(FULL)
    unet, context = ours(model)
    latents, timestep, text = inputs(4, 768, (64, 64), rows=1)
    assert error(unet(latents, timestep, *context(text))[0], model(latents, timestep, text).sample) < 1e-4


@torch.no_grad()
def test_an_empty_bank_and_a_scale_of_zero_are_the_plain_network() -> None:
    model = reference(SD15)
    plain, context = ours(model)
    latents, timestep, text = inputs(4, 24)
    want = plain(latents, timestep, *context(text))[0]
    unet, context = ours(model, adapter=True, bank_layers=tuple(range(16)))
    seen = context(text, torch.randn(2, 4, 24))
    for own_weight in (1.0, 0.3, 0.0):
        rest = [torch.zeros(2), torch.full((2,), own_weight), *no_bank(unet, 2)]
        got, *own = unet(latents, timestep, *seen, *rest)
        assert torch.equal(got, want)
        assert [tuple(k.shape) for k in own[::2]] == [
            (2, (8 // layer.downscale) ** 2, layer.channels) for layer in unet.layers
        ]
    assert error(unet(latents, timestep, *seen, torch.ones(2), *rest[1:])[0], want) > 1e-3


@torch.no_grad()
def test_rows_do_not_see_each_other() -> None:
    unet, context = ours(reference(SD15), adapter=True, bank_layers=(0, 7))
    latents, timestep, text = inputs(4, 24, rows=3)
    bank = [torch.randn(3, 5, unet.layers[i].channels) for i in unet.bank_layers for _ in "kv"]
    rest = [torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.0, 0.5]), *bank]
    arguments = [latents, timestep, *context(text, torch.randn(3, 4, 24)), *rest]
    together = unet(*arguments)[0]
    alone = torch.cat([unet(*(t[i : i + 1] for t in arguments))[0] for i in range(3)])
    assert error(alone, together) < 1e-4


def test_layers_in_the_order_they_run() -> None:
    layers = Layout().layers()
    assert [layer.number for layer in layers] == list(range(16))
    assert [layer.channels for layer in layers] == [320] * 2 + [640] * 2 + [1280] * 6 + [640] * 3 + [320] * 3
    assert [layer.stage for layer in layers] == ["down"] * 6 + ["mid"] + ["up"] * 9
    assert [layer.downscale for layer in layers] == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert layers[7].name == "up_blocks.1.attentions.0.transformer_blocks.0"
    assert [layer.num_heads for layer in Layout(num_attention_heads=(5, 10, 20, 20)).layers()] == [
        *(5, 5, 10, 10, 20, 20, 20, 20, 20, 20, 10, 10, 10, 5, 5, 5)
    ]


def test_the_order_is_that_of_a_run() -> None:
    unet, context = ours(reference(SD15))
    ran: list[str] = []
    for name, module in unet.named_modules():
        if name.endswith("transformer_blocks.0"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    latents, timestep, text = inputs(4, 24)
    unet(latents, timestep, *context(text))
    assert ran == [layer.name for layer in unet.layers]


def test_wplus_weights_by_diffusers_order_of_processors() -> None:
    model = reference(SD15)
    layout = Layout.from_config(dict(model.config))
    published, want = {}, {}
    for i, name in enumerate(model.attn_processors):
        if i % 2:
            block = model.get_submodule(name.removesuffix(".processor"))
            for part, width in (("q", block.to_q.out_features), ("k", 24), ("v", 24)):
                weight = torch.full((block.to_q.out_features, width), float(i))
                published[f"{i}.to_{part}_wplus.weight"] = weight
                want[f"{name.removesuffix('.processor')}.to_{part}_wplus.weight"] = weight
    got = wplus_weights(published, layout)
    assert got.keys() == want.keys()
    assert all(got[key] is want[key] for key in want)
    unet, context = ours(model, adapter=True)
    assert set(got) == {key for net in (unet, context) for key in net.state_dict() if "wplus" in key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"31.to_q_wplus.weight": None}, "31.to_q_wplus.weight is missing"),
        ({"13.to_k_wplus.weight": np.zeros((1280, 1024))}, r"\(1280, 1024\), expected \(1280, 768\) for up_blocks.1"),
        ({"33.to_q_wplus.weight": np.zeros((320, 320))}, "33.to_q_wplus.weight' is unknown"),
        ({"2.to_q_wplus.weight": np.zeros((320, 320))}, "2.to_q_wplus.weight' is unknown"),
        ({"extra": np.zeros(1)}, "'extra' is unknown"),
    ],
)
def test_wplus_weights_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    channels = [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
    published = {
        f"{2 * i + 1}.to_{part}_wplus.weight": np.broadcast_to(np.float32(0), (c, c if part == "q" else 768))
        for i, c in enumerate(channels)
        for part in "qkv"
    }
    assert len(wplus_weights(published, Layout())) == 48
    changed = {key: value for key, value in {**published, **change}.items() if value is not None}
    with pytest.raises(BundleError, match=words):
        wplus_weights(changed, Layout())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ({"dual_cross_attention": True}, "dual_cross_attention is True"),
        ({"only_cross_attention": [True, True, True, False]}, "only_cross_attention is"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
        ({"transformer_layers_per_block": [1, 2, 10, 1]}, r"transformer_layers_per_block is \[1, 2, 10, 1\]"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos is False"),
        ({"mid_block_type": None}, "mid_block_type is None"),
        ({"norm_num_groups": None}, "norm_num_groups is None"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types is"),
        ({"up_block_types": ["CrossAttnUpBlock2D"] * 4}, "up_block_types is"),
        ({"attention_head_dim": [5, 10]}, "num_attention_heads is"),
        ({"attention_head_dim": 7}, "num_attention_heads has 7"),
        ({"attention_head_dim": "8"}, "attention_head_dim is '8'"),
        ({"block_out_channels": None}, "block_out_channels is None"),
        ({"down_block_types": "DownBlock2D"}, "down_block_types is 'DownBlock2D'"),
        ({"made_up": 3}, "made_up is 3"),
    ],
)
def test_configs_it_cannot_do(change: dict[str, Any], words: str) -> None:
    config = {**dict(UNet2DConditionModel(**SD15).config), "block_out_channels": [32, 64, 64, 64]}
    with pytest.raises(BundleError, match=words):
        Layout.from_config({**config, **change})


def test_published_configs() -> None:
    sd15 = {"attention_head_dim": 8, "cross_attention_dim": 768, "_class_name": "UNet2DConditionModel"}
    assert Layout.from_config(sd15) == Layout()
    averaging = {"decay": 0.9999, "min_decay": 0.0, "optimization_step": 15000, "update_after_step": 0}
    averaging |= {"use_ema_warmup": False, "inv_gamma": 1.0, "power": 0.6666666666666666}
    assert Layout.from_config(sd15 | averaging | {"transformer_layers_per_block": [1, 1, 1, 1]}) == Layout()
    sd21 = {
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "in_channels": 5,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "use_linear_projection": True,
        "sample_size": 64,
    }
    want = Layout(
        in_channels=5, num_attention_heads=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
    )
    assert Layout.from_config(sd21) == want


@torch.no_grad()
def test_signature_is_what_the_network_does() -> None:
    layout: dict[str, Any] = {"block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "norm_num_groups": 8}
    layout |= {"cross_attention_dim": 24, "time_cond_proj_dim": 16}
    unet = UNet(adapter=True, control=True, bank_layers=(0, 3, 9), **layout).eval()
    context = ContextProjection(adapter=True, **layout).eval()
    assert list(unet.signature.inputs)[:5] == ["latents", "timestep", "guidance", "text_k_0", "text_v_0"]
    assert list(unet.signature.inputs)[-7:] == ["own_weight", *(f"bank_{kind}_{i}" for i in (0, 3, 9) for kind in "kv")]
    sizes: dict[str, int] = {"B": 2, "H": 72, "W": 96, "T": 7, "M0": 3, "M3": 2, "M9": 4}
    sizes |= {"N0": 108, "N3": 4, "N9": 108, "H16": 5, "W16": 6, "H32": 3, "W32": 3, "H64": 2, "W64": 2}

    def shape(dims: tuple[int | str, ...]) -> tuple[int, ...]:
        parts = [(str(dim).partition("/")) for dim in dims]
        return tuple(int(a) if a.isdigit() else sizes[a] // int(b or 1) for a, _, b in parts)

    projected = context(torch.randn(2, 7, 24), torch.randn(2, 4, 24))
    assert [tuple(t.shape) for t in projected] == [shape(dims) for dims in context.signature.outputs.values()]
    named = {key: torch.randn(shape(dims)) for key, dims in unet.signature.inputs.items()}
    named |= dict(zip(context.signature.outputs, projected, strict=True), own_weight=torch.ones(2))
    answers = unet(*(named[key] for key in unet.signature.inputs))
    assert [tuple(t.shape) for t in answers] == [shape(dims) for dims in unet.signature.outputs.values()]
    for key, value in named.items():  # every input is read
        changed = {**named, key: 0.5 * value + 0.1}
        assert not torch.equal(unet(*(changed[key] for key in unet.signature.inputs))[0], answers[0]), key
    with pytest.raises(ShapeError, match="2 inputs given"):
        unet(named["latents"], named["timestep"])


def test_bank_layers_that_are_not_there() -> None:
    for wrong in ((16,), (3, 1), (0, 0), (-1,)):
        with pytest.raises(BundleError, match=r"expected ascending numbers of 0..15"):
            unet_signature(Layout(), bank_layers=wrong)
