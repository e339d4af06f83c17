"""Stage `decoder`: train the decoder on behind the finished encoder, whose latents the denoiser already relies on.

Same loss and augmentation as `autoencoder`, without noise on the latents. Validation figure: PSNR of the val crops; the weights in
`autoencoder/final.pt` are replaced only if it rose.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.engine.networks.autoencoder import Decoder, Encoder
from mien.export.tiny import loop
from mien.export.tiny.autoencoder import random_windows, reconstruction_loss, validate
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.loop import Recipe, mixed_precision
from mien.export.tiny.stage import Arguments

RECIPE = Recipe(6e-4, 1e-5)


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts)."""
    torch.set_num_threads(args.threads)
    prepared = Prepared.open(args.runs)
    final = args.runs / "autoencoder" / "final.pt"
    saved: dict[str, Any] = torch.load(final, weights_only=True)
    encoder, decoder = Encoder(**saved["kwargs"]), Decoder(**saved["kwargs"])
    encoder.load_state_dict(saved["encoder"])
    decoder.load_state_dict(saved["decoder"])
    before = validate(encoder.eval(), decoder.eval(), prepared, None)
    encoder.to(args.device).requires_grad_(False)
    decoder.to(args.device)

    def loss(step: int) -> Tensor:
        image = random_windows(prepared.crops, prepared.train_ids, np.random.default_rng([args.seed, 1, step]))
        image = image.to(args.device)
        with mixed_precision(args.device):
            out = decoder(encoder(image))
        return reconstruction_loss(out.float(), image)

    def figures(average: nn.Module) -> str:
        decoders = copy.deepcopy(average).cpu()
        psnr = validate(copy.deepcopy(encoder).cpu(), decoders, prepared, args.runs / "decoder" / "sheet.png", 24)
        return f"val(24) {psnr:.2f} dB"

    decoder = loop.train("decoder", args, decoder, loss, figures, RECIPE).cpu()
    psnr = validate(encoder.cpu(), decoder, prepared, args.runs / "decoder" / "sheet.png")
    print(f"decoder: val PSNR {psnr:.2f} dB, before {before:.2f} dB")
    if psnr > before:
        loop.replace_file(final, saved | {"decoder": decoder.state_dict()})
