"""The `tiny` W+ encoder: a face crop becomes 12 tokens of 64, one layer-normed code per face (the role of e4e in the W+ Adapter)."""

from __future__ import annotations

from torch import Tensor, nn


class WEncoder(nn.Module):
    """RGB (B, 3, 128, 128) in [-1, 1] -> w_plus (B, n_tokens, token_dim), each token of zero mean and unit variance."""

    def __init__(
        self, n_tokens: int = 12, token_dim: int = 64, widths: tuple[int, int, int] = (48, 64, 96), rank: int = 192
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.features = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, a, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(a, b, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(b, b, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(b, c, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, 32, 1),
            nn.Flatten(),
        )
        self.low_rank = nn.Linear(32 * 8 * 8, rank)
        self.to_tokens = nn.Linear(rank, n_tokens * token_dim)
        self.token_dim = token_dim
        self.norm = nn.LayerNorm(token_dim, elementwise_affine=False)

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        tokens = self.to_tokens(self.low_rank(self.features(image)))
        w_plus: Tensor = self.norm(tokens.unflatten(1, (-1, self.token_dim)))
        return w_plus
