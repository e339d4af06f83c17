"""The W+ Adapter's projection (Li et al. 2024, WProjModel): 18 style vectors become 4 tokens beside the text's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.engine.networks.e4e import STYLE_DIM

GROUPS = ((0, 4), (4, 8), (8, 12), (12, 18))


class WPlusProjection(nn.Module):
    """w_plus (B, 18, style_dim) -> w_tokens (B, 4, cross_attention_dim). A code of zeros gives norm.bias in every token."""

    def __init__(self, cross_attention_dim: int = 768, style_dim: int = STYLE_DIM) -> None:
        super().__init__()
        sizes = [style_dim * (end - start) for start, end in GROUPS]
        self.proj_0, self.proj_1, self.proj_2, self.proj_3 = (
            nn.Linear(size, cross_attention_dim, bias=False) for size in sizes
        )
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, w_plus: Tensor) -> Tensor:
        """Project."""
        layers = (self.proj_0, self.proj_1, self.proj_2, self.proj_3)
        rows = [layer(w_plus[:, a:b].flatten(1)) for layer, (a, b) in zip(layers, GROUPS, strict=True)]
        tokens: Tensor = self.norm(torch.stack(rows, 1))
        return tokens
