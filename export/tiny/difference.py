"""Stage `difference`: W+ encoder, edit directions and the one-row difference network, trained together on what is deployed.

The network reads the clean source latents z, a noised answer z'_t, the code w, the edited code and the face coordinates of the latents
(of landmarks that are off as those of a clip are), and shall answer target - z. The
edited code is w + s dw with the edits' learned directions dw, which the bundle ships, and in a tenth of the steps that of the target
picture; the W+ encoder is drawn towards seeing dw there, so that directions stay directions of its space. z'_t starts from the source,
as the first step does, or in a tenth of the rows from a point on the way to the target, as later steps do: the answer hardly depends on
it. Some rows ask for nothing (answer 0), some for several edits at once.
Directions that are measured instead (mean code difference of the pairs) do not work here: an encoder learns to see sunglasses only
after the network has learned to draw them, and the other way round.
Loss: the squared error over the edit's mean square thereabouts, so that what is faint (the folds of a smile) counts as much as what is
strong, plus half the absolute error over its root, which keeps edges sharp but favours answering nothing, so it comes in slowly where
training begins anew.
Validation figure: relative error |answer - wanted|^2 / |wanted|^2 per edit at full strength, t = 300, one step, on val.
Without a checkpoint it goes on from a `final.pt` that is there; edits it does not have begin anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder
from mien.engine.networks.denoiser import DifferenceDenoiser
from mien.engine.networks.w_encoder import WEncoder
from mien.engine.types import Array
from mien.export.tiny import loop
from mien.export.tiny.edit_pairs import (
    EditPairs,
    Noiser,
    alphas_cumprod,
    draw_timesteps,
    fixed_noise,
    put,
    relative_errors,
)
from mien.export.tiny.loop import Recipe, mixed_precision
from mien.export.tiny.paint import EDITS
from mien.export.tiny.stage import Arguments

BATCH, CUDA_BATCH = 24, 96
DIRECTION_STD, T_VAL = 0.3, 300
# How much oftener than the others an edit is drawn: what is faint and narrow takes longest to learn.
OFTENER = {"age": 4.0, "smile": 2.5, "lipstick": 2.0}
NOTHING_SHARE, LATER_SHARE, SEEN_SHARE = 0.04, 0.1, 0.1
SHARPNESS, SHARP_STEPS = 0.5, 4000
RECIPE = Recipe(1e-3, 2e-5, 1e-3, average=0.998, validate_every_s=600.0)
ON_RECIPE = replace(RECIPE, peak_lr=5e-4)  # to go on with: what was learned is kept, changed pairs are learned


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
    """Loss of one random batch of mixed edits. device: of model, pairs and noiser. sharpness: weight of the absolute error."""
    batch = batch_size(device)
    ids = np.sort(rng.choice(pairs.train, batch, replace=False))
    entries = draw_entries(pairs.entries, batch, rng)
    source, target = pairs.latents(ids, entries)
    strengths = pairs.strengths[ids, entries]
    energy = pairs.energy(strengths)
    wanted, change = target - source, code_change(model.directions, put(strengths, device))
    with mixed_precision(device):
        w = model.w_encoder(pairs.plain_views(ids)).float()
    edited = w + change
    seen = w.new_zeros(())
    if rng.random() < SEEN_SHARE:
        with mixed_precision(device):
            w_target = model.w_encoder(pairs.target_views(ids, entries)).float()
        seen = (w_target - edited.detach()).square().mean()
        edited = w_target
    else:
        nothing = put(rng.random(batch) < NOTHING_SHARE, device)
        wanted = torch.where(nothing[:, None, None, None], 0.0, wanted)
        edited = torch.where(nothing[:, None, None], w, edited)
    t = draw_timesteps(batch, rng).to(device, non_blocking=True)
    way = put(np.where(rng.random(batch) < LATER_SHARE, rng.uniform(0.3, 1.0, batch), 0.0).astype(np.float32), device)
    start = source + way[:, None, None, None] * wanted
    noised = noiser(start, torch.randn_like(start), t)
    coordinates = pairs.coordinates(ids, entries, rng)
    with mixed_precision(device):
        answer = model.difference(noised, source, t, w, edited, coordinates).float()
    error = answer - wanted
    loss: Tensor = (error.square() / energy).mean() + sharpness * (error.abs() / energy.sqrt()).mean() + 0.2 * seen
    return loss


def sharpness_at(step: int, goes_on: bool) -> float:
    """Weight of the absolute error: it grows over the first steps, unless they go on with a network that answers something."""
    return SHARPNESS if goes_on else SHARPNESS * min(1.0, step / SHARP_STEPS)


def draw_entries(count: int, size: int, rng: np.random.Generator) -> Array:
    """Indices (size,) of the first `count` entries of the pairs."""
    shares = np.array([OFTENER.get(name, 1.0) for name in EDITS] + [1.0] * max(0, count - len(EDITS)))[:count]
    return rng.choice(count, size, p=shares / shares.sum())


def batch_size(device: str) -> int:
    """Rows of a training batch; a GPU's step takes hardly longer for more of them."""
    return CUDA_BATCH if torch.device(device).type == "cuda" else BATCH


def code_change(directions: Tensor, strengths: Tensor) -> Tensor:
    """(B, N, D): directions (E, N, D) summed by strengths (B, E)."""
    return torch.einsum("be,end->bnd", strengths, directions)


def go_on_from(model: EditModel, path: Path) -> None:
    """Give a model the weights of a `final.pt`, and its directions by name."""
    saved = torch.load(path, weights_only=True)
    model.difference.load_state_dict(saved["difference"])
    model.w_encoder.load_state_dict(saved["w_encoder"])
    with torch.no_grad():
        for e, name in enumerate(EDITS):
            if name in saved["directions"]:
                model.directions[e].copy_(saved["directions"][name])


@torch.no_grad()
def validate(
    model: EditModel, pairs: EditPairs, noiser: Noiser, decoder: nn.Module, sheet: Path | None, limit: int = 10_000
) -> dict[str, float]:
    """Relative error of one step per edit on the val samples; a sheet of source, target and answer."""
    ids, noise = pairs.val[:limit], fixed_noise(pairs)
    w = model.w_encoder(pairs.plain_views(ids))
    t = torch.full((len(ids),), float(T_VAL), device=pairs.device)

    def answer(source: Tensor, strengths: Tensor, coordinates: Tensor) -> Tensor:
        edited = w + code_change(model.directions, strengths)
        out: Tensor = model.difference(noiser(source, noise, t), source, t, w, edited, coordinates)
        return out

    return relative_errors(answer, pairs, ids, decoder, sheet)


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts), then write `difference/final.pt`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "difference"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, noiser = EditPairs(args.runs, args.device), Noiser(alphas_cumprod().to(args.device))
    saved = torch.load(args.runs / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"]).eval()
    decoder.load_state_dict(saved["decoder"])
    decoder.to(args.device)
    model = EditModel(pairs.latent_shape[0]).to(args.device)
    recipe = ON_RECIPE if (folder / "final.pt").exists() else RECIPE
    if recipe is ON_RECIPE and not (folder / "checkpoint.pt").exists():
        go_on_from(model, folder / "final.pt")
        print("difference: goes on from final.pt", flush=True)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([args.seed, step])
        return training_loss(model, pairs, noiser, rng, args.device, sharpness_at(step, recipe is ON_RECIPE))

    def figures(average: EditModel) -> str:
        scores = validate(average, pairs, noiser, decoder, None, 28)
        return "val(28) " + " ".join(f"{name} {score:.3f}" for name, score in scores.items())

    average = loop.train("difference", args, model, loss, figures, recipe)
    scores = validate(average, pairs, noiser, decoder, folder / "sheet.png")
    average.cpu()
    final = {
        "kwargs": {"latent_channels": pairs.latent_shape[0]},
        "difference": average.difference.state_dict(),
        "w_encoder": average.w_encoder.state_dict(),
        "directions": {name: average.directions.detach()[e].clone() for e, name in enumerate(EDITS)},
    }
    loop.replace_file(folder / "final.pt", final)
    print(f"difference: relative error on val: {scores}")
