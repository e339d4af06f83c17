"""The `tiny` denoisers: a small UNet over face latents, conditioned on a timestep and on W+ tokens, with a K/V bank.

The W+ code enters twice: flattened, beside the timestep embedding (the "class embedding" of diffusers' UNet2DConditionModel), and as
tokens in an adapter branch of every attention block, out = self + w_scale * cross, after the W+ Adapter (Li et al. 2023, section 3.2).
Self-attention reads its own keys and values and those of a bank (anchor and previous frame), which are inputs; its own are outputs.
No attention at full latent resolution: on a CPU it costs more than all the rest.
`DifferenceDenoiser` is the same trunk distilled for editing: it sees the clean source latents beside the noised answer, as InstructPix2Pix
does (Brooks et al. 2023, section 3.2), both codes, and where on a face every latent lies, and answers edited minus source in one row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoids (B, dim) of timesteps (B,), cosines first, longest period 10,000 (Ho et al. 2020)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half)
    angles = timestep[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], 1)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv, with a scale and shift from the embedding before the second conv. (B, C_in, h, w) -> (B, C_out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int, groups: int = 8) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Apply the block; embedding: (B, E), already through SiLU."""
        scale, shift = self.embedding(embedding)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


class AttentionBlock(nn.Module):
    """Self-attention over own and bank tokens, plus w_scale times cross-attention to the W+ tokens. (B, C, h, w) -> same."""

    def __init__(self, channels: int, token_dim: int, n_heads: int, groups: int = 8) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.GroupNorm(groups, channels)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_q_wplus = nn.Linear(channels, channels, bias=False)
        self.to_kv_wplus = nn.Linear(token_dim, 2 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [t.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v)]
        return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)

    def forward(
        self, x: Tensor, tokens: Tensor, w_scale: Tensor, bank: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (B, 12, D), bank: keys and values (B, M, C) with M >= 0. Returns the output and own keys and values (B, h*w, C)."""
        rows = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.to_qkv(rows).chunk(3, 2)
        seen_k, seen_v = (k, v) if bank is None else (torch.cat([k, bank[0]], 1), torch.cat([v, bank[1]], 1))
        attended = self._attend(q, seen_k, seen_v)
        wk, wv = self.to_kv_wplus(tokens).chunk(2, 2)
        attended = attended + w_scale[:, None, None] * self._attend(self.to_q_wplus(rows), wk, wv)
        out = self.to_out(attended).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + out, k, v


class Denoiser(nn.Module):
    """v-prediction UNet.

    latents (B, C, 32, 32), timestep (B,) in 0..999, w_plus (B, N, D), w_scale (B,), bank -> v, own keys and values.
    """

    def __init__(
        self,
        latent_channels: int = 8,
        widths: tuple[int, int, int] = (32, 80, 128),
        n_tokens: int = 12,
        token_dim: int = 64,
        embedding_dim: int = 192,
        n_heads: int = 4,
        in_channels: int | None = None,
        mark_channels: int = 0,
    ) -> None:
        """in_channels: of what it reads, `latent_channels` if not given. mark_channels: of features that say where on a face
        a latent lies, see `predict`.
        """
        super().__init__()
        a, b, c = widths
        e = embedding_dim
        self.widths = widths
        self.time_dim = 64
        self.time_in = nn.Linear(self.time_dim, e)
        self.w_in = nn.Linear(n_tokens * token_dim, 96)
        self.w_out = nn.Linear(96, e)
        self.emb_out = nn.Linear(e, e)
        self.conv_in = nn.Conv2d(in_channels or latent_channels, a, 3, padding=1)
        self.down_a = ResidualBlock(a, a, e)
        self.to_b = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.down_b = ResidualBlock(b, b, e)
        self.attention = nn.ModuleList(AttentionBlock(ch, token_dim, n_heads) for ch in (b, c, c, b))
        self.to_c = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.down_c = ResidualBlock(c, c, e)
        self.middle = ResidualBlock(c, c, e)
        self.up_b = ResidualBlock(c + b, b, e)
        self.up_a = ResidualBlock(b + a, a, e)
        self.draw = ResidualBlock(a + mark_channels, a, e) if mark_channels else None
        self.norm_out = nn.GroupNorm(8, a)
        self.conv_out = nn.Conv2d(a, latent_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    @property
    def bank_channels(self) -> tuple[int, ...]:
        """Channels of each bank layer's keys and values."""
        _, b, c = self.widths
        return (b, c, c, b)

    def forward(
        self, latents: Tensor, timestep: Tensor, w_plus: Tensor, w_scale: Tensor, *bank: Tensor
    ) -> tuple[Tensor, ...]:
        """bank: k_0, v_0, ..., k_3, v_3, each (B, M_i, C_i), or nothing. Returns v (B, C, 32, 32), then own k_0, v_0, ..., k_3, v_3."""
        return self.predict(latents, timestep, w_plus, w_scale, bank)

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        w_plus: Tensor,
        w_scale: Tensor,
        bank: tuple[Tensor, ...],
        marks: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """As `forward`. marks: (B, mark_channels, 32, 32), read once more at the end."""
        code = self.w_out(F.silu(self.w_in(w_plus.flatten(1))))
        embedding = (
            self.time_in(timestep_embedding(timestep, self.time_dim).to(latents.dtype)) + w_scale[:, None] * code
        )
        embedding = F.silu(self.emb_out(F.silu(embedding)))
        own: list[Tensor] = []

        def attend(x: Tensor, layer: int) -> Tensor:
            seen = (bank[2 * layer], bank[2 * layer + 1]) if bank else None
            x, k, v = self.attention[layer](x, w_plus, w_scale, seen)
            own.extend((k, v))
            return x

        xa = self.down_a(self.conv_in(latents), embedding)
        xb = attend(self.down_b(self.to_b(xa), embedding), 0)
        xc = attend(self.down_c(self.to_c(xb), embedding), 1)
        x = attend(self.middle(xc, embedding), 2)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = attend(self.up_b(torch.cat([x, xb], 1), embedding), 3)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.up_a(torch.cat([x, xa], 1), embedding)
        if self.draw is not None and marks is not None:
            x = self.draw(torch.cat([x, marks], 1), embedding)
        return self.conv_out(F.silu(self.norm_out(x))), *own


class DifferenceDenoiser(nn.Module):
    """One-row editor: latents (B, C, 32, 32) of the answer so far, noised; source (B, C, 32, 32) clean; timestep (B,);

    w_plus and w_edited (B, N, D); coordinates (B, 2, 32, 32), see engine/face/coordinates.py -> the edited minus the source latents
    (B, C, 32, 32), clean. The trunk says what comes and, in one more channel m, how much of the source goes: difference = trunk - m
    source. So what hides the face (dark glasses) need not be told twice.
    An atlas over the mean face, learned with the rest and fetched through the coordinates at twice the latents' resolution, tells
    the trunk where on the face a latent lies: lids, lips and lines are narrower than a latent.
    """

    CODE_GAIN = 3.0  # directions are about a third of a code's unit variance
    FINER = 2

    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, int, int] = (48, 80, 128),
        n_tokens: int = 12,
        atlas_channels: int = 12,
        atlas_size: int = 64,
    ) -> None:
        super().__init__()
        marks = atlas_channels * self.FINER**2
        self.atlas = nn.Parameter(_waves(atlas_channels, atlas_size))
        self.trunk = Denoiser(
            latent_channels + 1,
            widths,
            n_tokens=2 * n_tokens,
            in_channels=2 * latent_channels + marks,
            mark_channels=marks,
        )
        assert self.trunk.conv_out.bias is not None
        nn.init.zeros_(self.trunk.conv_out.bias)

    def forward(
        self,
        latents: Tensor,
        source: Tensor,
        timestep: Tensor,
        w_plus: Tensor,
        w_edited: Tensor,
        coordinates: Tensor,
    ) -> Tensor:
        """Answer the difference."""
        tokens = torch.cat([w_plus, self.CODE_GAIN * (w_edited - w_plus)], 1)
        at = F.interpolate(coordinates, scale_factor=float(self.FINER), mode="bilinear", align_corners=False)
        marks = F.pixel_unshuffle(fetch(self.atlas[0], at), self.FINER)
        read = torch.cat([latents, source, marks], 1)
        out: Tensor = self.trunk.predict(read, timestep, tokens, torch.ones_like(tokens[:, 0, 0]), (), marks)[0]
        return out[:, :-1] - out[:, -1:] * source


def fetch(picture: Tensor, at: Tensor) -> Tensor:
    """(C, S, S) read bilinearly at (B, 2, h, w), x and y from -1 to 1 between the outer edges, clamped to it: (B, C, h, w).

    What `grid_sample` answers with borders repeated; ONNX Runtime gathers rows of channels faster than it samples.
    """
    size = picture.shape[-1]
    rows = picture.flatten(1).T
    place = ((at + 1) * (size / 2) - 0.5).clamp(0, size - 1)
    low = place.floor().clamp(max=size - 2)
    x, y = (place - low).flatten(2)[..., None].unbind(1)
    # Clamped as whole numbers too: a place that is not a number spoils its own row, and reads nothing beyond the picture.
    first = (low[:, 1] * size + low[:, 0]).flatten(1).long().clamp(0, size * (size - 1) - 2)
    corner = [F.embedding(first + step, rows) for step in (0, 1, size, size + 1)]
    upper, lower = (left + x * (right - left) for left, right in (corner[:2], corner[2:]))
    out: Tensor = (upper + y * (lower - upper)).transpose(1, 2).unflatten(2, at.shape[2:])
    return out


def _waves(channels: int, size: int) -> Tensor:
    """(1, channels, size, size): x, y and waves of many directions and lengths, by which places can be told apart from the start."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    turn = torch.arange(channels - 2) * 2.4  # the golden angle
    length = torch.logspace(0.0, 1.0, channels - 2)[:, None, None]
    way = torch.cos(turn)[:, None, None] * x + torch.sin(turn)[:, None, None] * y
    return torch.cat([torch.stack([x, y]), torch.sin(math.pi * length * way + turn[:, None, None])])[None]
