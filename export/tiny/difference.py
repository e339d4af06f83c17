"""Stage `difference`: W+ encoder, edit directions and the one-row difference network, trained together on what is deployed.

The network reads the clean source latents z, a noised answer z'_t, the code w and the edited code, and shall answer target - z. The
edited code is w + s dw with the edit's learned direction dw, which the bundle ships, and in a quarter of the steps that of the target
picture; the W+ encoder is drawn towards seeing dw there, so that directions stay directions of its space. z'_t starts from the source,
as the first step does, or from a point on the way to the target, as later steps do. Some rows ask for nothing (answer 0), some for two
edits at once (the sum, where neither warps).
Directions that are measured instead (mean code difference of the pairs) do not work here: an encoder learns to see sunglasses only
after the network has learned to draw them, and the other way round.
Loss: the squared error over the edit's mean square, so that a faint edit (the folds of a smile) counts as much as a strong one, plus
half the absolute error over its root, which keeps edges sharp but favours answering nothing, so it comes in slowly.
Validation figure: relative error |answer - wanted|^2 / |wanted|^2 per edit at full strength, t = 300, one step, on val.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder
from mien.engine.networks.denoiser import DifferenceDenoiser
from mien.engine.networks.w_encoder import WEncoder
from mien.engine.types import Array
from mien.export.tiny import loop
from mien.export.tiny.edit_pairs import EditPairs, Noiser, alphas_cumprod, draw_timesteps, fixed_noise, relative_errors
from mien.export.tiny.loop import Recipe, mixed_precision
from mien.export.tiny.pairs import EDITS
from mien.export.tiny.stage import Arguments

BATCH, DIRECTION_STD, T_VAL = 24, 0.3, 300
NOTHING_SHARE, BOTH_SHARE, LATER_SHARE, SEEN_SHARE = 0.04, 0.15, 0.35, 0.25
SHARPNESS, SHARP_STEPS = 0.5, 4000
RECIPE = Recipe(1e-3, 2e-5, 1e-3, average=0.998)


class EditModel(nn.Module):
    """W+ encoder, difference network, and the direction of every edit (E, N, D)."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.w_encoder = WEncoder()
        self.difference = DifferenceDenoiser(latent_channels)
        self.directions = nn.Parameter(DIRECTION_STD * torch.randn(len(EDITS), 12, 64))


def training_loss(
    model: EditModel, pairs: EditPairs, noiser: Noiser, rng: np.random.Generator, device: str, sharpness: float = 0.5
) -> Tensor:
    """Loss of one random batch of mixed edits. sharpness: weight of the absolute error."""
    ids = np.sort(rng.choice(pairs.train, BATCH, replace=False))
    edits = rng.integers(len(EDITS), size=BATCH)
    source, target = (z.to(device) for z in pairs.latents(ids, edits))
    strength = torch.from_numpy(pairs.strength[ids, edits]).to(device)[:, None, None]
    energy = pairs.energy[edits].to(device)[:, None, None, None]
    wanted, change = target - source, strength * model.directions[edits]
    with mixed_precision(device):
        w = model.w_encoder(pairs.plain_views(ids).to(device)).float()
    edited = w + change
    seen = w.new_zeros(())
    if rng.random() < SEEN_SHARE:
        with mixed_precision(device):
            w_target = model.w_encoder(pairs.target_views(ids, edits).to(device)).float()
        seen = (w_target - edited.detach()).square().mean()
        edited = w_target
    else:
        kind = rng.random(BATCH)
        nothing = torch.from_numpy(kind < NOTHING_SHARE).to(device)
        wanted = torch.where(nothing[:, None, None, None], 0.0, wanted)
        edited = torch.where(nothing[:, None, None], w, edited)
        wanted, edited = _with_second(model, pairs, rng, (ids, edits, kind > 1 - BOTH_SHARE), wanted, edited)
    t = draw_timesteps(BATCH, rng).to(device)
    way = torch.from_numpy(np.where(rng.random(BATCH) < LATER_SHARE, rng.uniform(0.3, 1.0, BATCH), 0.0)).float()
    start = source + way.to(device)[:, None, None, None] * wanted
    noised = noiser(start, torch.randn_like(start), t)
    with mixed_precision(device):
        answer = model.difference(noised, source, t, w, edited).float()
    error = answer - wanted
    loss: Tensor = (error.square() / energy).mean() + sharpness * (error.abs() / energy.sqrt()).mean() + 0.2 * seen
    return loss


def _with_second(
    model: EditModel,
    pairs: EditPairs,
    rng: np.random.Generator,
    rows: tuple[Array, Array, Array],
    wanted: Tensor,
    edited: Tensor,
) -> tuple[Tensor, Tensor]:
    """A second edit on top, in the rows marked so: differences and directions add up, where neither edit warps.

    rows: samples, edits and marks, each (B,). wanted: (B, C, 32, 32). edited: (B, N, D) codes. Returns both, added to.
    """
    ids, edits, marked = rows
    others = rng.integers(len(EDITS), size=len(ids))
    still = ~pairs.warps
    both = torch.from_numpy(marked & still[edits] & still[others] & (edits != others)).to(wanted.device)
    source, target = (z.to(wanted.device) for z in pairs.latents(ids, others))
    strength = torch.from_numpy(pairs.strength[ids, others]).to(wanted.device)[:, None, None]
    wanted = wanted + both[:, None, None, None] * (target - source)
    return wanted, edited + both[:, None, None] * strength * model.directions[others]


@torch.no_grad()
def validate(
    model: EditModel, pairs: EditPairs, noiser: Noiser, decoder: nn.Module, sheet: Path | None, limit: int = 10_000
) -> dict[str, float]:
    """Relative error of one step per edit on the val samples; a sheet of source, target and answer."""
    ids, noise = pairs.val[:limit], fixed_noise(pairs)
    w = model.w_encoder(pairs.plain_views(ids))
    t = torch.full((len(ids),), float(T_VAL))

    def answer(source: Tensor, edit: int) -> Tensor:
        out: Tensor = model.difference(noiser(source, noise, t), source, t, w, w + model.directions[edit])
        return out

    return relative_errors(answer, pairs, ids, decoder, sheet)


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts), then write `difference/final.pt`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "difference"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, noiser = EditPairs(args.runs), Noiser(alphas_cumprod())
    saved = torch.load(args.runs / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"]).eval()
    decoder.load_state_dict(saved["decoder"])
    model = EditModel(pairs.latent_shape[0]).to(args.device)
    there = Noiser(noiser.abar.to(args.device))

    def loss(step: int) -> Tensor:
        sharpness = SHARPNESS * min(1.0, step / SHARP_STEPS)
        return training_loss(model, pairs, there, np.random.default_rng([args.seed, step]), args.device, sharpness)

    def figures(average: EditModel) -> str:
        shown = EditModel(pairs.latent_shape[0])
        shown.load_state_dict(average.state_dict())
        scores = validate(shown.eval(), pairs, noiser, decoder, folder / "sheet.png", 28)
        return "val(28) " + " ".join(f"{name} {score:.3f}" for name, score in scores.items())

    average = loop.train("difference", args, model, loss, figures, RECIPE).cpu()
    scores = validate(average, pairs, noiser, decoder, folder / "sheet.png")
    torch.save(
        {
            "kwargs": {"latent_channels": pairs.latent_shape[0]},
            "difference": average.difference.state_dict(),
            "w_encoder": average.w_encoder.state_dict(),
            "directions": {name: average.directions.detach()[e].clone() for e, name in enumerate(EDITS)},
        },
        folder / "final.pt",
    )
    print(f"difference: relative error on val: {scores}")
