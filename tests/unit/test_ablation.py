"""The ablation's variants on a fake model: what each remembers of past frames, what that weighs, and how it is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.bench import ablation_variants as of
from mien.bench.ablation import contact_sheet, main, table
from mien.bench.ablation_clip import CELL_PX, Lane, errors_of
from mien.bench.ablation_variants import VARIANTS, Ablated, Variant, guide_every_step, held_bytes
from mien.bench.quality_measure import Run
from mien.bench.quality_scores import ANY
from mien.engine.bundle import Bundle
from mien.engine.compose import FaceJob
from mien.engine.edits import View
from mien.engine.edits.wplus import WPlus
from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.face.face_motion import FaceMotion
from mien.engine.guidance import LATENT_GUIDANCE
from mien.engine.manifest import Architecture, AttributeEdit, BankLayer, Manifest, NetworkSpec, ScheduleSpec
from mien.engine.sampler import step_lcm
from mien.engine.schedule import Schedule
from mien.engine.spec import EditSpec
from mien.engine.types import Array, FaceTrack, TensorSpec

SIZE, LATENTS = 64, 8
LATENT_BYTES = 4 * LATENTS**2 * 4
OWN_TOKENS, OWN_CHANNELS, LAYERS = 3, 2, 4
EDIT = AttributeEdit("a", "a", (-1.0, 1.0), "a", (), ("face",), 350, 1.0, "delta")
NETWORK = NetworkSpec("difference", "f.onnx", "onnx", "", Architecture("", {}), {}, {}, {})
SPEC = EditSpec(edits=(("a", 1.0),), num_steps=2, strength=0.5, seed=7)
TIMESTEPS = (499, 259)
rng = np.random.default_rng(0)
CROPS = [rng.uniform(-1, 1, (3, SIZE, SIZE)).astype(np.float32) for _ in range(3)]


def bundle(*, banked: bool = False) -> Bundle:
    manifest = Manifest(
        "test", "1", "", {}, "card", SIZE, "ffhq", 4, LATENTS, ScheduleSpec("scaled_linear", 0.00085, 0.012, 1000),
        "v_prediction", (BankLayer(OWN_TOKENS, OWN_CHANNELS),) if banked else (), 1, {"difference": NETWORK}, {"a": EDIT},
        None, {},
    )  # fmt: skip
    return Bundle(Path("."), manifest, "", {"a": np.full((12, 64), 0.5, np.float32)})


class Denoiser:
    """Its answer depends on the latents, the code and the bank; its own keys and values are the mean of what it is given.

    banks: of every call, the inputs bank_k_i.
    """

    def __init__(self) -> None:
        free = TensorSpec((None, None, OWN_CHANNELS))
        self.inputs = {f"bank_{kind}_{i}": free for i in range(LAYERS) for kind in "kv"}
        self.outputs: dict[str, TensorSpec] = {}
        self.banks: list[list[Array]] = []
        self.own: list[float] = []

    def __call__(
        self, latents: Array, timestep: Array, w_plus: Array, w_scale: Array, **bank: Array
    ) -> dict[str, Array]:
        self.banks.append([bank[f"bank_k_{i}"] for i in range(LAYERS)])
        seen = sum(float(v.sum()) for v in bank.values())
        v = 0.3 * latents + w_plus.mean((1, 2))[:, None, None, None] + np.float32(0.01 * seen)
        self.own.append(float(latents.mean()))
        own = np.full((len(latents), OWN_TOKENS, OWN_CHANNELS), self.own[-1], np.float32)
        return {"v": v.astype(np.float32)} | {f"own_{kind}_{i}": own for i in range(LAYERS) for kind in "kv"}


def networks() -> dict[str, Any]:
    def difference(
        latents: Array, source: Array, timestep: Array, w_plus: Array, w_edited: Array, coordinates: Array
    ) -> dict[str, Array]:
        assert coordinates.shape == (1, 2, *latents.shape[2:])
        return {"difference": (w_edited - w_plus).mean((1, 2))[:, None, None, None] * np.sin(source + latents)}

    return {
        "w_encoder": _plain(lambda image: {"w_plus": np.full((1, 12, 64), float(image.mean()), np.float32)}),
        "vae_encoder": _plain(lambda image: {"latents": image[:, [0, 1, 2, 0], ::8, ::8].copy()}),
        "vae_decoder": _plain(lambda latents: {"image": latents[:, :3].repeat(8, 2).repeat(8, 3)}),
        "denoiser": Denoiser(),
        "difference": _plain(difference),
    }


class _plain:
    def __init__(self, run: Any) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self._run = run

    def __call__(self, **arrays: Array) -> Any:
        return self._run(**arrays)


def view(crop: Array) -> View:
    return View(crop, np.ones((SIZE, SIZE), np.float32), SIZE * MEAN_FACE)


def track() -> FaceTrack:
    return FaceTrack(3, np.full((1, 12, 64), 0.25, np.float32), 1)


def picture(answer: Any) -> Array:
    assert answer is not None
    return np.asarray(answer.difference if answer.cover is None else answer.cover[0])


def run(variant: Variant, crops: list[Array], face: FaceTrack | None = None) -> tuple[list[Array], FaceTrack, Denoiser]:
    nets, face = networks(), face or track()
    method = Ablated(variant, SPEC, bundle(), nets)
    assert method.timesteps == (TIMESTEPS if not variant.rows else (500, 250))
    out = [picture(method.finish(face, view(crop))) for crop in crops]
    assert len(method.denoising_ms) == len(method.whole_ms) == len(crops)
    assert all(0 < a <= b for a, b in zip(method.denoising_ms, method.whole_ms, strict=True))
    return out, face, nets["denoiser"]


def wplus(spec: EditSpec, *, banked: bool = False) -> list[Array]:
    method, face = WPlus(spec, bundle(banked=banked), networks()), track()
    return [picture(method.finish(face, view(crop))) for crop in CROPS]


def test_equal_frames_differ_only_with_fresh_noise() -> None:
    still = [CROPS[0]] * 3
    fresh, fixed = run(of.FRESH, still)[0], run(of.PLAIN, still)[0]
    assert np.abs(fresh[0] - fresh[1]).max() > 0.1 and np.abs(fresh[1] - fresh[2]).max() > 0.1
    np.testing.assert_array_equal(fixed[0], fixed[2])
    np.testing.assert_array_equal(fresh[0], fixed[0])
    np.testing.assert_array_equal(run(of.FRESH, still)[0][2], fresh[2])


@pytest.mark.parametrize(
    ("variant", "more", "banked"),
    [
        (of.SHARED, {"composition": "replace"}, False),
        (of.ANCHORED, {"composition": "replace"}, True),
        (of.TWO_ROWS, {"composition": "delta", "options": {"rows": 2}}, False),
        (of.ONE_ROW, {}, False),
    ],
)
def test_what_users_run_is_one_of_the_variants(variant: Variant, more: dict[str, Any], banked: bool) -> None:
    for mine, theirs in zip(run(variant, CROPS)[0], wplus(replace(SPEC, **more), banked=banked), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_attention_sees_the_frames_of_the_title() -> None:
    """Calls 4 and 5 are the third frame's: the row of a step reads what the same step left in the first and second."""
    for variant, frames in ((of.SHARED, []), (of.PREVIOUS, [1]), (of.ANCHORED, [0, 1])):
        denoiser = run(variant, CROPS)[2]
        assert all(not bank.size for bank in denoiser.banks[0]), "the first frame has none"
        for call in (4, 5):
            wanted = [denoiser.own[2 * frame + call - 4] for frame in frames]
            for bank in denoiser.banks[call]:
                np.testing.assert_allclose(bank[0, ::OWN_TOKENS, 0], wanted)
    assert [bank.shape[1] for bank in run(of.DECODER, CROPS)[2].banks[4]] == [0, 0, 0, 2 * OWN_TOKENS]


def test_a_code_per_frame_is_of_the_frame_itself() -> None:
    for variant, kept in ((of.FRESH, False), (of.PLAIN, False), (of.SHARED, True), (of.ONE_ROW, True)):
        face = track()
        Ablated(variant, SPEC, bundle(), networks()).encode_anew(face, CROPS[1])
        wanted = 0.25 if kept else float(CROPS[1].mean())
        np.testing.assert_allclose(face.mean_code(), wanted, rtol=1e-5)


def test_guidance_begins_with_the_second_frame_and_remembers_its_levels() -> None:
    (first, second, _), face, _ = run(of.GUIDED, CROPS)
    all_first, all_second, _ = run(of.GUIDED_ALL, CROPS)[0]
    plain = run(of.ANCHORED, CROPS)[0]
    np.testing.assert_array_equal(first, plain[0])
    np.testing.assert_array_equal(all_first, plain[0])
    assert np.abs(second - plain[1]).max() > 1e-6 and np.abs(all_second - second).max() > 1e-6
    assert list(face.memory["guided"]) == [499]
    assert list(run(of.GUIDED_ALL, CROPS)[1].memory["guided"]) == [499, 259]


def test_the_update_after_every_step_is_pix2videos_formula() -> None:
    face, schedule = track(), Schedule()
    x, x0, noise, old = (rng.standard_normal((1, 4, 8, 8)) for _ in range(4))
    step = guide_every_step(face)
    np.testing.assert_array_equal(step(schedule, old, x, 259, None, None), step_lcm(schedule, old, x, 259, None, None))
    got = step(schedule, x0, x, 259, 119, noise)
    wanted = schedule.add_noise(x0, noise, 119) - LATENT_GUIDANCE * (x0 - old)
    assert np.abs(step(schedule, x0, x, 499, 119, noise) - schedule.add_noise(x0, noise, 119)).max() < 1e-3
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_memory_counts_every_array_once() -> None:
    code = 12 * 64 * 4
    frame = 2 * LAYERS * OWN_TOKENS * OWN_CHANNELS * 4 * len(TIMESTEPS)
    noise = LATENT_BYTES * len(TIMESTEPS)
    wanted = {
        of.FRESH: code,
        of.PLAIN: code + noise,
        of.SHARED: code + noise,
        of.PREVIOUS: code + noise + frame,
        of.ANCHORED: code + noise + 2 * frame,
        of.DECODER: code + noise + 2 * frame // LAYERS,
        of.GUIDED: code + noise + 2 * frame + LATENT_BYTES,
        of.GUIDED_ALL: code + noise + 2 * frame + 2 * LATENT_BYTES,
        of.TWO_ROWS: code + noise,
        of.ONE_ROW: code + noise,
    }
    assert {variant: held_bytes(run(variant, CROPS)[1]) for variant in VARIANTS} == wanted
    assert held_bytes(FaceTrack(0)) == 0


def errors(job: FaceJob, result: Array) -> Array:
    """Of a job whose mask is not empty."""
    found = errors_of(job, result)
    assert found is not None
    return found


def test_errors_are_inside_the_mask_and_of_both_sources() -> None:
    crop: Array = np.zeros((3, SIZE, SIZE), np.float32)
    crop[:, ::2] = 0.5
    mask: Array = np.zeros((SIZE, SIZE), np.float32)
    mask[8:40, 8:40] = 1.0
    job = FaceJob(track(), np.eye(2, 3), (0, 0, SIZE, SIZE), crop, None, mask, SIZE * MEAN_FACE, None, 1.0)
    result = crop + np.float32(0.2)
    result[:, 50:] = 1.0
    np.testing.assert_allclose(errors(job, result)[:2], (0.2 * 127.5) ** 2, rtol=1e-4)
    np.testing.assert_allclose(errors(job, 0.5 * crop)[2:] @ [2, -1], 0.0, atol=1e-5)
    field: Array = np.zeros((SIZE, SIZE, 2), np.float32)
    field[..., 1] = 1.0
    source, moved, _, _ = errors(replace(job, motion=FaceMotion(field)), crop)
    assert source == 0.0 and moved > 100.0, "the template moves rows onto their neighbours"
    assert errors_of(replace(job, mask=0.0 * mask), result) is None, "an empty mask is no perfect answer"


def test_figures_inside_the_mask_are_of_the_frames_that_have_one() -> None:
    method = Ablated(of.PLAIN, SPEC, bundle(), networks())
    method.denoising_ms, method.whole_ms = [1.0], [2.0]
    lane = Lane(of.PLAIN, method, None, Run(ANY, 1.0, None), {0: track()})  # type: ignore[arg-type]
    assert lane.figures(method)["psnr_db"] is lane.figures(method)["detail"] is None
    lane.errors.append(np.array([255.0**2 / 1000, 255.0**2 / 100, 3.0, 4.0]))
    figures = lane.figures(method)
    assert (figures["psnr_db"], figures["of_input_db"]) == (pytest.approx(30.0), pytest.approx(20.0))
    assert figures["detail"] == pytest.approx(0.75)


def test_the_table_is_of_means_and_the_sheet_of_every_variant() -> None:
    row = {"flicker": 1.0, "drift": {k: 0.1 for k in ("mouth", "eyes", "brows", "nose", "oval")}, "track_bytes": 2048}
    row |= dict.fromkeys(("warp_ratio", "own_drift", "jaw_r", "response"), None)
    row |= dict.fromkeys(("psnr_db", "of_input_db", "detail", "denoising_ms", "times_plain", "whole_ms"), 2.0)
    headings, cells = table([{"x": row}, {"x": row | {"flicker": 3.0, "jaw_r": 0.5}}])
    by = dict(zip(headings, cells, strict=True))
    assert (by["variant"], by["flicker"], by["jaw r"], by["warp ratio"], by["KB a track"]) == (
        "x",
        "2",
        "0.5",
        "-",
        "2",
    )
    pictures = [np.full((CELL_PX, CELL_PX, 3), value, np.uint8) for value in (0, 10, 20)]
    sheet = contact_sheet([("source", pictures), ("a", pictures)])
    assert sheet.shape[0] == 2 * CELL_PX and (sheet[:, -CELL_PX:] == 80).all(), "8 times the frames' difference"


def test_wrong_wishes_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--frames", "1"], "--frames is 1"),
        (["--edit", "smil=1"], "smil"),
        (["--edit", "smile=0"], "give one"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out"), *arguments])
        assert caught.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
