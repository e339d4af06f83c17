"""The figures of an edited clip against its source: their names, their order, their table.

tl_id, tg_id         identity from frame to frame and over all frames, over the source's (metrics_identity.py)
id_drift             mean cosine distance of source and result in the same space
own_embedder_*       the same three by the tiny bundle's own W+ code, where no identity network is given: never TL-ID
clip_text            mean cosine of the frames and the prompt (metrics_text.py)
clip_frame           mean cosine of consecutive frames
warp_error           mean |difference| to the last frame warped by the source's flow, visible pixels (metrics_motion.py)
pixel_mse            mean squared difference to it, all pixels
landmark_error       mean distance of the 51 inner points over the inter-ocular distance (metrics_face.py)
lip_error            of the mouth's 20 points, less a similarity
mouth_opening_r      correlation over the frames of the mouth's opening with the source's
background_psnr_db   outside of the source's person, R, G, B, mean squared error over all frames
outside_boxes        samples that differ outside of the paste boxes, all planes, in all
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mien.bench.metrics_picture import psnr_db
from mien.bench.quality_table import digits

# key -> (title, what a source gives compared with itself)
METRICS: Mapping[str, tuple[str, str]] = {
    "tl_id": ("TL-ID", "1"),
    "tg_id": ("TG-ID", "1"),
    "id_drift": ("ID drift", "0"),
    "own_embedder_local": ("own-embedder local", "1"),
    "own_embedder_global": ("own-embedder global", "1"),
    "own_embedder_drift": ("own-embedder drift", "0"),
    "clip_text": ("CLIP-Text", "as source"),
    "clip_frame": ("CLIP-Frame", "as source"),
    "warp_error": ("warp error", "as source"),
    "pixel_mse": ("PixelMSE", "as source"),
    "landmark_error": ("landmark error", "0"),
    "lip_error": ("lip error", "0"),
    "mouth_opening_r": ("mouth opening r", "1"),
    "background_psnr_db": ("background PSNR, dB", "identical"),
    "outside_boxes": ("outside boxes", "0"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric's answer. how: who measured it and on what, or why it was not measured.

    value: None where it was not measured, or where a PSNR would be infinite; source: the source's own, where it has one.
    more: further values, by name.
    """

    how: str
    value: float | None = None
    source: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def none(cls, why: str) -> Figure:
        """What was not measured."""
        return cls(f"not measured: {why}")

    def as_dict(self) -> dict[str, Any]:
        """In plain JSON types."""
        own = {} if self.source is None else {"source": self.source}
        return {"value": self.value, **own, **self.more, "how": self.how}


def psnr_figure(total: float, samples: int, how: str) -> Figure:
    """A PSNR in dB from a sum of squared errors over samples on the scale 0 to 255."""
    mse = total / samples
    value = psnr_db(mse)
    return Figure(how, None if math.isinf(value) else value, more={"mse": mse, "identical": mse == 0.0})


def table_of(figures: Mapping[str, Figure]) -> list[list[str]]:
    """Rows of cells, headings first, in the order of METRICS."""
    rows = [["metric", "result", "source", "source with itself", "measured by"]]
    for key, (title, itself) in METRICS.items():
        if key in figures:
            figure = figures[key]
            value = "identical" if figure.value is None and figure.more.get("identical") else _cell(figure.value)
            rows.append([title, value, _cell(figure.source), itself, figure.how])
    return rows


def _cell(value: float | None) -> str:
    """Four significant digits: what separates good edits is in the third. Rounding's leftovers are 0."""
    if value is None or abs(value) < 1e-3 or abs(value) >= 1000:
        return digits(value if value is None or abs(value) > 1e-12 else 0.0)
    return f"{value:.4g}"
