"""torch.compile takes a fused UNet as a whole, with the kernels as operators of their own, as it meets them on a GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mien.engine.cuda import fuse as fusing  # noqa: E402
from mien.engine.networks import sd_attention, sd_blocks  # noqa: E402
from mien.engine.networks.sd_unet import UNet  # noqa: E402
from mien.kernels import opaque  # noqa: E402

SIZES: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "num_attention_heads": (2, 2),
    "attention": (True, False),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}


def test_the_operators_are_what_torch_expects_of_operators() -> None:
    x, other = torch.randn(2, 9, 8), torch.randn(2, 3, 8)
    length = torch.tensor([3, 1], dtype=torch.int32)
    picture = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    tests = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (opaque.geglu, (x,)),
        (opaque.cross_frame_attention, (x, [x, other], [x, other], 2, [None, length], torch.ones(2))),
        (opaque.cross_frame_attention, (x, [other], [other], 2, [], None)),
        (opaque.group_norm_silu, (picture, 2, torch.ones(8), torch.ones(8), 1e-5, torch.ones(2, 8), True)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=tests)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_is_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    unet = fusing.fuse(UNet(adapter=True, bank_layers=(1,), **SIZES).eval().requires_grad_(False))
    sizes = {"B": 2, "H/8": 4, "W/8": 6, "T": 5, "M1": 6}
    shapes = unet.signature.inputs.values()
    arguments = [torch.rand([d if isinstance(d, int) else sizes[d] for d in dims]) for dims in shapes]
    want = unet(*arguments)

    def attention(query: Any, segments: Any, heads: int, *, lengths: Any = None, own_weight: Any = None) -> Any:
        keys, values = zip(*segments, strict=True)
        return opaque.cross_frame_attention(query, keys, values, heads, lengths or (), own_weight)

    def norm(x: Any, groups: int, weight: Any, bias: Any, eps: float, shift: Any = None, silu: bool = True) -> Any:
        return opaque.group_norm_silu(x, groups, weight, bias, eps, shift, silu)

    monkeypatch.setattr(sd_attention, "cross_frame_attention", attention)
    monkeypatch.setattr(sd_attention, "geglu", opaque.geglu)
    monkeypatch.setattr(sd_blocks, "group_norm_silu", norm)
    monkeypatch.setattr(fusing, "group_norm_silu", norm)
    compiled = copy.deepcopy(unet)
    compiled.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    for got, expected in zip(compiled(*arguments), want, strict=True):
        torch.testing.assert_close(got, expected)
