"""Cross-frame attention: torch's path and the Triton kernel against float64, on weird shapes, mixed rows and views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mien.kernels.cross_frame_attention import cross_frame_attention, cross_frame_attention_ref
from mien.kernels.gpu import cross_frame_attention as on_gpu
from mien.kernels.gpu.attention_tiles import TILES, Tile, candidates, choose, parts

HALF, SINGLE = torch.float16, torch.float32
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
SMALL = Tile(16, 16, 4, 2)  # more blocks of fewer tokens, and a split head

# rows, queries, tokens of each segment, heads, channels of a head, type, tile
CASES = [
    (1, 1, (1,), 1, 40, SINGLE, None),
    (2, 70, (70,), 2, 40, HALF, None),
    (1, 150, (150, 33), 2, 40, SINGLE, None),
    (2, 70, (70, 0), 1, 64, HALF, None),
    (1, 70, (70, 0, 33), 2, 80, HALF, None),
    (1, 70, (70, 33, 1), 1, 80, SINGLE, SMALL),
    (1, 64, (64, 64, 64), 1, 160, HALF, None),
    (2, 33, (33, 150, 70), 1, 160, SINGLE, SMALL),
    (1, 128, (128, 128), 2, 64, HALF, None),
    (2, 70, (77,), 2, 40, SINGLE, None),  # text
    (2, 70, (4,), 2, 80, HALF, None),  # W+
    (1, 17, (17, 5), 3, 8, SINGLE, None),  # a miniature network
    (1, 17, (17, 20), 2, 24, HALF, SMALL),
    (1, 0, (7,), 2, 40, HALF, None),
]


def normal(*shape: int, seed: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def segments_of(rows: int, tokens: tuple[int, ...], channels: int, **kind: Any) -> list[tuple[Tensor, Tensor]]:
    return [
        (normal(rows, n, channels, seed=2 * i + 1, **kind), normal(rows, n, channels, seed=2 * i + 2, **kind))
        for i, n in enumerate(tokens)
    ]


def agree(got: Tensor, want: Tensor) -> None:
    """got is within its type's tolerance of the float64 answer, as a share of the largest value."""
    assert got.shape == want.shape and torch.isfinite(got).all()
    if got.numel():
        assert float((got.double() - want).abs().max() / want.abs().max()) < TOLERANCE[got.dtype]


def weights_of(name: str | None, device: str) -> Tensor | None:
    return None if name is None else torch.tensor([float(name), 0.3], device=device)


@pytest.mark.parametrize("rows, queries, tokens, heads, dim, dtype, tile", CASES)
def test_kernel(rows, queries, tokens, heads, dim, dtype, tile, device):
    query = normal(rows, queries, heads * dim, seed=0, dtype=dtype, device=device)
    segments = segments_of(rows, tokens, heads * dim, dtype=dtype, device=device)
    got = on_gpu.cross_frame_attention(query, segments, heads, tile=tile)
    assert got.dtype == dtype
    agree(got, cross_frame_attention_ref(query, segments, heads))


@pytest.mark.parametrize("rows, queries, tokens, heads, dim, dtype, tile", CASES)
def test_torch_path(rows, queries, tokens, heads, dim, dtype, tile, device):
    query = normal(rows, queries, heads * dim, seed=0, dtype=dtype, device=device)
    segments = segments_of(rows, tokens, heads * dim, dtype=dtype, device=device)
    agree(cross_frame_attention(query, segments, heads), cross_frame_attention_ref(query, segments, heads))


PATHS = pytest.mark.parametrize(
    "attend", [cross_frame_attention, on_gpu.cross_frame_attention], ids=["torch", "kernel"]
)


@PATHS
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3, 2.0])
@pytest.mark.parametrize("tokens", [(70, 33), (70, 0), (64, 64, 5)])
def test_weight_of_own_tokens(attend, weight, tokens, device):
    kind: dict[str, Any] = {"dtype": SINGLE, "device": device}
    query, segments = normal(2, 70, 80, seed=0, **kind), segments_of(2, tokens, 80, **kind)
    own_weight = torch.tensor([weight, 0.5], device=device)
    got = attend(query, segments, 2, own_weight=own_weight)
    agree(got, cross_frame_attention_ref(query, segments, 2, own_weight=own_weight))
    if tokens[1] == 0:  # nothing to weigh the own tokens against
        agree(got, cross_frame_attention_ref(query, segments[:1], 2))
    elif weight == 0:
        agree(got[:1], cross_frame_attention_ref(query, segments[1:], 2)[:1])


@PATHS
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tokens", [(70, 33, 64), (64, 64, 64)])
def test_rows_of_mixed_lengths(attend, weighted, tokens, device):
    """What a row does not see is not read: it holds NaN. A row that sees nothing beside its own tokens is plain self-attention."""
    kind: dict[str, Any] = {"dtype": SINGLE, "device": device}
    query, segments = normal(5, 40, 80, seed=0, **kind), segments_of(5, tokens, 80, **kind)
    lengths = [None, [33, 0, 17, 0, 1], [64, 0, 0, 5, 16]]
    counts = [None if each is None else torch.tensor(each, dtype=torch.int32, device=device) for each in lengths]
    own_weight = torch.tensor([0.0, 0.0, 2.0, 0.3, 1.0], device=device) if weighted else None
    want = cross_frame_attention_ref(query, segments, 2, lengths=counts, own_weight=own_weight)
    if attend is on_gpu.cross_frame_attention:
        for (key, value), length in zip(segments[1:], lengths[1:], strict=True):
            for row, n in enumerate(length):
                key[row, n:] = value[row, n:] = torch.nan
    got = attend(query, segments, 2, lengths=counts, own_weight=own_weight)
    agree(got, want)
    agree(got[1:2], cross_frame_attention_ref(query[1:2], [(k[1:2], v[1:2]) for k, v in segments[:1]], 2))


@PATHS
def test_a_row_that_sees_nothing_gets_zeros(attend, device):
    kind: dict[str, Any] = {"dtype": SINGLE, "device": device}
    query, segments = normal(2, 9, 40, seed=0, **kind), segments_of(2, (20,), 40, **kind)
    lengths = [torch.tensor([0, 3], dtype=torch.int32, device=device)]
    got = attend(query, segments, 1, lengths=lengths)
    assert not got[0].any()
    agree(got, cross_frame_attention_ref(query, segments, 1, lengths=lengths))


@PATHS
def test_views_of_a_fused_projection(attend, device):
    """Thirds of (B, N, 3C), a bank whose keys and values differ in strides, and one that all rows share."""
    kind: dict[str, Any] = {"dtype": SINGLE, "device": device}
    query, key, value = normal(2, 70, 240, seed=0, **kind).chunk(3, 2)
    wide = normal(2, 33, 160, seed=1, **kind)
    bank = wide[:, :, :80], wide[:, :, 80:].contiguous()
    shared = tuple(tensor.expand(2, -1, -1) for tensor in segments_of(1, (20,), 80, **kind)[0])
    segments = [(key, value), bank, shared]
    agree(attend(query, segments, 2), cross_frame_attention_ref(query, segments, 2))


def test_large_logits_do_not_overflow(device):
    query = 100 * normal(1, 33, 40, seed=0, dtype=HALF, device=device)
    segments = [(100 * key, value) for key, value in segments_of(1, (33, 40), 40, dtype=HALF, device=device)]
    agree(on_gpu.cross_frame_attention(query, segments, 1), cross_frame_attention_ref(query, segments, 1))


def test_out_is_written_and_returned(device):
    query, segments = (
        normal(1, 20, 40, seed=0, dtype=HALF, device=device),
        segments_of(1, (20,), 40, dtype=HALF, device=device),
    )
    out = torch.full((1, 20, 80), torch.nan, dtype=HALF, device=device)[:, :, :40]
    assert on_gpu.cross_frame_attention(query, segments, 1, out=out) is out
    agree(out, cross_frame_attention_ref(query, segments, 1))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"segments": []}, "got 0 segments; give 1 to 3"),
        ({"num_heads": 3}, "40 channels do not divide into 3 heads"),
        ({"lengths": []}, "got 0 lengths for 1 segments"),
        ({"lengths": [torch.ones(2)]}, r"lengths must be \(2,\) int32, contiguous, got \(2,\) torch.float32"),
        ({"own_weight": torch.ones(3)}, r"own_weight must be \(2,\), contiguous, got \(3,\)"),
        ({"segments": [(torch.zeros(2, 7, 40), torch.zeros(2, 8, 40))]}, r"values must be \(2, 7, 40\)"),
        ({"segments": [(torch.zeros(1, 7, 40), torch.zeros(1, 7, 40))]}, r"keys must be \(2, 7, 40\)"),
        ({"out": torch.zeros(2, 9, 40)}, "out is for half precision on a GPU"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    good = {
        "query": torch.zeros(2, 9, 40),
        "segments": [(torch.zeros(2, 7, 40), torch.zeros(2, 7, 40))],
        "num_heads": 1,
    }
    with pytest.raises(ValueError, match=words):
        cross_frame_attention(**(good | change))


def test_channels_apart_are_refused():
    query = torch.zeros(1, 40, 9).transpose(1, 2)
    with pytest.raises(ValueError, match="channels must be contiguous"):
        on_gpu.cross_frame_attention(query, [(query, query)], 1)


def test_gradients_go_by_torch():
    query = torch.randn(1, 5, 16, requires_grad=True)
    cross_frame_attention(query, [(query, query), (query, query)], 2, own_weight=torch.full((1,), 0.5)).sum().backward()
    assert query.grad is not None and query.grad.abs().sum() > 0


def test_heads_are_split_into_powers_of_two():
    assert [parts(dim, True) for dim in (8, 24, 40, 64, 80, 120, 160)] == [
        (16, 0),
        (32, 0),
        (32, 16),
        (64, 0),
        (64, 16),
        (128, 0),
        (128, 32),
    ]
    assert [parts(dim, False) for dim in (40, 80, 160)] == [(64, 0), (128, 0), (256, 0)]


@pytest.mark.parametrize("capability", TILES)
@pytest.mark.parametrize("dim", [40, 80, 160])
@pytest.mark.parametrize("heads", [8, 64])
def test_the_tile_chosen_is_among_those_worth_timing(capability, dim, heads):
    assert choose(capability, dim, heads, 1024) in candidates(capability, dim)


@pytest.mark.parametrize("unknown, known", [(75, 80), (86, 80), (87, 80), (103, 100), (121, 120), (130, 120)])
def test_a_gpu_that_is_not_in_the_table_takes_the_tiles_of_the_next_older(unknown, known):
    assert choose(unknown, 80, 8, 1024) == choose(known, 80, 8, 1024)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "queries, heads, dim", [(4096, 8, 40), (1024, 8, 80), (256, 8, 160), (64, 8, 160), (1024, 10, 64)]
)
@pytest.mark.parametrize("frames", [0, 1, 2])
def test_shapes_of_stable_diffusion(queries, heads, dim, frames, dtype, device):
    kind: dict[str, Any] = {"dtype": dtype, "device": device}
    query = normal(2, queries, heads * dim, seed=0, **kind)
    segments = segments_of(2, (queries,) * (1 + frames), heads * dim, **kind)
    agree(cross_frame_attention(query, segments, heads), cross_frame_attention_ref(query, segments, heads))


@pytest.mark.gpu
@pytest.mark.parametrize("rows, queries, tokens, heads, dim, dtype, tile", [case for case in CASES if case[5] == HALF])
def test_kernel_on_a_gpu(rows, queries, tokens, heads, dim, dtype, tile, device):
    test_kernel(rows, queries, tokens, heads, dim, dtype, tile, device)


@pytest.mark.gpu
def test_mixed_rows_on_a_gpu(device):
    kind: dict[str, Any] = {"dtype": HALF, "device": device}
    query, segments = normal(4, 1024, 640, seed=0, **kind), segments_of(4, (1024, 1024, 512), 640, **kind)
    lengths = [None, *(torch.tensor(n, dtype=torch.int32, device=device) for n in ([1024, 0, 33, 0], [0, 0, 512, 7]))]
    own_weight = torch.tensor([0.0, 0.0, 2.0, 0.3], device=device)
    got = cross_frame_attention(query, segments, 8, lengths=lengths, own_weight=own_weight)
    agree(got, cross_frame_attention_ref(query, segments, 8, lengths=lengths, own_weight=own_weight))


@pytest.mark.gpu
def test_a_graph_captures_it(device):
    kind: dict[str, Any] = {"dtype": HALF, "device": device}
    query, segments = normal(2, 256, 640, seed=0, **kind), segments_of(2, (256, 256), 640, **kind)
    own_weight, out = torch.ones(2, device=device), torch.empty_like(query)
    cross_frame_attention(query, segments, 8, own_weight=own_weight, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cross_frame_attention(query, segments, 8, own_weight=own_weight, out=out)
    query.copy_(normal(2, 256, 640, seed=9, **kind))
    own_weight.fill_(0.25)
    graph.replay()
    agree(out, cross_frame_attention_ref(query, segments, 8, own_weight=own_weight))
