"""Stage `difference_decoder`: what the difference network answers, drawn on the picture's own pixels.

It learns from what that network answers, not from the target's latents (see edit_pictures.py), so that it sets right what the network
tends to get wrong. Windows are drawn where an edit shows. Loss: the squared error and the autoencoder's loss, of the difference over
the root of the edit's mean absolute difference, so that faint edits count beside strong ones. Absolute errors favour answering
nothing, so they come in slowly.
Validation figure: relative error |answer - wanted|^2 / |wanted|^2 of pixels, per edit at full strength on val; in brackets that of
the decoder on source and edited latents.
"""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder, DifferenceDecoder
from mien.export.tiny import loop
from mien.export.tiny.autoencoder import reconstruction_loss
from mien.export.tiny.edit_pictures import EditPictures, make
from mien.export.tiny.loop import Recipe, mixed_precision
from mien.export.tiny.paint import EDITS
from mien.export.tiny.stage import Arguments

SQUARED, SHARP_STEPS = 3.0, 2000
SHOWN = 8
RECIPE = Recipe(6e-4, 1e-5)


def training_loss(
    model: nn.Module, pictures: EditPictures, rng: np.random.Generator, device: str, sharpness: float
) -> Tensor:
    """Loss () of one random batch. device: of the model. sharpness: weight of the absolute errors, 0..1."""
    batch, weights = pictures.windows(rng)
    z, edited, source, target = (part.to(device) for part in batch)
    with mixed_precision(device):
        got = model(z, edited, source)
    weights = (weights * pictures.scale.mean()).sqrt().to(device)[:, None, None, None]
    got, wanted = got.float() * weights, (target - source) * weights
    loss: Tensor = sharpness * reconstruction_loss(got, wanted) + SQUARED * (got - wanted).square().mean()
    return loss


@torch.inference_mode()
def validate(
    model: nn.Module, decoder: nn.Module, pictures: EditPictures, sheet: Path | None, limit: int = 10_000
) -> dict[str, tuple[float, float]]:
    """Relative errors per edit, of the model and of the decoder, on the first `limit` val samples; all networks on the CPU.

    sheet: where to write a picture of source, target, the decoder's answer and the model's, edit below edit.
    """
    scores: dict[str, tuple[float, float]] = {}
    strips: list[Tensor] = []
    for entry, name in enumerate((*EDITS, "combined")):
        sums, shown = np.zeros(3), list[Tensor]()
        for sample in pictures.val[:limit]:
            z, edited, source, target = pictures.whole(sample, entry)
            wanted, got = target - source, model(z, edited, source)
            decoded = decoder(torch.cat([edited, z]))
            two = decoded[:1] - decoded[1:]
            sums += [float(part.square().sum()) for part in (wanted, got - wanted, two - wanted)]
            if sheet is not None and len(shown) < SHOWN:
                shown.append(torch.cat([source, target, source + two, source + got], 2))
        scores[name] = float(sums[1] / sums[0]), float(sums[2] / sums[0])
        if shown:
            strips.append(torch.cat(shown, 3)[0])
    if sheet is not None:
        picture = ((torch.cat(strips, 1).clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        cv2.imwrite(str(sheet), picture[..., ::-1])
    return scores


def run(args: Arguments) -> None:
    """Make the pictures unless they are there and new, train for `args.minutes` in all, then write `difference_decoder/final.pt`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "difference_decoder"
    make(args)
    pictures = EditPictures(args.runs)
    saved = torch.load(args.runs / "autoencoder" / "final.pt", weights_only=True)
    decoder = Decoder(**saved["kwargs"]).eval()
    decoder.load_state_dict(saved["decoder"])
    channels = int(saved["kwargs"]["latent_channels"])
    model = DifferenceDecoder(channels).to(args.device)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([args.seed, step])
        return training_loss(model, pictures, rng, args.device, min(1.0, step / SHARP_STEPS))

    def figures(average: nn.Module) -> str:
        return _told(validate(copy.deepcopy(average).cpu(), decoder, pictures, None, 12))

    average = loop.train("difference_decoder", args, model, loss, figures, RECIPE).cpu()
    scores = validate(average, decoder, pictures, folder / "sheet.png")
    loop.replace_file(folder / "final.pt", {"kwargs": {"latent_channels": channels}, "state": average.state_dict()})
    print(f"difference_decoder: relative error on val: {_told(scores)}")


def _told(scores: dict[str, tuple[float, float]]) -> str:
    return " ".join(f"{name} {one:.3f} ({two:.3f})" for name, (one, two) in scores.items())
