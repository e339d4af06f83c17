"""The transformer blocks of the SD family: self-attention with a bank, attention to text and W+ tokens, feed-forward.

Parameter names are diffusers'. Keys and values of text and W+ tokens are inputs: they are the same at every step and in
every frame, so `sd_unet.ContextProjection` makes them once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mien.kernels.cross_frame_attention import Segment, cross_frame_attention
from mien.kernels.geglu import geglu


@dataclass(frozen=True, slots=True)
class BankInputs:
    """What self-attention sees of other frames.

    segments: one or two pairs of keys and values (B, M, C), M >= 0. own_weight: (B,), of the own tokens against them. lengths: for
    each segment how many tokens each row sees (B,) int32, so that rows with and without a bank share a batch; None for all.
    """

    segments: tuple[Segment, ...]
    own_weight: Tensor
    lengths: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What one transformer block reads beside its hidden states.

    text: keys and values (B, T, C). wplus: keys and values (B, 4, C), and the scale (B,).
    """

    text: tuple[Tensor, Tensor]
    wplus: tuple[Tensor, Tensor, Tensor] | None = None
    bank: BankInputs | None = None


class SelfAttention(nn.Module):
    """Attention of the tokens (B, N, C) to themselves and, if there is one, to a bank."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, bank: BankInputs | None) -> tuple[Tensor, Tensor, Tensor]:
        """The answer, and the own keys and values (B, N, C), those of the bank not among them."""
        q, k, v = self.project(x)
        if bank is None:
            seen = cross_frame_attention(q, [(k, v)], self.num_heads)
        else:
            lengths = None if bank.lengths is None else (None, *bank.lengths)
            segments = [(k, v), *bank.segments]
            seen = cross_frame_attention(q, segments, self.num_heads, lengths=lengths, own_weight=bank.own_weight)
        return self.to_out(seen), k, v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, N, C)."""
        return self.to_q(x), self.to_k(x), self.to_v(x)


class CrossAttention(nn.Module):
    """Attention to text and, with an adapter, to W+ tokens.

    The adapter's query comes from what the text attention found, not from the hidden states: z + scale Attn(to_q_wplus(z),
    k, v), then to_out (W+ Adapter, Li et al. 2023).
    """

    def __init__(self, channels: int, num_heads: int, adapter: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        if adapter:
            self.to_q_wplus = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, inputs: LayerInputs) -> Tensor:
        """(B, N, C) -> same."""
        z = cross_frame_attention(self.to_q(x), [inputs.text], self.num_heads)
        if inputs.wplus is not None:
            k, v, scale = inputs.wplus
            z = z + scale[:, None, None] * cross_frame_attention(self.to_q_wplus(z), [(k, v)], self.num_heads)
        out: Tensor = self.to_out(z)
        return out


class GatedLinear(nn.Module):
    """GEGLU (Shazeer 2020): half of a projection times the GELU of the other half."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, width)."""
        return geglu(self.proj(x))


class FeedForward(nn.Module):
    """Four times as wide inside. (B, N, C) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedLinear(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every token."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each after a LayerNorm and around an identity."""

    def __init__(self, channels: int, num_heads: int, adapter: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = SelfAttention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, num_heads, adapter)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> the same, and the self-attention's own keys and values."""
        attended, k, v = self.attn1(self.norm1(x), inputs.bank)
        x = x + attended
        x = x + self.attn2(self.norm2(x), inputs)
        return x + self.ff(self.norm3(x)), k, v


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of (B, C, h, w), around an identity."""

    def __init__(self, channels: int, num_heads: int, num_groups: int, linear: bool, adapter: bool) -> None:
        """linear: whether the projections in and out are stored as those of tokens (SD2.x) or of pixels (SD1.5)."""
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, adapter)])
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> the same, and the self-attention's own keys and values (B, h w, C)."""
        h = self.norm(x)
        rows = self.proj_in(_tokens(h)) if self.linear else _tokens(self.proj_in(h))
        rows, k, v = self.transformer_blocks[0](rows, inputs)
        h = _pixels(self.proj_out(rows), x) if self.linear else self.proj_out(_pixels(rows, x))
        return x + h, k, v


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _pixels(rows: Tensor, like: Tensor) -> Tensor:
    out: Tensor = rows.transpose(1, 2).unflatten(2, like.shape[2:])
    return out
