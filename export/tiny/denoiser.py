"""Stage `denoiser`: W+ encoder and denoiser, trained together on the operation that is deployed.

Two rows share a noised source z_t and the noise: with the code w of the unedited face the answer shall be the source, with the edited code
the target, so that z + x0(z_t, w + dw) - x0(z_t, w) is the target. The edited code is a quarter of the time that of the target picture,
otherwise w + s dw with the edit's direction dw, which is learned too and is what the bundle ships; the W+ encoder is drawn towards seeing
dw in the target picture, so that directions stay directions of its space. A third of the edited rows start from the noised
target, as the second of two steps does; a fifth of the batches read a K/V bank of the same face under another augmentation.

Directions that are measured instead (mean code difference of the pairs) do not work here: an encoder learns to see sunglasses only after
the denoiser has learned to draw them, and the other way round.
Loss: the squared error of the difference relative to the wanted one, so that a faint edit (the folds of a smile) counts as much as a
strong one, plus half the mean of |x0 - target| over both rows. An absolute error of the difference lets faint edits die: their median is 0.
Validation figure: relative error of the difference, |dz - dz_true|^2 / |dz_true|^2 per edit at full strength, t = 450, one step, on val.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder
from mien.engine.networks.denoiser import Denoiser
from mien.engine.networks.w_encoder import WEncoder
from mien.engine.types import Array
from mien.export.tiny.checkpoint import Budget, load_checkpoint, save_checkpoint
from mien.export.tiny.pairs import EDITS
from mien.export.tiny.stage import Arguments

BATCH, PEAK_LR, FINAL_LR, EMA = 10, 8e-4, 2e-5, 0.998
T_MIN, T_MAX, T_VAL = 80, 640, 450
DIRECTION_STD = 0.3


def alphas_cumprod() -> Tensor:
    """(1000,) of the scaled-linear schedule of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class EditModel(nn.Module):
    """W+ encoder, denoiser, and the direction of every edit (E, N, D)."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.w_encoder = WEncoder()
        self.denoiser = Denoiser(latent_channels)
        self.directions = nn.Parameter(DIRECTION_STD * torch.randn(len(EDITS), 12, 64))

    def x0(
        self, z_t: Tensor, t: Tensor, abar: Tensor, w: Tensor, bank: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Clean latents from v (Salimans & Ho 2022): x0 = a z_t - s v; and the own keys and values."""
        if bank is None:
            bank = [z_t.new_zeros(len(z_t), 0, c) for c in self.denoiser.bank_channels for _ in range(2)]
        v, *own = self.denoiser(z_t, t, w, torch.ones_like(t), *bank)
        a = abar[t.long()].sqrt()[:, None, None, None]
        s = (1 - abar[t.long()]).sqrt()[:, None, None, None]
        return a * z_t - s * v, own


class Pairs:
    """The cached pairs, in memory."""

    def __init__(self, runs: Path) -> None:
        folder = runs / "pairs"
        for name in ("plain_z", "plain_w", "source_z", "target_z", "target_w", "strength", "tile", "is_val"):
            setattr(self, name, np.load(folder / f"{name}.npy", mmap_mode="r"))
        self.train = np.flatnonzero(~np.asarray(self.is_val))
        self.val = np.flatnonzero(np.asarray(self.is_val))
        self._by_tile: dict[int, list[int]] = {}
        for n in self.train:
            self._by_tile.setdefault(int(self.tile[n]), []).append(int(n))

    plain_z: Array
    plain_w: Array
    source_z: Array
    target_z: Array
    target_w: Array
    strength: Array
    tile: Array
    is_val: Array

    def sibling(self, n: int, rng: np.random.Generator) -> int:
        """Another augmentation of the same tile."""
        others = [m for m in self._by_tile[int(self.tile[n])] if m != n]
        return int(rng.choice(others)) if others else n


def _z(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _view(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _noised(z: Tensor, noise: Tensor, t: Tensor, abar: Tensor) -> Tensor:
    a = abar[t.long()].sqrt()[:, None, None, None]
    return a * z + (1 - abar[t.long()]).sqrt()[:, None, None, None] * noise


def training_loss(model: EditModel, pairs: Pairs, abar: Tensor, rng: np.random.Generator) -> Tensor:
    """Loss of one random batch of one edit."""
    edit = int(rng.integers(len(EDITS)))
    ids = rng.choice(pairs.train, BATCH, replace=False)
    ids.sort()
    source, target = _z(pairs.source_z[ids, edit]), _z(pairs.target_z[ids, edit])
    strength = torch.from_numpy(np.array(pairs.strength[ids, edit]))[:, None, None]
    w = model.w_encoder(torch.cat([_view(pairs.plain_w[ids]), _view(pairs.target_w[ids, edit])]))
    w_source, w_target = w.chunk(2)
    directed = w_source + strength * model.directions[edit]
    seen = (w_target - directed.detach()).square().mean()
    if rng.random() < 0.75:
        w_target = directed
    wide = rng.random(BATCH) < 0.5
    t = torch.from_numpy(
        np.where(wide, rng.uniform(T_MIN, T_MAX, BATCH), rng.uniform(225, 480, BATCH)).astype(np.float32)
    ).round()
    noise = torch.randn_like(source)
    from_target = torch.from_numpy(rng.random(BATCH) < 0.33)[:, None, None, None]
    z_source = _noised(source, noise, t, abar)
    z_target = torch.where(from_target, _noised(target, noise, t, abar), z_source)
    rows, times, codes = torch.cat([z_source, z_target]), torch.cat([t, t]), torch.cat([w_source, w_target])
    bank = None
    if rng.random() < 0.2:
        others = [pairs.sibling(int(n), rng) for n in ids]
        anchor = torch.cat(
            [
                _noised(_z(pairs.source_z[others, edit]), noise, t, abar),
                _noised(_z(pairs.target_z[others, edit]), noise, t, abar),
            ]
        )
        with torch.no_grad():
            _, bank = model.x0(anchor, times, abar, codes)
            if rng.random() < 0.5:  # anchor and previous frame
                bank = [torch.cat([b, b], 1) for b in bank]
    x0, _ = model.x0(rows, times, abar, codes, bank)
    x0_source, x0_target = x0.chunk(2)
    wanted = target - source
    error = ((x0_target - x0_source) - wanted).square().mean() / wanted.square().mean().clamp_min(1e-4)
    plain = (x0_source - source).abs().mean() + (x0_target - target).abs().mean()
    loss: Tensor = 0.5 * plain + error + 0.2 * seen
    return loss


@torch.no_grad()
def validate(
    model: EditModel, pairs: Pairs, abar: Tensor, decoder: nn.Module | None, sheet: Path | None, limit: int = 10_000
) -> dict[str, float]:
    """Relative error of the shipped operation per edit on the val samples; a sheet of source, target and result."""
    ids = pairs.val[:limit]
    w = model.w_encoder(_view(pairs.plain_w[ids]))
    noise = torch.randn(pairs.plain_z.shape[1:], generator=torch.Generator().manual_seed(0))[None]
    t = torch.full((len(ids),), float(T_VAL))
    scores, rows = {}, []
    for e, name in enumerate(EDITS):
        source, target = _z(pairs.source_z[ids, e]), _z(pairs.target_z[ids, e])
        z_t = _noised(source, noise, t, abar)
        difference = model.x0(z_t, t, abar, w + model.directions[e])[0] - model.x0(z_t, t, abar, w)[0]
        scores[name] = float((difference - (target - source)).square().sum() / (target - source).square().sum())
        if decoder is not None:
            shown = torch.cat([source[:14], target[:14], (source + difference)[:14]])
            rows += [torch.cat(list(part), 2) for part in decoder(shown).clamp(-1, 1).chunk(3)]
    if sheet is not None and rows:
        picture = ((torch.cat(rows, 1).permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        cv2.imwrite(str(sheet), cv2.resize(picture[..., ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return scores


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all, then write `denoiser/final.pt` with the averaged weights and the directions."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "denoiser"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, abar = Pairs(args.runs), alphas_cumprod()
    saved = torch.load(args.runs / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"])
    decoder.load_state_dict(saved["decoder"])
    channels = int(pairs.plain_z.shape[1])
    both = nn.ModuleDict({"live": EditModel(channels), "average": EditModel(channels)})
    model, average = both["live"], both["average"]
    assert isinstance(model, EditModel) and isinstance(average, EditModel)
    average.load_state_dict(copy.deepcopy(model.state_dict()))
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    state: dict[str, Any] = load_checkpoint(folder, both, optimizer)
    rng = np.random.default_rng([args.seed, state["step"]])
    budget, shown = Budget(args.minutes, state["seconds"]), time.monotonic()
    mean_loss = 0.0
    while not budget.is_over():
        for group in optimizer.param_groups:
            group["lr"] = budget.cosine(PEAK_LR, FINAL_LR)
        loss = training_loss(model, pairs, abar, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        state["step"] += 1
        decay = min(EMA, state["step"] / (state["step"] + 10))
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                slow.lerp_(fast, 1 - decay)
        mean_loss += 0.02 * (loss.item() - mean_loss)
        state["seconds"] = budget.spent_s()
        if time.monotonic() - shown > 120:
            save_checkpoint(folder, both, optimizer, state)
            scores = validate(average, pairs, abar, decoder, folder / "sheet.png", 28)
            figures = " ".join(f"{k} {v:.3f}" for k, v in scores.items())
            print(
                f"denoiser: step {state['step']} {state['seconds'] / 60:.1f} min loss {mean_loss:.4f} val(28) {figures}",
                flush=True,
            )
            shown = time.monotonic()
    save_checkpoint(folder, both, optimizer, state)
    scores = validate(average, pairs, abar, decoder, folder / "sheet.png")
    torch.save(
        {
            "denoiser": average.denoiser.state_dict(),
            "w_encoder": average.w_encoder.state_dict(),
            "kwargs": {"latent_channels": channels},
            "directions": {name: average.directions.detach()[e].clone() for e, name in enumerate(EDITS)},
            "scores": scores,
        },
        folder / "final.pt",
    )
    print(f"denoiser: {state['step']} steps, relative error of the difference on val: {scores}")
