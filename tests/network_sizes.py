"""The sizes behind the names in the signatures of the SD family's networks, for pictures of one size."""

from __future__ import annotations

from mien.engine.networks.sd_layout import Layout

TEXT_TOKENS = 77


def named_sizes(
    layout: Layout, height_px: int, width_px: int, *, tokens: int = TEXT_TOKENS, bank_frames: int = 0
) -> dict[str, int]:
    """All names but "B": "H", "W", "H16", ..., "T", and "M0", ..., the tokens of banks that hold `bank_frames` frames."""
    sizes = {"H": height_px, "W": width_px, "T": tokens}
    for _, by in layout.skips():
        sizes |= {f"H{8 * by}": -(-height_px // (8 * by)), f"W{8 * by}": -(-width_px // (8 * by))}
    for layer in layout.layers():
        sizes[f"M{layer.number}"] = bank_frames * sizes[f"H{8 * layer.downscale}"] * sizes[f"W{8 * layer.downscale}"]
    return sizes
