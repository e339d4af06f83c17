"""Attention of a frame's queries to its own tokens and to those of other frames, without joining them.

out_h = softmax(q_h K_h^T / sqrt(D) + b) V_h for each head h of D = C / num_heads channels; K and V are the segments one after
another, b is log own_weight for the tokens of the first segment and 0 for the others. Bank: StreamV2V (Liang et al. 2024), Pix2Video.
With one segment it is plain self- or cross-attention. Work: 4 B N M C FLOPs, M tokens in all. Bytes moved: q and the answer once, and
the keys and values once from memory, then from L2 for every block of queries: 2 B (N + M) C times the item size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Segment = tuple[Tensor, Tensor]

MAX_SEGMENTS = 3
_NOT_AT_ALL = -1e4  # a logit that the softmax turns into zero in float32 and that float16 can hold


def cross_frame_attention_ref(
    query: Tensor,
    segments: Sequence[Segment],
    num_heads: int,
    *,
    lengths: Sequence[Tensor | None] | None = None,
    own_weight: Tensor | None = None,
) -> Tensor:
    """Define the operation in float64, row by row; see `cross_frame_attention`. Returns (B, N, C) float64."""
    out = torch.zeros(query.shape, dtype=torch.float64, device=query.device)
    for row in range(len(query)):
        counts = [key.shape[1] for key, _ in segments]
        for i, length in enumerate(lengths or ()):
            counts[i] = counts[i] if length is None else int(length[row])
        weights = [torch.ones(count, dtype=torch.float64, device=query.device) for count in counts]
        if own_weight is not None and any(counts[1:]):
            weights[0] *= own_weight[row].double()
        weight = torch.cat(weights)
        if not weight.any():
            continue
        key = torch.cat([key[row, :count] for (key, _), count in zip(segments, counts, strict=True)])
        value = torch.cat([value[row, :count] for (_, value), count in zip(segments, counts, strict=True)])
        q, k, v = (t.double().unflatten(1, (num_heads, -1)).transpose(0, 1) for t in (query[row], key, value))
        logits = q @ k.transpose(1, 2) / q.shape[2] ** 0.5 + weight.log()
        out[row] = (logits.softmax(2) @ v).transpose(0, 1).flatten(1)
    return out


def cross_frame_attention(
    query: Tensor,
    segments: Sequence[Segment],
    num_heads: int,
    *,
    lengths: Sequence[Tensor | None] | None = None,
    own_weight: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """query (B, N, C) and 1 to 3 segments of keys and values (B, M_i, C), M_i >= 0 -> (B, N, C) of the query's type.

    Heads lie one after another in C. Tensors may be views, such as thirds of a fused projection, if their last dimension is
    contiguous. lengths: for each segment, how many of its first tokens each row sees, (B,) int32 in 0..M_i, None for all; the others are
    not read on a GPU. own_weight: (B,) >= 0, multiplies the weights of the first segment's tokens; 0 leaves them out. In a row that sees
    nothing else it has no effect. A row that sees no token at all gets zeros. out: (B, N, C) to write into, on a GPU.

    float16 and bfloat16 on a GPU, where no gradient is to be recorded, go by the Triton kernel, whose sums are float32; the rest by
    torch's attention over the joined segments. Raises ValueError for a shape or type outside of this.
    """
    if not torch.compiler.is_compiling():
        _check(query, segments, num_heads, lengths, own_weight, out)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not _records_gradient(query, segments):
        if torch.compiler.is_compiling():
            from mien.kernels.opaque import cross_frame_attention as opaque

            keys, values = zip(*segments, strict=True)
            answer: Tensor = opaque(query, keys, values, num_heads, lengths or (), own_weight)
            return answer
        from mien.kernels.gpu.cross_frame_attention import cross_frame_attention as on_gpu

        return on_gpu(query, segments, num_heads, lengths=lengths, own_weight=own_weight, out=out)
    if out is not None:
        raise ValueError(
            f"out is for half precision on a GPU without gradients, the query is {query.dtype} on {query.device}; leave it out"
        )
    key, value = segments[0] if len(segments) == 1 else (torch.cat(parts, 1) for parts in zip(*segments, strict=True))
    q, k, v = (rows.unflatten(2, (num_heads, -1)).transpose(1, 2) for rows in (query, key, value))
    bias = _bias(segments, lengths, own_weight)
    if bias is not None:
        bias = bias.to(query.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def _check(
    query: Tensor,
    segments: Sequence[Segment],
    num_heads: int,
    lengths: Sequence[Tensor | None] | None,
    own_weight: Tensor | None,
    out: Tensor | None,
) -> None:
    """Raise ValueError for anything that the operation does not take."""
    batch, _, channels = query.shape
    if not 1 <= len(segments) <= MAX_SEGMENTS:
        raise ValueError(f"got {len(segments)} segments; give 1 to {MAX_SEGMENTS} of keys and values")
    if lengths is not None and len(lengths) != len(segments):
        raise ValueError(f"got {len(lengths)} lengths for {len(segments)} segments; give one for each, or None")
    if channels % num_heads:
        raise ValueError(f"{channels} channels do not divide into {num_heads} heads")
    wanted = [] if out is None else [("out", out, query.shape)]
    for key, value in segments:
        shape = torch.Size((batch, key.shape[1], channels))
        wanted += [("keys", key, shape), ("values", value, shape)]
    for name, tensor, shape in wanted:
        if (tensor.shape, tensor.dtype, tensor.device) != (shape, query.dtype, query.device):
            raise ValueError(
                f"{name} must be {tuple(shape)} {query.dtype} on {query.device}, got {tuple(tensor.shape)} {tensor.dtype} on "
                f"{tensor.device}"
            )
    for length in lengths or ():
        if length is not None and (length.shape != (batch,) or length.dtype != torch.int32 or length.stride(0) != 1):
            raise ValueError(f"lengths must be ({batch},) int32, contiguous, got {tuple(length.shape)} {length.dtype}")
    if own_weight is not None and (own_weight.shape != (batch,) or own_weight.stride(0) != 1):
        raise ValueError(f"own_weight must be ({batch},), contiguous, got {tuple(own_weight.shape)}")


def _records_gradient(query: Tensor, segments: Sequence[Segment]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in (query, *(t for pair in segments for t in pair)))


def _bias(
    segments: Sequence[Segment], lengths: Sequence[Tensor | None] | None, own_weight: Tensor | None
) -> Tensor | None:
    """Logit bias (B, 1, 1, M), or None where there is none.

    A constant is taken off so that the largest is 0: where nothing but own tokens is seen any weight, 0 too, is plain self-attention.
    """
    if len(segments) == 1:
        own_weight = None
    if own_weight is None and lengths is None:
        return None
    (own, _), *others = segments
    of_own = own.new_zeros(len(own)) if own_weight is None else own_weight.log().clamp_min(_NOT_AT_ALL)
    biases = [of_own[:, None].expand(-1, own.shape[1]), *(of_own.new_zeros(key.shape[:2]) for key, _ in others)]
    if lengths is None:
        bias = torch.cat(biases, 1)
        return (bias - bias.amax(1, keepdim=True))[:, None, None]
    for i, length in enumerate(lengths):
        if length is not None:
            seen = torch.arange(biases[i].shape[1], device=length.device) < length[:, None]
            biases[i] = biases[i].masked_fill(~seen, -torch.inf)
    bias = torch.cat(biases, 1)
    # torch answers 0 where all is -inf.
    return (bias - bias.amax(1, keepdim=True).nan_to_num(neginf=0.0))[:, None, None]
