"""What CLIP says of an edit: does it show the prompt, and does it hold from frame to frame.

Embeddings are CLIP's projected ones (Radford et al. 2021), (n, d), a row a frame; cosines are of their directions, in float64.
"""

from __future__ import annotations

from mien.bench.metrics_identity import unit
from mien.engine.errors import ShapeError
from mien.engine.types import Array


def clip_text(frames: Array, prompt: Array) -> float:
    """CLIP-Text: mean over the frames (n, d) of the cosine with the prompt's embedding (d,), in [-1, 1].

    As Pix2Video (Ceylan et al. 2023) and FateZero report it; CLIPScore's factor of 2.5 is not in it.
    """
    if frames.ndim != 2 or not len(frames) or prompt.shape != frames.shape[1:]:
        raise ShapeError(f"embeddings are {frames.shape} and {prompt.shape}: give (n, d), n from 1, and (d,)")
    return float((unit(frames) @ unit(prompt)).mean())


def clip_frame(frames: Array) -> float | None:
    """CLIP-Frame, also CLIP-Image and Tem-Con: mean cosine of consecutive frames (n, d). None for one frame.

    Source: Pix2Video (Ceylan et al. 2023); FateZero (Qi et al. 2023) calls it Tem-Con.
    """
    if frames.ndim != 2:
        raise ShapeError(f"embeddings are {frames.shape}: give (n, d)")
    rows = unit(frames)
    return float((rows[:-1] * rows[1:]).sum(1).mean()) if len(rows) > 1 else None
