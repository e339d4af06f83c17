"""The W+ method on its own: what is decoded of a difference, and which networks are asked."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from mien.engine.edits.wplus import HALO, WPlus
from mien.engine.manifest import AttributeEdit, Manifest, ScheduleSpec
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack

LATENTS, SCALE = 24, 8
PX = LATENTS * SCALE
EDIT = AttributeEdit("a", "a", (-1.0, 1.0), "a", (), ("face",), 350, 1.0, "delta")
MANIFEST = Manifest(
    "test", "1", "", {}, "card", PX, "ffhq", 4, LATENTS, ScheduleSpec("scaled_linear", 0.00085, 0.012, 1000),
    "v_prediction", (), 1, {}, {"a": EDIT}, None, {},
)  # fmt: skip
CROP: Array = np.random.default_rng(0).uniform(-1, 1, (3, PX, PX)).astype(np.float32)


def decode(latents: Array) -> Array:
    """A decoder that sees HALO latents around, and nothing beyond the borders of what it is given."""
    side = 2 * HALO + 1
    seen = [cv2.blur(row, (side, side), borderType=cv2.BORDER_CONSTANT) for row in latents[0, :3]]
    return np.stack(seen)[None].repeat(SCALE, 2).repeat(SCALE, 3)


class Networks(dict[str, Any]):
    """Fakes; `decoded` keeps the shapes that the decoder was given."""

    def __init__(self) -> None:
        self.decoded: list[tuple[int, ...]] = []
        super().__init__(
            w_encoder=lambda image: {"w_plus": np.zeros((1, 12, 64), np.float32)},
            vae_encoder=lambda image: {"latents": image[:, [0, 1, 2, 0], ::SCALE, ::SCALE].copy()},
            vae_decoder=self.decode,
            denoiser=self.denoiser,
        )

    def decode(self, latents: Array) -> dict[str, Array]:
        self.decoded.append(latents.shape)
        return {"image": np.concatenate([decode(row[None]) for row in latents])}

    class Denoiser:
        """v = w_plus's mean times a picture that differs from place to place."""

        inputs: dict[str, Any] = {}

        def __call__(self, latents: Array, w_plus: Array, **_: Array) -> dict[str, Array]:
            return {"v": 0.2 * latents + w_plus.mean((1, 2))[:, None, None, None] * np.sin(7 * latents)}

    denoiser = Denoiser()


def finish(mask: Array) -> tuple[Array, Networks]:
    networks = Networks()
    method = WPlus(
        EditSpec(edits=(("a", 1.0),)), {"a": EDIT}, MANIFEST, {"a": np.full((12, 64), 0.5, np.float32)}, networks
    )
    out = method.finish(FaceTrack(0), CROP, mask)
    assert out is not None
    return out, networks


def blob(x0: int, y0: int, x1: int, y1: int) -> Array:
    mask: Array = np.zeros((PX, PX), np.float32)
    mask[y0:y1, x0:x1] = 1.0
    return mask


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((80, 72, 104, 88), (10, 11)),  # rows 9..10 and columns 10..12, and HALO on every side
        ((0, 0, 1, 1), (5, 5)),
        ((PX - 1, 0, PX, 9), (6, 5)),
        ((0, 0, PX, PX), (LATENTS, LATENTS)),
    ],
)
def test_a_window_of_the_difference_is_the_whole_ones(box: tuple[int, ...], window: tuple[int, int]) -> None:
    mask = blob(*box)
    whole, _ = finish(np.ones_like(mask))
    part, networks = finish(mask)
    assert networks.decoded == [(2, 4, *window)]
    assert np.abs(whole * mask).max() > 0.01, "there is something to compare"
    np.testing.assert_allclose(part * mask, whole * mask, atol=1e-6)


def test_an_empty_mask_is_no_error_and_costs_little() -> None:
    out, networks = finish(np.zeros((PX, PX), np.float32))
    assert out.shape == (3, PX, PX) and networks.decoded == [(2, 4, 1, 1)]


def test_what_an_averaged_mask_has_left_is_not_decoded() -> None:
    mask = blob(80, 72, 104, 88)
    mask[5, 5] = 1e-5
    assert finish(mask)[1].decoded == [(2, 4, 10, 11)]
