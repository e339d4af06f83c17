"""Stage `decoder`: train the decoder on behind the finished encoder, whose latents the denoiser already relies on.

Same loss and augmentation as `autoencoder`, without noise on the latents. Validation figure: PSNR of the val crops; the weights in
`autoencoder/final.pt` are replaced only if it rose.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from mien.engine.networks.autoencoder import Decoder, Encoder
from mien.export.tiny.autoencoder import random_windows, reconstruction_loss, validate
from mien.export.tiny.checkpoint import Budget, load_checkpoint, save_checkpoint
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.stage import Arguments

PEAK_LR, FINAL_LR = 6e-4, 1e-5


def run(args: Arguments) -> None:
    """Train for `args.minutes` in all (resumed time counts)."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder = args.runs / "decoder"
    folder.mkdir(parents=True, exist_ok=True)
    prepared = Prepared.open(args.runs)
    final = args.runs / "autoencoder" / "final.pt"
    saved: dict[str, Any] = torch.load(final, weights_only=True)
    device = torch.device(args.device)
    encoder, decoder = Encoder(**saved["kwargs"]), Decoder(**saved["kwargs"])
    encoder.load_state_dict(saved["encoder"])
    decoder.load_state_dict(saved["decoder"])
    encoder.to(device).eval().requires_grad_(False)
    decoder.to(device)
    optimizer = torch.optim.AdamW(decoder.parameters(), PEAK_LR, betas=(0.9, 0.99), weight_decay=1e-4)
    state = load_checkpoint(folder, decoder, optimizer)
    rng = np.random.default_rng([args.seed, 1, state["step"]])
    budget, shown = Budget(args.minutes, state["seconds"]), time.monotonic()
    while not budget.is_over():
        for group in optimizer.param_groups:
            group["lr"] = budget.cosine(PEAK_LR, FINAL_LR)
        image = random_windows(prepared.crops, prepared.train_ids, rng).to(device)
        loss = reconstruction_loss(decoder(encoder(image)), image)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        state["step"] += 1
        state["seconds"] = budget.spent_s()
        if time.monotonic() - shown > 120:
            save_checkpoint(folder, decoder, optimizer, state)
            psnr = validate(encoder, decoder, prepared, folder / "sheet.png", 24)
            print(f"decoder: step {state['step']} {state['seconds'] / 60:.1f} min val(24) {psnr:.2f} dB", flush=True)
            shown = time.monotonic()
    save_checkpoint(folder, decoder, optimizer, state)
    psnr = validate(encoder.cpu(), decoder.cpu(), prepared, folder / "sheet.png")
    print(f"decoder: {state['step']} steps, val PSNR {psnr:.2f} dB, before {saved['psnr_db']:.2f} dB")
    if psnr > saved["psnr_db"]:
        torch.save(saved | {"decoder": decoder.state_dict(), "psnr_db": psnr}, final)
