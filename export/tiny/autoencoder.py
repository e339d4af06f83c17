"""Stage `autoencoder`: the encoder and decoder of the bundle, trained from scratch on the train tiles.

Loss: L1 at full, half and quarter resolution plus L1 of the image gradients. The latents are standardised by batch statistics
(folded into the last convolution afterwards) and disturbed by noise, which keeps them smooth and of unit variance.
Augmentation: random 128 px windows, flips, per-channel gain, gamma. Validation figure: PSNR of the whole val crops.
"""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.engine.networks.autoencoder import Decoder, Encoder
from mien.engine.types import Array
from mien.export.tiny import loop
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.loop import Recipe, mixed_precision
from mien.export.tiny.stage import Arguments

LATENT_CHANNELS, WINDOW_PX, BATCH, LATENT_NOISE = 16, 128, 16, 0.07
ZOOM = (0.75, 1.6)
RECIPE = Recipe(1e-3, 2e-5)


class Autoencoder(nn.Module):
    """Encoder, standardised latents, decoder."""

    def __init__(self, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(channels), Decoder(channels)
        self.standardise = nn.BatchNorm2d(channels, affine=False, momentum=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct (B, 3, S, S), with noise on the latents while training."""
        latents = self.standardise(self.encoder(image))
        if self.training:
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
        out: Tensor = self.decoder(latents)
        return out

    def folded_encoder(self) -> Encoder:
        """The encoder with the standardisation folded into its last convolution."""
        encoder = Encoder(self.standardise.num_features)
        encoder.load_state_dict(self.encoder.state_dict())
        mean, var = self.standardise.running_mean, self.standardise.running_var
        assert mean is not None and var is not None
        gain = torch.rsqrt(var + self.standardise.eps)
        encoder.out.weight.data = self.encoder.out.weight.data * gain[:, None, None, None]
        bias = self.encoder.out.bias
        assert bias is not None
        encoder.out.bias = nn.Parameter((bias.data - mean) * gain)
        return encoder.eval()


def reconstruction_loss(out: Tensor, target: Tensor) -> Tensor:
    """L1 at three scales plus L1 of the gradients; both (B, 3, H, W) in [-1, 1]."""
    loss = F.l1_loss(out, target)
    for axis in (2, 3):
        loss = loss + 0.5 * F.l1_loss(out.diff(dim=axis), target.diff(dim=axis))
    for _ in range(2):
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
        loss = loss + 0.3 * F.l1_loss(out, target)
    return loss


def random_windows(crops: Array, ids: Array, rng: np.random.Generator) -> Tensor:
    """A training batch (BATCH, 3, WINDOW_PX, WINDOW_PX) in [-1, 1] of random windows of random tiles, scaled, flipped and relit."""
    out = np.empty((BATCH, WINDOW_PX, WINDOW_PX, 3), np.uint8)
    for k, i in enumerate(rng.choice(ids, BATCH)):
        side = round(WINDOW_PX * rng.uniform(*ZOOM))
        y, x = rng.integers(0, crops.shape[1] - side + 1, 2)
        window = np.ascontiguousarray(crops[i, y : y + side, x : x + side])
        window = cv2.resize(
            window, (WINDOW_PX, WINDOW_PX), interpolation=cv2.INTER_AREA if side > WINDOW_PX else cv2.INTER_CUBIC
        )
        out[k] = window[:, ::-1] if rng.random() < 0.5 else window
    image = torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255
    gamma = torch.from_numpy(rng.uniform(0.75, 1.35, (BATCH, 1, 1, 1)).astype(np.float32))
    gain = torch.from_numpy(rng.uniform(0.85, 1.12, (BATCH, 3, 1, 1)).astype(np.float32))
    return ((image.clamp_min(1e-4) ** gamma) * gain).clamp(0, 1) * 2 - 1


@torch.no_grad()
def validate(
    encoder: nn.Module, decoder: nn.Module, prepared: Prepared, sheet: Path | None, limit: int = 10_000
) -> float:
    """Mean PSNR in dB over the val crops (256 px, values clipped to [0, 255]); writes a contact sheet of 12."""
    scores: list[float] = []
    rows: list[Array] = []
    for i in prepared.val_ids[:limit]:
        crop = prepared.crops[i, 32:-32, 32:-32]
        image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        out = decoder(encoder(image)).clamp(-1, 1)
        scores.append(float(10 * torch.log10(4 / F.mse_loss(out, image))))
        if len(rows) < 12:
            back = ((out[0].permute(1, 2, 0).numpy() + 1) * 127.5 + 0.5).astype(np.uint8)
            rows.append(np.concatenate([crop, back], 0))
    if sheet is not None:
        cv2.imwrite(str(sheet), np.concatenate(rows, 1)[..., ::-1])
    return float(np.mean(scores))


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts), then write `autoencoder/final.pt`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    prepared = Prepared.open(args.runs)
    sheet = args.runs / "autoencoder" / "sheet.png"
    model = Autoencoder().to(args.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(step: int) -> Tensor:
        image = random_windows(prepared.crops, prepared.train_ids, np.random.default_rng([args.seed, step]))
        image = image.to(args.device, memory_format=torch.channels_last)
        with mixed_precision(args.device):
            out = model.train()(image)
        return reconstruction_loss(out.float(), image)

    def figures(average: Autoencoder) -> str:
        shown = copy.deepcopy(average).cpu()
        return f"val(24) {validate(shown.folded_encoder(), shown.decoder, prepared, sheet, 24):.2f} dB"

    average = loop.train("autoencoder", args, model, loss, figures, RECIPE).cpu()
    encoder = average.folded_encoder()
    psnr = validate(encoder, average.decoder, prepared, sheet)
    states = {"encoder": encoder.state_dict(), "decoder": average.decoder.state_dict()}
    final = args.runs / "autoencoder" / "final.pt"
    loop.replace_file(final, {"kwargs": {"latent_channels": LATENT_CHANNELS}, **states})
    print(f"autoencoder: val PSNR {psnr:.2f} dB over {len(prepared.val_ids)} crops")
