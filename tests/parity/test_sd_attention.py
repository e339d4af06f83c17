"""The attention of the SD family: bank and W+ tokens against float64 transcriptions, cross-frame attention against diffusers."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor

from mien.engine.networks.sd_attention import BankInputs, CrossAttention, LayerInputs, SelfAttention, TransformerBlock
from mien.engine.networks.sd_layout import Layout
from mien.engine.networks.sd_unet import ContextProjection, UNet

HEADS = 4
Rows = npt.NDArray[np.float64]


def f64(tensor: torch.Tensor) -> Rows:
    return tensor.detach().numpy().astype(np.float64)


def rows(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax_attention(q: Rows, k: Rows, v: Rows, weights: Rows) -> Rows:
    """Of (B, N, C) to (B, S, C), head by head; weights (B, S) multiply what the softmax sums."""
    out, dim = np.zeros_like(q), q.shape[2] // HEADS
    for b in range(len(q)):
        for head in range(HEADS):
            part = slice(head * dim, (head + 1) * dim)
            mass = np.exp(q[b, :, part] @ k[b, :, part].T / math.sqrt(dim)) * weights[b]
            out[b, :, part] = mass / mass.sum(1, keepdims=True) @ v[b, :, part]
    return out


def error(got: torch.Tensor, want: Rows) -> float:
    return float(np.abs(f64(got) - want).max() / np.abs(want).max())


@torch.no_grad()
@pytest.mark.parametrize("own_weight", [1.0, 0.25, 3.0, 0.0])
@pytest.mark.parametrize("tokens", [(35, 35), (20, 40), (6, 1), (600, 70), (9, 0)])
def test_self_attention_with_a_bank(own_weight: float, tokens: tuple[int, int]) -> None:
    n, m = tokens
    torch.manual_seed(0)
    layer = SelfAttention(32, HEADS)
    x, bank_k, bank_v = rows(2, n, 32, seed=1), rows(2, m, 32, seed=2), rows(2, m, 32, seed=3)
    got, own_k, own_v = layer(x, BankInputs(((bank_k, bank_v),), torch.tensor([own_weight, 0.5])))
    k, v = f64(x) @ f64(layer.to_k.weight).T, f64(x) @ f64(layer.to_v.weight).T
    assert error(own_k, k) < 1e-6 and error(own_v, v) < 1e-6
    weights = np.ones((2, n + m))
    weights[:, :n] = [[own_weight], [0.5]] if m else 1.0  # nothing to weigh the own tokens against
    seen_k, seen_v = np.concatenate([k, f64(bank_k)], 1), np.concatenate([v, f64(bank_v)], 1)
    z = softmax_attention(f64(x) @ f64(layer.to_q.weight).T, seen_k, seen_v, weights)
    assert error(got, z @ f64(layer.to_out[0].weight).T + f64(layer.to_out[0].bias)) < 1e-5


@torch.no_grad()
def test_extended_attention_is_attention_to_more_tokens() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(32, HEADS)
    here, there = rows(1, 30, 32, seed=1), rows(1, 20, 32, seed=2)
    _, k, v = layer(there, None)
    both = layer(torch.cat([here, there], 1), None)[0][:, :30]
    torch.testing.assert_close(layer(here, BankInputs(((k, v),), torch.ones(1)))[0], both, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_wplus_attention() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(32, HEADS, adapter=True)
    x, k, v = rows(2, 35, 32, seed=1), rows(2, 7, 32, seed=2), rows(2, 7, 32, seed=3)
    wk, wv, scale = rows(2, 4, 32, seed=4), rows(2, 4, 32, seed=5), torch.tensor([1.0, 0.7])
    got = layer(x, LayerInputs((k, v), wplus=(wk, wv, scale)))
    ones = np.ones((2, 7))
    z_text = softmax_attention(f64(x) @ f64(layer.to_q.weight).T, f64(k), f64(v), ones)
    q = z_text @ f64(layer.to_q_wplus.weight).T
    z = z_text + f64(scale)[:, None, None] * softmax_attention(q, f64(wk), f64(wv), ones[:, :4])
    assert error(got, z @ f64(layer.to_out[0].weight).T + f64(layer.to_out[0].bias)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weight_of_zero_is_exact_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(32, HEADS, adapter=False).to(dtype)
    text = (rows(1, 7, 32, seed=2).to(dtype), rows(1, 7, 32, seed=3).to(dtype))
    bank = (rows(1, 9, 32, seed=4).to(dtype), rows(1, 9, 32, seed=5).to(dtype))
    own = rows(1, 30, 32, seed=1).to(dtype)
    alone = BankInputs((bank,), torch.zeros(1, dtype=dtype))
    got = block.attn1(own, alone)[0]
    swapped = torch.cat([own[:, :1], own[:, 1:].flip(1)], 1)
    assert torch.equal(block.attn1(swapped, alone)[0][:, 0], got[:, 0])  # the other own tokens are not seen
    assert block(own, LayerInputs(text, bank=alone))[0].isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True], ids=["sd15", "sd21"])
def test_anchor_attention_is_text2video_zeros(linear: bool) -> None:
    """Frame by frame with frame 0's keys and values in the bank, as against diffusers' processor on all frames at once."""
    torch.manual_seed(0)
    frames, config = 3, {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24, "norm_num_groups": 16}
    model = UNet2DConditionModel(**config, use_linear_projection=linear).eval()
    model.set_attn_processor(CrossFrameAttnProcessor(batch_size=2))
    kwargs = Layout.from_config(dict(model.config)).kwargs()
    kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    unet, context = UNet(bank_layers=tuple(range(16)), **kwargs).eval(), ContextProjection(**kwargs).eval()
    for network in (unet, context):
        network.load_state_dict({key: model.state_dict()[key] for key in network.state_dict()})
    latents, text = rows(2, frames, 4, 9, 8, seed=1), rows(2, 7, 24, seed=2)  # two branches of guidance
    every = model(latents.flatten(0, 1), 500, text.repeat_interleave(frames, 0)).sample.unflatten(0, (2, frames))
    seen, time = context(text), torch.full((2,), 500.0)
    empty = [torch.zeros(2, 0, layer.channels) for layer in unet.layers for _ in "kv"]
    first, *anchor = unet(latents[:, 0], time, *seen, torch.zeros(2), *empty)
    assert error(first, f64(every[:, 0])) < 1e-4
    for i in range(1, frames):
        got, *_ = unet(latents[:, i], time, *seen, torch.zeros(2), *anchor)
        assert error(got, f64(every[:, i])) < 1e-4
        alone, *_ = unet(latents[:, i], time, *seen, torch.ones(2), *empty)
        assert error(alone, f64(every[:, i])) > 1e-3
