"""The cached pairs of `pairs`, as the stages that learn the edits draw from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.face.coordinates import MEAN_FACE, face_coordinates
from mien.engine.types import Array
from mien.export.tiny.dataset import planes
from mien.export.tiny.paint import EDITS
from mien.export.tiny.prepare import CROP_PX

T_MIN, T_MAX = 80, 640
T_USUAL = (150, 420)
SHOWN = 12
EVEN_SHARE = 0.15
MEASURED, LEAST = 300, 0.5  # the train pairs of an edit whose energy is measured, and their least strength
# How far off landmarks are in training, in pixels of a 256 px crop as wide as the mean face's, like those of the landmark network on
# faces it has not seen: neighbours err together (DISTANCE, in sides of the crop), those of the jaw most; each by itself; and all
# alike, along x and y.
NEAR_PX, JAW_PX, DISTANCE, ALONE_PX, SHIFT_PX = 1.3, 2.0, 0.12, 0.3, (0.9, 1.5)
VALIDATED = (*EDITS, "combined")  # the entries that are validated, the last of them several edits at once


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


def put(array: Array, device: torch.device | str) -> Tensor:
    """A host array on a device; the host does not wait for what the device still computes."""
    return torch.from_numpy(array).to(device, non_blocking=True)


class EditPairs:
    """Shapes in pairs.py. All tensors it answers are on `device`; ids and entries are host arrays (B,).

    entries: N, the first of one edit each. strengths: (M, N, E) float32, on the host. The rest stays memory-mapped, unless
    the device has memory of its own with ample room for all of it. Raises ValueError where an edit has no pair to learn from.
    """

    def __init__(self, runs: Path, device: str = "cpu") -> None:
        mapped = {name: _mapped(runs, name) for name in ("plain_w", "target_w", "source_z", "target_z")}
        self.strengths = np.load(runs / "pairs" / "strengths.npy")
        self._points = np.load(runs / "pairs" / "points.npy")
        self.entries: int = self.strengths.shape[1]
        is_val = np.load(runs / "pairs" / "is_val.npy")
        self.train, self.val = np.flatnonzero(~is_val), np.flatnonzero(is_val)
        self.latent_shape: tuple[int, ...] = mapped["source_z"].shape[2:]
        local = np.stack([self._measured(mapped["source_z"], mapped["target_z"], e) for e in range(len(EDITS))])
        self._energy: Array = EVEN_SHARE * local.mean((1, 2), keepdims=True) + (1 - EVEN_SHARE) * local
        self.device = torch.device(device)
        home = self.device if _has_room(self.device, sum(a.nbytes for a in mapped.values())) else "cpu"
        self._held = {name: torch.from_numpy(array).to(home) for name, array in mapped.items()}

    def _measured(self, source_z: Array, target_z: Array, entry: int) -> Array:
        strength = self.strengths[self.train, entry, entry]
        strong = self.train[np.abs(strength) >= LEAST]
        if not len(strong):
            raise ValueError(
                f"no train pair of {EDITS[entry]!r} has a strength of {LEAST} or more: make the pairs again"
            )
        ids = strong[:: -(-len(strong) // MEASURED)]
        wanted = target_z[ids, entry].astype(np.float32) - source_z[ids, entry]
        return np.asarray((np.square(wanted).mean(1) / self.strengths[ids, entry, entry, None, None] ** 2).mean(0))

    def _rows(self, name: str, *indices: Array) -> Tensor:
        held = self._held[name]
        return held[tuple(put(i, held.device) for i in indices)].to(self.device, non_blocking=True)

    def energy(self, strengths: Array) -> Tensor:
        """(B, 1, 32, 32): mean square of the wanted difference of the edits in (B, E) strengths, each scaled to strength 1, on train.

        EVEN_SHARE of it is that of the whole crop, the rest that of each place, so that what is faint there (an older skin)
        counts beside what is strong elsewhere (greyed hair).
        """
        present = (strengths != 0).astype(np.float32)
        return put(np.einsum("be,ehw->bhw", present, self._energy)[:, None], self.device)

    def latents(self, ids: Array, entries: Array) -> tuple[Tensor, Tensor]:
        """Source and target latents (B, C, 32, 32) of samples and entries."""
        return self._rows("source_z", ids, entries).float(), self._rows("target_z", ids, entries).float()

    def coordinates(self, ids: Array, entries: Array, rng: np.random.Generator | None = None) -> Tensor:
        """Face coordinates (B, 2, 32, 32) of the sources; rng: landmarks are off as those found in a clip are."""
        points = self._points[ids, entries].astype(np.float64)
        if rng is not None:
            off = [landmark_error(rng) * _size(one) / (CROP_PX * _size(MEAN_FACE)) for one in points]
            points = points + np.stack(off)
        maps = [face_coordinates(one, CROP_PX, self.latent_shape[-1]) for one in points]
        return put(np.stack(maps), self.device)

    def plain_views(self, ids: Array) -> Tensor:
        """(B, 3, 128, 128) in [-1, 1] of the unedited crops, as the W+ encoder sees them."""
        return planes(self._rows("plain_w", ids))

    def target_views(self, ids: Array, entries: Array) -> Tensor:
        """The same of the edited ones."""
        return planes(self._rows("target_w", ids, entries))


def _root(places: Array) -> Array:
    apart = np.square(places[:, None] - places).sum(-1)
    return np.linalg.cholesky(np.exp(-apart / (2 * DISTANCE**2)) + 1e-6 * np.eye(len(places)))


_NEAR = np.where(np.arange(68) < 17, JAW_PX, NEAR_PX)[:, None] * _root(MEAN_FACE)


def landmark_error(rng: np.random.Generator) -> Array:
    """(68, 2): how far landmarks that are found in a clip may be off, in pixels of a 256 px crop."""
    near, alone = rng.normal(0, 1, (2, 68, 2))
    return np.asarray(_NEAR @ near + ALONE_PX * alone + rng.normal(0, SHIFT_PX))


def _size(points: Array) -> float:
    return float((points - points.mean(0)).std())


def _mapped(runs: Path, name: str) -> Array:
    """An array of `pairs`, copied on write, because torch takes no read-only ones."""
    return np.asarray(np.load(runs / "pairs" / f"{name}.npy", mmap_mode="c"))


def _has_room(device: torch.device, size_bytes: int) -> bool:
    return device.type == "cuda" and size_bytes < torch.cuda.mem_get_info(device)[0] / 2


@torch.no_grad()
def relative_errors(
    answer: Callable[[Tensor, Tensor, Tensor], Tensor],
    pairs: EditPairs,
    ids: Array,
    decoder: nn.Module,
    sheet: Path | None,
) -> dict[str, float]:
    """|answer - wanted|^2 / |wanted|^2 of VALIDATED over val samples (B,); a sheet of source, target and answer.

    answer: (source latents (B, C, 32, 32), strengths (B, E), face coordinates (B, 2, 32, 32)) -> the difference, of the same
    shape as the source.
    """
    scores, rows = {}, []
    for entry, name in enumerate(VALIDATED):
        entries = np.full(len(ids), entry)
        source, target = pairs.latents(ids, entries)
        strengths = put(pairs.strengths[ids, entry], pairs.device)
        got, wanted = answer(source, strengths, pairs.coordinates(ids, entries)), target - source
        scores[name] = float((got - wanted).square().sum() / wanted.square().sum())
        rows.append((source[:SHOWN], target[:SHOWN], (source + got)[:SHOWN]))
    if sheet is not None:
        write_sheet(sheet, decoder, rows)
    return scores


def fixed_noise(pairs: EditPairs) -> Tensor:
    """(1, C, 32, 32), the same in every validation."""
    return torch.randn(pairs.latent_shape, generator=torch.Generator().manual_seed(0))[None].to(pairs.device)


@torch.no_grad()
def write_sheet(path: Path, decoder: nn.Module, rows: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    """A picture of source, target and answer latents, one row of faces each, edit below edit."""
    strips = [torch.cat(list(part), 2) for row in rows for part in decoder(torch.cat(row)).clamp(-1, 1).chunk(3)]
    picture = ((torch.cat(strips, 1).permute(1, 2, 0).cpu().numpy() + 1) * 127.5).astype(np.uint8)
    cv2.imwrite(str(path), picture[..., ::-1])
