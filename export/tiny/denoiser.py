"""Stage `denoiser`: the v-prediction network behind `replace` composition and the two-row difference.

It reads the codes and directions that `difference` has learned, which stay as they are. Half of the rows are an unedited face with its
own code w, half an edited one with w + s dw, half of those noised from the source: the network must believe the code, not z_t. A fifth
of the batches read a K/V bank of the same faces under other noise.
Loss: |x0 - target| in latents. Validation figure: relative error of the two-row difference, as in `difference`.
Without a checkpoint it goes on from a `final.pt` that is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder
from mien.engine.networks.denoiser import Denoiser
from mien.engine.networks.w_encoder import WEncoder
from mien.export.tiny import loop
from mien.export.tiny.difference import code_change
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

BATCH, CUDA_BATCH = 12, 48
BANK_SHARE, T_VAL = 0.2, 300
RECIPE = Recipe(1e-3, 2e-5, 1e-3, average=0.998, validate_every_s=600.0)


def x0(
    model: Denoiser, noiser: Noiser, z_t: Tensor, t: Tensor, w: Tensor, bank: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Clean latents from v (Salimans & Ho 2022): x0 = a z_t - s v; and the own keys and values."""
    v, *own = model(z_t, t, w, torch.ones_like(t), *(bank or ()))
    a, s = noiser.scales(t)
    return a * z_t - s * v.float(), own


def batch_size(device: str) -> int:
    """Faces of a training batch; a GPU's step takes hardly longer for more of them."""
    return CUDA_BATCH if torch.device(device).type == "cuda" else BATCH


@torch.no_grad()
def encode_all(w_encoder: nn.Module, pairs: EditPairs) -> Tensor:
    """(M, N, D) codes of the unedited crops."""
    ids = np.arange(len(pairs.train) + len(pairs.val))
    return torch.cat([w_encoder(pairs.plain_views(part)) for part in np.array_split(ids, len(ids) // 64 + 1)])


def training_loss(
    model: Denoiser,
    pairs: EditPairs,
    noiser: Noiser,
    codes: Tensor,
    directions: Tensor,
    rng: np.random.Generator,
    device: str,
) -> Tensor:
    """Loss of one random batch of faces, each unedited and edited. device: of all that is given."""
    batch = batch_size(device)
    ids, entries = np.sort(rng.choice(pairs.train, batch, replace=False)), rng.integers(pairs.entries, size=batch)
    source, target = pairs.latents(ids, entries)
    strengths = pairs.strengths[ids, entries]
    w = codes[put(ids, device)]
    both = torch.cat([w, w + code_change(directions, put(strengths, device))])
    from_target = put(rng.random(batch) < 0.5, device)[:, None, None, None]
    clean = torch.cat([source, torch.where(from_target, target, source)])
    t = draw_timesteps(batch, rng).to(device, non_blocking=True).repeat(2)
    bank = None
    with mixed_precision(device):
        if rng.random() < BANK_SHARE:
            with torch.no_grad():
                bank = x0(model, noiser, noiser(clean, torch.randn_like(clean), t), t, both)[1]
                if rng.random() < 0.5:  # anchor and previous frame
                    bank = [torch.cat([b, b], 1) for b in bank]
        answer, _ = x0(model, noiser, noiser(clean, torch.randn_like(source).repeat(2, 1, 1, 1), t), t, both, bank)
    answers, wanted = answer.chunk(2), target - source
    difference = ((answers[1] - answers[0] - wanted).square() / pairs.energy(strengths)).mean()
    loss: Tensor = (answer - torch.cat([source, target])).abs().mean() + difference
    return loss


@torch.no_grad()
def validate(
    model: Denoiser,
    pairs: EditPairs,
    noiser: Noiser,
    codes: Tensor,
    directions: Tensor,
    decoder: nn.Module,
    sheet: Path | None,
    limit: int = 10_000,
) -> dict[str, float]:
    """Relative error of one two-row step per edit on the val samples; a sheet of source, target and answer."""
    ids, noise = pairs.val[:limit], fixed_noise(pairs)
    t, w = torch.full((len(ids),), float(T_VAL), device=pairs.device), codes[put(ids, pairs.device)]

    def answer(source: Tensor, strengths: Tensor, _: Tensor) -> Tensor:
        z_t, edited = noiser(source, noise, t), w + code_change(directions, strengths)
        return x0(model, noiser, z_t, t, edited)[0] - x0(model, noiser, z_t, t, w)[0]

    return relative_errors(answer, pairs, ids, decoder, sheet)


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts), then write `denoiser/final.pt`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "denoiser"
    pairs, noiser = EditPairs(args.runs, args.device), Noiser(alphas_cumprod().to(args.device))
    saved = torch.load(args.runs / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"]).eval()
    decoder.load_state_dict(saved["decoder"])
    decoder.to(args.device)
    learned = torch.load(args.runs / "difference" / "final.pt", weights_only=True)
    w_encoder = WEncoder().eval()
    w_encoder.load_state_dict(learned["w_encoder"])
    directions = torch.stack([learned["directions"][name] for name in EDITS]).to(args.device)
    codes = encode_all(w_encoder.to(args.device), pairs)
    channels = pairs.latent_shape[0]
    model = Denoiser(channels).to(args.device)
    if (folder / "final.pt").exists() and not (folder / "checkpoint.pt").exists():
        model.load_state_dict(torch.load(folder / "final.pt", weights_only=True)["denoiser"])
        print("denoiser: goes on from final.pt", flush=True)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([args.seed, step])
        return training_loss(model, pairs, noiser, codes, directions, rng, args.device)

    def figures(average: Denoiser) -> str:
        scores = validate(average, pairs, noiser, codes, directions, decoder, None, 28)
        return "val(28) " + " ".join(f"{name} {score:.3f}" for name, score in scores.items())

    average = loop.train("denoiser", args, model, loss, figures, RECIPE)
    found = validate(average, pairs, noiser, codes, directions, decoder, folder / "sheet.png")
    saved = {"kwargs": {"latent_channels": channels}, "denoiser": average.cpu().state_dict()}
    loop.replace_file(folder / "final.pt", saved)
    print(f"denoiser: relative error of the two-row difference on val: {found}")
