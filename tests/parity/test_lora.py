"""LoRA fusion: every published form of key, against diffusers' converters and fusion, PEFT, and a float64 transcription."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mien.engine.errors import BundleError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from mien.engine.checkpoints.lora import fuse  # noqa: E402
from mien.engine.checkpoints.reading import read_metadata, read_weights, write_safetensors  # noqa: E402
from tests.lora_layers import SCALE, Triple, assert_close, dotted, expected, kohya, processor  # noqa: E402


def tiny_unet(linear: bool) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=48,
        layers_per_block=1,
        attention_head_dim=4,
        use_linear_projection=linear,
        sample_size=8,
    )


NETS = {linear: tiny_unet(linear) for linear in (False, True)}
# what LCM-LoRA and LoCon reach: attention, projections, feed-forward, residual blocks, samplers, the two ends
TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out",
    "time_embedding.linear_1", "time_embedding.linear_2",
)  # fmt: skip


def lora_for(net: Any, ends: tuple[str, ...] = TARGETS, alpha: bool = True) -> dict[str, Triple]:
    """module -> (down, up, alpha), the rank from 1 to 4, alpha from 0.5 to 8."""
    random, layers = torch.Generator().manual_seed(1), {}
    for name, module in net.named_modules():
        if f".{name}".endswith(tuple(f".{end}" for end in ends)):
            weight, rank = module.weight, 1 + len(layers) % 4
            down = torch.randn(rank, *weight.shape[1:], generator=random)
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=random)
            layers[name] = (down, up, 0.5 * 2 ** (len(layers) % 5) if alpha else None)
    assert all(any(f".{name}".endswith(f".{end}") for name in layers) for end in ends if "samplers" not in end)
    return layers


PEFT, DIFFUSERS = ("lora_A", "lora_B"), ("lora.down", "lora.up")
FORMS: dict[str, Callable[..., dict[str, Any]]] = {
    "kohya": kohya,
    "PEFT in diffusers": dotted("unet.", PEFT),
    "PEFT alone": dotted("base_model.model.", PEFT),
    "PEFT named adapter": dotted("", ("lora_A.default", "lora_B.default")),
    "diffusers": dotted("unet.", DIFFUSERS),
    "processors": processor,
    "processors, alone": lambda *layer: {k.removeprefix("unet."): v for k, v in processor(*layer).items()},
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def written(form: str, layers: dict[str, Triple]) -> dict[str, Any]:
    return {key: tensor for name, layer in layers.items() for key, tensor in FORMS[form](name, *layer).items()}


@pytest.mark.parametrize("alpha", [True, False], ids=["alpha", "no alpha"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("linear", [False, True], ids=["SD1.5", "SD2.1"])
def test_every_form(form: str, linear: bool, alpha: bool) -> None:
    state = NETS[linear].state_dict()
    before = copy.deepcopy(state)
    layers = lora_for(NETS[linear], ATTENTION if "processors" in form else TARGETS, alpha)
    fused = fuse({"unet": state}, written(form, layers), SCALE)
    assert_close(fused["unet"], expected(state, layers))
    changed = {key for key in state if fused["unet"][key] is not state[key]}
    assert changed == {f"{name}.weight" for name in layers}
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_kohya_names_as_diffusers_reads_them() -> None:
    """The modules by diffusers' own converter, which goes by rules and not by the network's names."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    state = NETS[False].state_dict()
    ends = tuple(end for end in TARGETS if end not in ("time_embedding.linear_1", "time_embedding.linear_2"))
    lora_layers = lora_for(NETS[False], ends)
    lora = written("kohya", lora_layers)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(dict(lora))
    matrices = convert_unet_state_dict_to_peft({k.removeprefix("unet."): v for k, v in converted.items()})
    names = {key.removesuffix(".lora_A.weight") for key in matrices if key.endswith(".lora_A.weight")}
    alphas = {id(down): alpha for down, _, alpha in lora_layers.values()}
    layers = {
        name: (down := matrices[f"{name}.lora_A.weight"], matrices[f"{name}.lora_B.weight"], alphas[id(down)])
        for name in names
    }
    assert layers.keys() == lora_layers.keys()
    assert_close(fuse({"unet": state}, lora, SCALE)["unet"], expected(state, layers))


@pytest.mark.parametrize("form", ["kohya", "PEFT in diffusers"])
@pytest.mark.parametrize("linear", [False, True], ids=["SD1.5", "SD2.1"])
def test_against_peft(form: str, linear: bool) -> None:
    """The whole way of diffusers with PEFT: load, set alphas, fuse; the network's answer as well.

    One alpha for the file, as published ones have it: of several, diffusers gives the attention the most common.
    """
    pytest.importorskip("peft")
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers

    net, ends = copy.deepcopy(NETS[linear]), tuple(end for end in TARGETS if not end.startswith("time_embedding"))
    layers = {n: (down, up, 6.0 if form == "kohya" else None) for n, (down, up, _) in lora_for(net, ends).items()}
    lora, alphas = written(form, layers), None
    theirs = dict(lora)
    if form == "kohya":
        theirs, alphas = _convert_non_diffusers_lora_to_diffusers(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.load_lora_adapter(theirs, prefix="unet", network_alphas=alphas)
        net.fuse_lora(lora_scale=SCALE)
    fused = fuse({"unet": NETS[linear].state_dict()}, lora, SCALE)["unet"]
    peft = {key.replace(".base_layer", ""): tensor for key, tensor in net.state_dict().items() if ".lora_" not in key}
    assert_close(fused, peft)
    ours = copy.deepcopy(NETS[linear])
    ours.load_state_dict(fused)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([300]), torch.randn(1, 5, 48)
    with torch.no_grad():
        assert_close({"noise": ours(*inputs).sample}, {"noise": net(*inputs).sample})


def test_against_the_fusion_of_diffusers_itself() -> None:
    """Its layers from before PEFT: a linear one, a convolution and a 1x1."""
    from diffusers.models import lora as theirs

    random = torch.Generator().manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        for kernel in (None, 1, 3):
            if kernel is None:
                layer, inner = theirs.LoRACompatibleLinear(6, 5), theirs.LoRALinearLayer(6, 5, 2, 1.5)
            else:
                layer = theirs.LoRACompatibleConv(6, 5, kernel)
                inner = theirs.LoRAConv2dLayer(6, 5, 2, (kernel, kernel), network_alpha=1.5)
            for matrix in (inner.up.weight, inner.down.weight):
                matrix.data = torch.randn(matrix.shape, generator=random)
            state = {"down_blocks.0.x.weight": layer.weight.detach().clone()}
            lora = kohya("down_blocks.0.x", inner.down.weight.detach(), inner.up.weight.detach(), 1.5)
            layer.set_lora_layer(inner)
            layer._fuse_lora(SCALE)
            assert_close(fuse({"unet": state}, lora, SCALE)["unet"], {"down_blocks.0.x.weight": layer.weight.detach()})


def test_core_of_locon() -> None:
    """Tucker form: down 1x1, a core of ranks, up 1x1; the fused kernel is the three convolutions in a row."""
    random = torch.Generator().manual_seed(3)
    down, mid, up = (torch.randn(s, generator=random) for s in ((3, 6, 1, 1), (3, 3, 3, 3), (5, 3, 1, 1)))
    x, weight = torch.randn(2, 6, 7, 7, generator=random), torch.randn(5, 6, 3, 3, generator=random)
    lora = kohya("conv1", down, up, 6.0) | {"lora_unet_conv1.lora_mid.weight": mid}
    fused = fuse({"unet": {"conv1.weight": weight}}, lora, SCALE)["unet"]["conv1.weight"]
    conv = torch.nn.functional.conv2d
    chain = conv(conv(conv(x.double(), down.double()), mid.double()), up.double())
    assert_close({"y": conv(x, fused)}, {"y": conv(x.double(), weight.double()) + SCALE * 6 / 3 * chain})


def test_linear_matrices_for_a_1x1_convolution_and_back() -> None:
    down, up = torch.randn(2, 6), torch.randn(5, 2)
    flat, square = torch.randn(5, 6), torch.randn(5, 6, 1, 1)
    for weight in (flat, square):
        for one in ((), (1, 1)):
            lora = kohya("proj_in", down.reshape(2, 6, *one), up.reshape(5, 2, *one), None)
            fused = fuse({"unet": {"proj_in.weight": weight}}, lora, 1.0)["unet"]["proj_in.weight"]
            assert fused.shape == weight.shape
            torch.testing.assert_close(fused.flatten(1), weight.flatten(1) + up @ down)


TEXT = [
    f"text_model.encoder.layers.1.{end}" for end in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
]


def text_lora(form: str) -> tuple[dict[str, Any], dict[str, Triple]]:
    layers = {name: (torch.randn(2, 8), torch.randn(8, 2), 3.0) for name in TEXT}
    lora: dict[str, Any] = {}
    for name, (down, up, alpha) in layers.items():
        if form.startswith("lora_te"):
            lora |= {k.replace("lora_unet_", form): v for k, v in kohya(name, down, up, alpha).items()}
        elif form == "PEFT":
            lora |= dotted("text_encoder.", PEFT)(name, down, up, alpha)
        elif form == "ComfyUI":
            lora |= dotted("text_encoders.clip_l.transformer.", ("lora_down", "lora_up"))(name, down, up, alpha)
        else:
            old = name.replace("q_proj", "to_q").replace("out_proj", "to_out")
            end = "_lora" if "attn" in name and form == "old" else ".lora_linear_layer"
            key = f"text_encoder.{old if end == '_lora' else name}"
            lora |= {f"{key}{end}.down.weight": down, f"{key}{end}.up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    return lora, layers


@pytest.mark.parametrize("form", ["lora_te_", "lora_te1_", "PEFT", "ComfyUI", "diffusers", "old"])
@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["as published", "transformers 5"])
def test_text_encoder(form: str, prefix: str) -> None:
    torch.manual_seed(4)
    lora, layers = text_lora(form)
    state = {f"{name}.weight": torch.randn(8, 8) for name in TEXT}
    fused = fuse({"text_encoder": {prefix + k.removeprefix("text_model."): v for k, v in state.items()}}, lora, SCALE)
    ours = {"text_model." + k.removeprefix("text_model."): v for k, v in fused["text_encoder"].items()}
    assert_close(ours, expected(state, layers))


def test_both_parts_and_what_is_left_out() -> None:
    layers = lora_for(NETS[False], ATTENTION)
    text, text_layers = text_lora("lora_te_")
    lora, unet = written("kohya", layers) | text, NETS[False].state_dict()
    state = {f"{name}.weight": torch.randn(8, 8) for name in TEXT}
    fused = fuse({"unet": unet, "text_encoder": state}, lora, SCALE)
    assert_close(fused["text_encoder"], expected(state, text_layers))
    alone = fuse({"unet": unet}, lora, SCALE)
    assert set(alone) == {"unet"}
    assert_close(alone["unet"], fused["unet"])
    with pytest.raises(BundleError, match="the LoRA has nothing for unet: it holds 'text_model_.*' and 1 more"):
        fuse({"unet": unet}, text, SCALE)


def test_alpha_of_diffusers_metadata() -> None:
    layers = lora_for(NETS[False], ("to_q", "to_k"), alpha=False)
    settings: dict[str, Any] = {
        "unet.r": 4,
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {"attn2.to_k": 2},
        "unet.use_dora": False,
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    fused = fuse({"unet": NETS[False].state_dict()}, written("PEFT in diffusers", layers), SCALE, metadata=metadata)
    known = {name: (down, up, 2.0 if name.endswith("attn2.to_k") else 8.0) for name, (down, up, _) in layers.items()}
    assert_close(fused["unet"], expected(NETS[False].state_dict(), known))
    for wrong, words in (
        (json.dumps(settings | {"unet.lora_alpha": "4"}), "unet.lora_alpha is 4, a finite number"),
        (json.dumps(settings | {"unet.lora_alpha": math.nan}), "unet.lora_alpha is nan, a finite number"),
        (json.dumps(settings | {"unet.lora_alpha": 10**400}), "a finite number"),
        (json.dumps(settings | {"unet.alpha_pattern": {"attn2.to_k": None}}), "attn2.to_k' is None, a finite number"),
        ("[" * 100_000, "is not JSON"),
    ):
        with pytest.raises(BundleError, match=words):
            told = {"lora_adapter_metadata": wrong}
            fuse({"unet": NETS[False].state_dict()}, written("PEFT in diffusers", layers), SCALE, metadata=told)
    metadata["lora_adapter_metadata"] = json.dumps(settings | {"unet.use_dora": True})
    with pytest.raises(BundleError, match="unet.use_dora is set, which is not read"):
        fuse({"unet": NETS[False].state_dict()}, written("PEFT in diffusers", layers), SCALE, metadata=metadata)


def test_one_after_another_half_precision_and_back() -> None:
    state = {"conv_in.weight": torch.randn(5, 6).half()}
    one, two = (kohya("conv_in", torch.randn(2, 6), torch.randn(5, 2), 1.0) for _ in range(2))
    fused = fuse({"unet": state}, one, 1.0)
    assert fused["unet"]["conv_in.weight"].dtype == torch.float16
    both = fuse(fused, two, 0.5)["unet"]["conv_in.weight"].float()
    up, down = (f"lora_unet_conv_in.lora_{role}.weight" for role in ("up", "down"))
    deltas = [lora[up] @ lora[down] / 2 for lora in (one, two)]
    torch.testing.assert_close(
        both, state["conv_in.weight"].float() + deltas[0] + 0.5 * deltas[1], atol=2e-2, rtol=1e-2
    )
    again = fuse(fused, one, -1.0)["unet"]["conv_in.weight"]
    torch.testing.assert_close(again, state["conv_in.weight"], atol=1e-2, rtol=1e-2)


def test_from_files(tmp_path: Path) -> None:
    """kohya's file as kohya writes it, half precision with metadata, and PEFT's as diffusers saves it."""
    layers = lora_for(NETS[False], ATTENTION)
    halves = {name: (down.half(), up.half(), alpha) for name, (down, up, alpha) in layers.items()}
    lora = written("kohya", halves)
    write_safetensors(tmp_path / "lora.safetensors", lora, {"ss_network_dim": "4", "ss_network_alpha": "1"})
    torch.save({"state_dict": lora}, tmp_path / "lora.pt")
    state = NETS[False].state_dict()
    for name in ("lora.safetensors", "lora.pt"):
        path = tmp_path / name
        fused = fuse({"unet": state}, read_weights(path), SCALE, name, metadata=read_metadata(path))
        assert_close(fused["unet"], expected(state, halves))


def one_layer(key: str, down: tuple[int, ...] = (2, 32), up: tuple[int, ...] = (32, 2)) -> dict[str, Any]:
    return {f"{key}.lora_down.weight": torch.zeros(down), f"{key}.lora_up.weight": torch.zeros(up)}


Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
K = Q[:-1] + "k"
HADA = {f"{Q}.hada_w1_a": torch.zeros(1), f"{Q}.hada_w1_b": torch.zeros(1)}


@pytest.mark.parametrize(
    "lora, words",
    [
        (one_layer("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
         "found no weight: the LoRA was made for another model (SDXL)"),
        (one_layer("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "another model (SDXL)"),
        (one_layer("unet.down_blocks.0.motion_modules.0.attn1.to_q"), "an AnimateDiff motion module"),
        (one_layer("lora_unet_double_blocks_0_img_attn_proj"), "another model (Flux or SD3)"),
        (one_layer(Q) | one_layer("lora_unet_mid_block_odd"),
         "'mid_block_odd' of 2 layers found no weight: the LoRA was made for another model"),
        ({k: v for i in range(5) for k, v in one_layer(f"lora_unet_x_{i}").items()},
         "'x_0', 'x_1', 'x_2' and 2 more of 5 layers found no weight"),
        (one_layer(K, (2, 2048)), "is (32, 2048) for a weight of (32, 48): it was made for another model"),
        (HADA, "LoHa, LoKr, DoRA, norms and full differences are not read"),
        (one_layer(Q) | {f"{Q}.dora_scale": torch.zeros(1)}, "of 3 keys are not a LoRA's down, up, mid or alpha: LoHa, LoKr, DoRA"),
        (one_layer(Q) | {f"{Q}.diff_b": torch.zeros(1)}, "full differences are not read"),
        (one_layer(Q) | {"lora_unet_conv_norm_out.w_norm": torch.zeros(1)}, "norms and full differences are not read"),
        (one_layer(Q) | {"bundle_emb.word.string_to_param.*": torch.zeros(1)}, "it has textual inversions in it"),
        ({f"{Q}.lora_up.weight": torch.zeros(32, 2)}, "has no down matrix"),
        ({f"{Q}.lora_down.weight": torch.zeros(2, 32)}, "has no up matrix"),
        (one_layer(Q, (3, 32)), "are not of one rank"),
        (one_layer(Q, (0, 32), (32, 0)), "are not of one rank"),
        (one_layer(Q) | {f"{Q}.alpha": torch.tensor(math.nan)}, "attn2_to_q.alpha' is nan, a finite number is expected"),
        (one_layer(Q) | {f"{Q}.alpha": torch.tensor(1j)}, "a finite number is expected"),
        (one_layer(Q) | {f"{Q}.lora_up.weight": torch.full((32, 2), math.inf)}, "adds numbers that are not finite"),
        (one_layer(Q) | {f"{Q}.alpha": torch.zeros(2)}, "one number is expected"),
        (one_layer(Q) | one_layer("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"), "a second time"),
        ({"conv_in.weight": torch.zeros(1), "up_blocks.0.x.weight": torch.zeros(1)}, "it is a UNet, not a LoRA"),
        ({}, "holds no LoRA layers"),
    ],
)  # fmt: skip
def test_refusals(lora: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError) as caught:
        fuse({"unet": NETS[False].state_dict()}, lora, SCALE, "lcm.safetensors")
    assert (
        words in str(caught.value) and str(caught.value).startswith("lcm.safetensors") and "\n" not in str(caught.value)
    )


def test_width_of_another_family_and_scale() -> None:
    state = {"attn2.to_k.weight": torch.zeros(4, 768)}
    lora = kohya("attn2.to_k", torch.zeros(2, 1024), torch.zeros(4, 2), None)
    with pytest.raises(BundleError, match="it was made for SD2.1, this is SD1.5"):
        fuse({"unet": state}, lora, 1.0)
    with pytest.raises(BundleError, match="the scale nan must be a finite number"):
        fuse({"unet": state}, lora, math.nan)
    lora = kohya("attn2.to_k", torch.ones(2, 768), torch.ones(4, 2), None)
    assert_close(fuse({"unet": state}, lora, 0.0)["unet"], state)
