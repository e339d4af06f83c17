"""Fused networks answer what the plain ones do, on random weights, with every kind of input a UNet can have."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mien.engine.cuda.fuse import PixelLinear, Shifts, fuse  # noqa: E402
from mien.engine.networks.autoencoder_kl import KlDecoder, KlEncoder  # noqa: E402
from mien.engine.networks.sd_attention import SelfAttention  # noqa: E402
from mien.engine.networks.sd_controlnet import ControlNet  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402
from mien.engine.networks.taesd import TaesdDecoder, TaesdEncoder  # noqa: E402

SD15: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 32),
    "num_attention_heads": (2, 2, 2, 2),
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}
SD21: dict[str, Any] = {**SD15, "num_attention_heads": (1, 2, 4, 4), "use_linear_projection": True}
VAE = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
NETWORKS: dict[str, Any] = {
    "sd15": lambda: UNet(**SD15),
    "sd15 adapter bank": lambda: UNet(adapter=True, bank_layers=(0, 3, 6, 15), **SD15),
    "sd21 control guidance": lambda: UNet(control=True, bank_layers=(7,), **SD21, time_cond_proj_dim=16),
    "controlnet": lambda: ControlNet(bank_layers=(6,), **SD15),
    "taesd encoder": lambda: TaesdEncoder(channels=8, num_blocks=(1, 2, 1, 1)),
    "taesd decoder": lambda: TaesdDecoder(channels=8, num_blocks=(1, 2, 1, 1), has_pool=True),
    "vae encoder": lambda: KlEncoder(**VAE),
    "vae decoder": lambda: KlDecoder(**VAE),
}


def random_weights(module: Any) -> Any:
    """Biases and norms too, which are ones and zeros in a fresh network and would hide what is done with them."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        spread = 0.3 if weight.dim() == 1 else weight[0].numel() ** -0.5
        middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weight.data.copy_(middle + spread * torch.randn(weight.shape, generator=generator))
    return module.eval().requires_grad_(False)


def inputs(module: Any, rows: int = 2) -> list[Any]:
    """Of 6 x 10 latents, 7 tokens of text and, in every layer with a bank, 5 tokens of it."""
    generator = torch.Generator().manual_seed(1)
    if not hasattr(module, "signature"):
        channels = 4 if "Decoder" in type(module).__name__ else 3
        return [torch.randn(rows, channels, 16, 24, generator=generator)]
    sizes = {
        "B": rows,
        "H": 48,
        "W": 80,
        "H/8": 6,
        "W/8": 10,
        "H16": 3,
        "W16": 5,
        "H32": 2,
        "W32": 3,
        "H64": 1,
        "W64": 2,
        "T": 7,
    }
    tensors = []
    for name, dims in module.signature.inputs.items():
        shape = [dim if isinstance(dim, int) else sizes.get(dim, 5) for dim in dims]
        tensor = torch.rand(shape, generator=generator)
        tensors.append(900 * tensor if name == "timestep" else tensor)
    return tensors


def answers(module: Any, arguments: list[Any]) -> list[Any]:
    got = module(*arguments)
    return [got] if isinstance(got, torch.Tensor) else list(got)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_is_the_plain_one(name: str) -> None:
    plain = random_weights(NETWORKS[name]())
    arguments = inputs(plain)
    names = set(plain.state_dict())
    fused = fuse(copy.deepcopy(plain))
    got, want = answers(fused, arguments), answers(plain, arguments)
    assert len(got) == len(want) and all(float(part.abs().max()) > 0.1 for part in want)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5
    assert set(plain.state_dict()) == names, "only the fused one has other names"
    again = fuse(fused)
    assert again is fused and all(torch.equal(a, b) for a, b in zip(answers(again, arguments), got, strict=True))


def test_what_is_fused() -> None:
    unet = fuse(random_weights(UNet(**SD15)))
    kinds = [type(part) for part in unet.modules()]
    assert SelfAttention not in kinds and torch.nn.GroupNorm in {kind.__mro__[1] for kind in kinds}
    assert kinds.count(Shifts) == 1
    blocks = [part for part in unet.modules() if type(part).__name__ == "ResidualBlock"]
    assert all(block.conv1.bias is None for block in blocks)
    shortcuts = [block for block in blocks if isinstance(block.conv_shortcut, PixelLinear)]
    assert shortcuts and all((block in shortcuts) == (block.conv2.bias is None) for block in blocks)
    convolutions = [part for part in unet.modules() if isinstance(part, torch.nn.Conv2d)]
    assert all(part.weight.is_contiguous(memory_format=torch.channels_last) for part in convolutions)
    assert not any(weight.requires_grad for weight in unet.parameters())


def test_pictures_stay_channels_last() -> None:
    """No layer between the first convolution and the last one lays them out anew."""
    unet, seen = fuse(random_weights(UNet(**SD15))), list[tuple[str, bool]]()
    for name, part in unet.named_modules():
        part.register_forward_hook(
            lambda _, __, out, name=name: (
                seen.append((name, out.is_contiguous(memory_format=torch.channels_last)))
                if isinstance(out, torch.Tensor) and out.dim() == 4
                else None
            )
        )
    unet(*inputs(unet))
    assert len(seen) > 50 and [name for name, is_last in seen if not is_last] == []
