"""The W+ method on its own: what is decoded of a difference, and which networks are asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.difference import HALO, REACH, covered_share
from mien.engine.edits import View
from mien.engine.edits.wplus import WPlus
from mien.engine.errors import EditError
from mien.engine.face.coordinates import MEAN_FACE, face_coordinates
from mien.engine.manifest import AttributeEdit, BankLayer, Manifest, NetworkSpec, ScheduleSpec
from mien.engine.schedule import Schedule, even_timesteps
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


def bundle(manifest: Manifest, direction: float = 0.5) -> Bundle:
    return Bundle(Path("."), manifest, "", {"a": np.full((12, 64), direction, np.float32)})


POINTS = PX * (MEAN_FACE + np.random.default_rng(1).normal(0, 0.01, (68, 2)))


def view(mask: Array, hidden: Array | None = None) -> View:
    return View(CROP, mask, POINTS, hidden)


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
            difference=self.difference,
        )

    def decode(self, latents: Array) -> dict[str, Array]:
        self.decoded.append(latents.shape)
        return {"image": np.concatenate([decode(row[None]) for row in latents])}

    @staticmethod
    def difference(
        latents: Array, source: Array, timestep: Array, w_plus: Array, w_edited: Array, coordinates: Array
    ) -> dict[str, Array]:
        """Nothing where the codes are equal; else it depends on all it is given."""
        change = (w_edited - w_plus).mean((1, 2))[:, None, None, None]
        return {
            "difference": change
            * np.sin(7 * source + latents + timestep[:, None, None, None] / 500 + coordinates[:, :1])
        }

    class Denoiser:
        """v = w_plus's mean times a picture that differs from place to place."""

        inputs: dict[str, Any] = {}

        def __call__(self, latents: Array, w_plus: Array, **_: Array) -> dict[str, Array]:
            return {"v": 0.2 * latents + w_plus.mean((1, 2))[:, None, None, None] * np.sin(7 * latents)}

    denoiser = Denoiser()


def finish(mask: Array) -> tuple[Array, Networks]:
    networks = Networks()
    method = WPlus(EditSpec(edits=(("a", 1.0),)), bundle(MANIFEST), networks)
    out = method.finish(FaceTrack(0, w_sum=np.zeros((1, 12, 64), np.float32), w_count=1), view(mask))
    assert out is not None and out.difference is not None and out.cover is None
    return out.difference, networks


def blob(x0: int, y0: int, x1: int, y1: int) -> Array:
    mask: Array = np.zeros((PX, PX), np.float32)
    mask[y0:y1, x0:x1] = 1.0
    return mask


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((80, 72, 104, 88), (12, 13)),  # rows 9..10 and columns 10..12, and HALO on every side
        ((0, 0, 1, 1), (6, 6)),
        ((PX - 1, 0, PX, 9), (7, 6)),
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


def test_where_the_latents_hardly_change_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    mask: Array = np.ones((PX, PX), np.float32)
    whole = finish(mask)[1].decoded
    amount: Array = np.full((LATENTS, LATENTS), 0.001, np.float32)
    amount[10:14, 3:9] = 1.0

    def little(self: object, latents: Array, w_plus: Array, **_: Array) -> dict[str, Array]:
        return {"v": 0.2 * latents + amount * w_plus.mean((1, 2))[:, None, None, None]}

    monkeypatch.setattr(Networks.Denoiser, "__call__", little)
    difference, networks = finish(mask)
    assert whole == [(2, 4, LATENTS, LATENTS)] and networks.decoded == [(2, 4, 4 + 2 * REACH, 3 + 6 + REACH)]
    rows, columns = (np.flatnonzero(np.abs(difference).max((0, axis))) for axis in (2, 1))
    assert (rows[0], rows[-1] + 1) == ((10 - REACH) * SCALE, (14 + REACH) * SCALE)
    assert (columns[0], columns[-1] + 1) == (0, (9 + REACH) * SCALE)


def test_an_empty_mask_is_no_error_and_costs_little() -> None:
    out, networks = finish(np.zeros((PX, PX), np.float32))
    assert out.shape == (3, PX, PX) and networks.decoded == [(2, 4, 1, 1)]


def test_what_an_averaged_mask_has_left_is_not_decoded() -> None:
    mask = blob(80, 72, 104, 88)
    mask[5, 5] = 1e-5
    assert finish(mask)[1].decoded == [(2, 4, 12, 13)]


ONE_ROW = replace(MANIFEST, networks={"difference": cast(NetworkSpec, None)})


def one_row(strength: float, steps: int) -> Array:
    spec = EditSpec(edits=(("a", strength),), num_steps=steps)
    assert WPlus.networks(spec, ONE_ROW) == ("w_encoder", "vae_encoder", "vae_decoder", "difference")
    networks = Networks()
    del networks["denoiser"]
    method = WPlus(spec, bundle(ONE_ROW), networks)
    out = method.finish(
        FaceTrack(0, w_sum=np.zeros((1, 12, 64), np.float32), w_count=1), view(np.ones((PX, PX), np.float32))
    )
    assert out is not None and out.difference is not None
    return out.difference


def test_one_row_is_the_definition() -> None:
    schedule, z = Schedule(), CROP[None, [0, 1, 2, 0], ::SCALE, ::SCALE]
    noise = [np.random.default_rng((0, 0, step)).standard_normal(z.shape[1:]).astype(np.float32) for step in (0, 1)]
    place, out = face_coordinates(POINTS, PX, z.shape[-1]), z
    for t, fixed in zip(even_timesteps(2, 350), noise, strict=True):
        out = z + 0.5 * np.sin(7 * z + schedule.add_noise(out, fixed, t) + t / 500 + place[:1])
    np.testing.assert_allclose(one_row(1.0, 2), (decode(out) - decode(z))[0], atol=1e-6)
    assert np.abs(one_row(1.0, 1) - one_row(1.0, 2)).max() > 0.001 and np.abs(one_row(0.5, 1)).max() > 0.01


def test_rows_chooses_between_the_networks() -> None:
    def spec(rows: float, **more: Any) -> EditSpec:
        return EditSpec(edits=(("a", 1.0),), options=(("rows", rows),), **more)

    assert WPlus.networks(spec(2), ONE_ROW)[-1] == "denoiser" == WPlus.networks(spec(0), MANIFEST)[-1]
    assert WPlus.networks(spec(0, composition="replace"), ONE_ROW)[-1] == "denoiser"
    with pytest.raises(EditError, match="no network 'difference'"):
        WPlus.networks(spec(1), MANIFEST)
    with pytest.raises(EditError, match="sampler 'ddim' belongs to --composition replace"):
        WPlus.networks(spec(0, sampler="ddim"), ONE_ROW)
    with pytest.raises(EditError, match="rows and whole belong to --composition delta"):
        WPlus.networks(spec(2, composition="replace"), ONE_ROW)
    with pytest.raises(EditError, match="w_scale belongs to the denoiser"):
        WPlus.networks(EditSpec(edits=(("a", 1.0),), options=(("w_scale", 0.5),)), ONE_ROW)
    with pytest.raises(EditError, match="rows is 3"):
        WPlus.networks(spec(3), ONE_ROW)


def test_what_no_network_heeds_is_refused() -> None:
    for told, flags in (
        ({"guidance_scale": 7.5}, "--guidance-scale"),
        ({"negative_prompt": "ugly"}, "--negative-prompt"),
        ({"prompt": "old", "guidance_scale": 1.0}, "--prompt, --guidance-scale"),
    ):
        with pytest.raises(EditError, match=f"reads no prompts: leave out {flags}, or give"):
            WPlus.networks(EditSpec(edits=(("a", 1.0),), **told), ONE_ROW)


def test_a_warp_alone_has_no_options() -> None:
    both = replace(ONE_ROW, edits={"a": EDIT, "warp": replace(EDIT, name="warp", direction=None)})
    warp, mixed = (("warp", 1.0),), (("warp", 1.0), ("a", 1.0))
    assert WPlus.networks(EditSpec(edits=warp, num_steps=2, guidance_scale=None), both) == ()
    for name, value in (("rows", 2.0), ("whole", 1.0), ("w_scale", 0.5)):
        spec = EditSpec(edits=warp, options=((name, value),))
        with pytest.raises(
            EditError, match=f"the edits warp run no network that has the options {name}: leave these out"
        ):
            WPlus.networks(spec, both)
        assert not WPlus(spec, bundle(both), Networks()).wants_code(), "a pass of its own beside others is none"
    assert WPlus.networks(EditSpec(edits=mixed, options=(("whole", 1.0),)), both)[-1] == "difference"
    still = EditSpec(edits=(("warp", 0.0), ("a", 0.0)), options=(("rows", 2.0),))
    assert WPlus.networks(still, both) == (), "a strength of 0 is no edit"


def test_only_a_bank_that_is_read_wants_the_frames_in_order() -> None:
    banked = replace(ONE_ROW, bank=(BankLayer(256, 80),))
    spec = EditSpec(edits=(("a", 1.0),))
    assert not WPlus.in_order(spec, banked) and not WPlus.in_order(spec, MANIFEST)
    assert WPlus.in_order(replace(spec, options=(("rows", 2.0),)), banked)


def test_where_something_new_stands_the_source_is_covered() -> None:
    strong: Array = np.zeros((3, 200, 200), np.float32)
    strong[1, 60:140, 40:160] = -1.0
    strong[1, 98:101, 40:160] = 0.05  # a dark line that differs little from what covers it
    share = covered_share(strong)
    assert share[70:130, 50:150].min() > 0.99, "the line is closed"
    assert share[:50].max() == 0.0 and share[:, 175:].max() == 0.0
    assert covered_share(np.full((3, 50, 50), 0.05, np.float32)).max() == 0.0, "a tint covers nothing"


def test_the_cover_is_the_decoded_answer_within_its_region() -> None:
    networks = Networks()
    method = WPlus(EditSpec(edits=(("a", 1.0),)), bundle(MANIFEST, 4.0), networks)
    hidden, mask = blob(40, 40, 120, 120), blob(0, 0, PX, PX)
    track = FaceTrack(0, w_sum=np.zeros((1, 12, 64), np.float32), w_count=1)
    out = method.finish(track, view(mask, hidden))
    assert out is not None and out.difference is not None and out.cover is not None
    picture, share = out.cover
    np.testing.assert_allclose(share, covered_share(out.difference) * hidden)
    assert share.max() > 0.5
    source = networks.decode(CROP[None, [0, 1, 2, 0], ::SCALE, ::SCALE])["image"][0]
    np.testing.assert_allclose(picture - source, out.difference, atol=1e-6)


def test_the_bundles_difference_decoder_draws_on_the_crop() -> None:
    asked: list[tuple[tuple[int, ...], ...]] = []

    def draw(source: Array, edited: Array, image: Array) -> dict[str, Array]:
        asked.append((source.shape, edited.shape, image.shape))
        return {"difference": (edited - source)[:, :3].repeat(SCALE, 2).repeat(SCALE, 3) - 0.5 * image}

    both = replace(MANIFEST, networks=dict.fromkeys(("difference", "difference_decoder"), cast(NetworkSpec, None)))
    spec = EditSpec(edits=(("a", 1.0),))
    assert WPlus.networks(spec, both) == ("w_encoder", "vae_encoder", "difference", "difference_decoder")
    two_rows = replace(spec, options=(("rows", 2.0),))
    assert WPlus.networks(two_rows, both) == ("w_encoder", "vae_encoder", "vae_decoder", "denoiser")
    networks = Networks()
    networks["difference_decoder"] = draw
    track = FaceTrack(0, w_sum=np.zeros((1, 12, 64), np.float32), w_count=1)
    mask = blob(64, 64, 96, 96)
    out = WPlus(spec, bundle(both, 4.0), networks).finish(track, view(mask, mask))
    assert out is not None and out.difference is not None and out.cover is not None
    rows, columns = asked[0][0][2:]
    assert asked == [((1, 4, rows, columns), (1, 4, rows, columns), (1, 3, SCALE * rows, SCALE * columns))]
    assert rows < LATENTS and columns < LATENTS, "no more of it than shows"
    drawn = np.s_[:, 64:96, 64:96]
    np.testing.assert_allclose((out.cover[0] - out.difference)[drawn], CROP[drawn], atol=1e-6)
    assert not networks.decoded, "the decoder of pictures is not asked"
