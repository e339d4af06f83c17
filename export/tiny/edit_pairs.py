"""The cached pairs of `pairs`, as the stages that learn the edits draw from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.types import Array
from mien.export.tiny.pairs import EDITS

T_MIN, T_MAX = 80, 640
T_USUAL = (150, 420)
SHOWN = 12


def alphas_cumprod() -> Tensor:
    """(1000,) of the scaled-linear schedule of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


@dataclass(frozen=True, slots=True)
class Noiser:
    """z_t = sqrt(abar) z + sqrt(1 - abar) noise."""

    abar: Tensor

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) of timesteps (B,), each (B, 1, 1, 1)."""
        abar = self.abar[t.long()][:, None, None, None]
        return abar.sqrt(), (1 - abar).sqrt()

    def __call__(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noise latents (B, C, h, w)."""
        a, s = self.scales(t)
        return a * z + s * noise


def draw_timesteps(count: int, rng: np.random.Generator) -> Tensor:
    """(count,): half of them anywhere in the trained range, half where editing takes place."""
    wide = rng.random(count) < 0.5
    t = np.where(wide, rng.uniform(T_MIN, T_MAX, count), rng.uniform(*T_USUAL, count))
    return torch.from_numpy(t.astype(np.float32)).round()


class EditPairs:
    """Memory-mapped; shapes in pairs.py.

    energy: (E,) mean square of the wanted difference at full strength. warps: (E,) bool, edits whose source is not the
    plain crop, because a landmark template moves it first.
    """

    def __init__(self, runs: Path) -> None:
        folder = runs / "pairs"

        def opened(name: str) -> Array:
            return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))

        self._plain_w, self._target_w = opened("plain_w"), opened("target_w")
        self._plain_z, self._source_z, self._target_z = opened("plain_z"), opened("source_z"), opened("target_z")
        self.strength = np.array(opened("strength"))
        is_val = np.array(opened("is_val"))
        self.train, self.val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
        self.latent_shape: tuple[int, ...] = self._plain_z.shape[1:]
        wanted = self._target_z[self.val].astype(np.float32) - self._source_z[self.val]
        self.warps = np.any(self._source_z[self.val[:8]] != self._plain_z[self.val[:8], None], (0, 2, 3, 4))
        self.energy = torch.from_numpy(np.square(wanted).mean((0, 2, 3, 4)))

    def latents(self, ids: Array, edits: Array) -> tuple[Tensor, Tensor]:
        """Source and target latents (B, C, 32, 32) of samples (B,) and edits (B,)."""
        return _latents(self._source_z[ids, edits]), _latents(self._target_z[ids, edits])

    def plain_latents(self, ids: Array) -> Tensor:
        """Latents of the unedited crops."""
        return _latents(self._plain_z[ids])

    def plain_views(self, ids: Array) -> Tensor:
        """(B, 3, 128, 128) in [-1, 1] of the unedited crops, as the W+ encoder sees them."""
        return _views(self._plain_w[ids])

    def target_views(self, ids: Array, edits: Array) -> Tensor:
        """The same of the edited ones."""
        return _views(self._target_w[ids, edits])


def _latents(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _views(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def relative_errors(
    answer: Callable[[Tensor, int], Tensor], pairs: EditPairs, ids: Array, decoder: nn.Module, sheet: Path | None
) -> dict[str, float]:
    """|answer - wanted|^2 / |wanted|^2 per edit over samples (B,) at full strength; a sheet of source, target and answer.

    answer: (source latents (B, C, 32, 32), edit) -> the difference, of the same shape.
    """
    scores, rows = {}, []
    for e, name in enumerate(EDITS):
        source, target = pairs.latents(ids, np.full(len(ids), e))
        got, wanted = answer(source, e), target - source
        scores[name] = float((got - wanted).square().sum() / wanted.square().sum())
        rows.append((source[:SHOWN], target[:SHOWN], (source + got)[:SHOWN]))
    if sheet is not None:
        write_sheet(sheet, decoder, rows)
    return scores


def fixed_noise(pairs: EditPairs) -> Tensor:
    """(1, C, 32, 32), the same in every validation."""
    return torch.randn(pairs.latent_shape, generator=torch.Generator().manual_seed(0))[None]


@torch.no_grad()
def write_sheet(path: Path, decoder: nn.Module, rows: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """A picture of source, target and answer latents, one row of faces each, edit below edit."""
    strips = [torch.cat(list(part), 2) for row in rows for part in decoder(torch.cat(row)).clamp(-1, 1).chunk(3)]
    picture = ((torch.cat(strips, 1).permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
    cv2.imwrite(str(path), picture[..., ::-1])
