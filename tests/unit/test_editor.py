"""The whole editor on planted faces: file plan and stream, strength 0, W+ method, bank, noise and composition."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.config import MAX_THREADS, EngineConfig
from mien.engine.editor import ON_HOST, SLOW_KERNELS, Editor
from mien.engine.errors import BundleError, EditError, UnavailableError
from mien.engine.face.points import face_box
from mien.engine.manifest import (
    Architecture,
    AttributeEdit,
    BankLayer,
    LandmarkShift,
    Manifest,
    NetworkSpec,
    ScheduleSpec,
)
from mien.engine.rows import RowGathering
from mien.engine.schedule import Schedule
from mien.engine.spec import EditSpec
from mien.engine.survey import Survey
from mien.engine.types import Array, Frame, TensorSpec
from mien.kernels import cpp

MakeFrame = Callable[..., Frame]
SMILE = (LandmarkShift((48, 54), 0.0, -0.1, 0.15),)
DIRECTIONS = {"a": np.full((12, 64), 0.5, np.float32), "b": np.full((12, 64), -0.25, np.float32)}


def attribute(name: str, direction: str | None, template: tuple[LandmarkShift, ...] = (), **more: Any) -> AttributeEdit:
    values: dict[str, Any] = {"regions": ("face",), "t_max": 400, "gain": 1.0, "composition": "delta"} | more
    return AttributeEdit(name, name, (-1.0, 1.0), direction, template, **values)


EDITS = {
    "warp": attribute("warp", None, SMILE),
    "a": attribute("a", "a", t_max=350),
    "b": attribute("b", "b", gain=2.0, t_max=500),
    "smile": attribute("smile", "a", SMILE),
    "paint": attribute("paint", "b", composition="replace"),
}


def bundle(bank: tuple[BankLayer, ...] = ()) -> Bundle:
    manifest = Manifest(
        "test", "1", "", {}, "card", 64, "ffhq", 4, 8, ScheduleSpec("scaled_linear", 0.00085, 0.012, 1000),
        "v_prediction", bank, 1, {}, EDITS, None, {},
    )  # fmt: skip
    return Bundle(Path("."), manifest, "0" * 64, DIRECTIONS)


class Fakes:
    """Networks that know where the face is: `places[frame]`, told apart by the brightness of the frame's first pixels."""

    def __init__(self, network_of: Any, faces: dict[int, Array], *, bank: bool = False) -> None:
        self.faces, self.now, self.denoised = faces, 0, list[dict[str, Array]]()
        inputs = {"latents": TensorSpec((None, 4, 8, 8))}
        if bank:
            inputs |= {"bank_k_0": TensorSpec((None, None, 2)), "bank_v_0": TensorSpec((None, None, 2))}
        self.networks = {
            "detector": network_of(self.detect),
            "landmarks": network_of(self.landmarks),
            "parser": network_of(self.parse),
            "w_encoder": network_of(lambda image: {"w_plus": np.full((1, 12, 64), float(image.mean()), np.float32)}),
            "vae_encoder": network_of(lambda image: {"latents": image[:, [0, 1, 2, 0], ::8, ::8].copy()}),
            "vae_decoder": network_of(lambda latents: {"image": latents[:, :3].repeat(8, 2).repeat(8, 3)}),
            "denoiser": network_of(self.denoise, inputs),
        }

    def detect(self, luma: Array) -> dict[str, Array]:
        height, width = luma.shape[2:]
        out: dict[str, Array] = {}
        for s in (8, 16, 32):
            out[f"score_{s}"] = np.zeros((1, 1, height // s, width // s), np.float32)
            out[f"box_{s}"] = np.zeros((1, 4, height // s, width // s), np.float32)
        if self.now in self.faces:
            x0, y0, x1, y1 = face_box(self.faces[self.now])
            out["score_8"][0, 0, 5, 5] = 0.95
            out["box_8"][0, :, 5, 5] = np.array([43.5 - x0, 43.5 - y0, x1 - 43.5, y1 - 43.5]) / 8
        return out

    def landmarks(self, image: Array) -> dict[str, Array]:
        """In crop pixels; the fake knows the crop because `Landmarker` asks for one face at a time here."""
        points = np.stack([self.answer for _ in image]).astype(np.float32)
        presence = np.full((len(image), 1), 0.95 if self.now in self.faces else 0.0, np.float32)
        return {"landmarks": points, "presence": presence}

    def parse(self, image: Array) -> dict[str, Array]:
        out = np.zeros((1, 4, 128, 128), np.float32)
        out[:, 1] = 1.0
        return {"probabilities": out}

    def denoise(self, **arrays: Array) -> dict[str, Array]:
        self.denoised.append(arrays)
        x, w = arrays["latents"], arrays["w_plus"].mean((1, 2))
        out = {"v": (0.3 * x + w[:, None, None, None]).astype(np.float32)}
        if "bank_k_0" in arrays:
            own = np.full((len(x), 3, 2), len(self.denoised), np.float32)
            out |= {"own_k_0": own, "own_v_0": own}
        return out


def editor(
    fakes: Fakes,
    edits: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    config: EngineConfig | None = None,
    gathering: RowGathering | None = None,
    **spec: Any,
) -> Editor:
    made = Editor(
        bundle((BankLayer(3, 2),) if "bank_k_0" in fakes.networks["denoiser"].inputs else ()),
        edits, EditSpec(**spec), config, networks=fakes.networks, gathering=gathering,
    )  # fmt: skip
    if made.active:
        inner = made._landmarker

        def asked(frame: Frame, affines: list[Array]) -> list[tuple[Array, float]]:
            from mien.engine.face.points import invert, transform

            fakes.now, out = frame.index, []
            for affine in affines:
                fakes.answer = transform(invert(affine), fakes.faces.get(frame.index, np.zeros((68, 2))))
                out += inner(frame, [affine])
            return out

        detector = made._detector

        def seen(frame: Frame, long_side_px: int = 320) -> Any:
            fakes.now = frame.index
            return detector(frame, long_side_px)

        monkeypatch.setattr(made, "_landmarker", asked)
        monkeypatch.setattr(made, "_detector", seen)
    return made


def surveyed(survey: Survey, frames: list[Frame]) -> Any:
    for frame in frames:
        survey.add(frame)
    return survey.finish()


@pytest.fixture
def still(face: Array, network_of: Any) -> Fakes:
    """A face in frames 0..11 and 14..23 of 30."""
    return Fakes(network_of, {i: face for i in range(24) if i not in (12, 13)})


def test_zero_strength_runs_nothing_and_returns_the_object(still: Fakes, frame_of: MakeFrame) -> None:
    made = Editor(bundle(), {"a": 0.0, "warp": 0.0}, networks={})
    frames = [frame_of(i) for i in range(3)]
    assert not made.active
    assert all(a is b for a, b in zip(made.run(frames), frames, strict=True))
    plan = surveyed(made.survey(), frames)
    assert all(plan.edit(f).frame is f and not plan.edit(f).edited for f in frames) and plan.tracks == ()
    assert made.edit_picture(frames[0]).frame is frames[0]
    assert not sum(network.calls for network in still.networks.values())


def test_out_of_range_and_unknown_are_refused(still: Fakes) -> None:
    for edits in ({"a": 1.01}, {"a": float("nan")}, {"smil": 1.0}):
        with pytest.raises(EditError) as caught:
            Editor(bundle(), edits, networks=still.networks)
        assert caught.value.exit_code == 2
    with pytest.raises(EditError, match="did you mean 'wplus'"):
        Editor(bundle(), {"a": 1.0}, EditSpec(method="wplu"), networks=still.networks)
    with pytest.raises(BundleError, match="denoiser"):
        Editor(bundle(), {"a": 1.0}, networks={k: v for k, v in still.networks.items() if k != "denoiser"})


def test_slow_kernels_are_told(still: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    for native, notes in ((object(), []), (None, [SLOW_KERNELS])):
        monkeypatch.setattr(cpp, "native", native)
        assert editor(still, {"a": 1.0}, monkeypatch).notes == notes


def test_what_stays_on_the_host_is_told_and_has_no_8_bit_layers(still: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    on_gpu = EngineConfig(device="cuda")
    (note,) = (note for note in editor(still, {"a": 1.0}, monkeypatch, on_gpu).notes if note != SLOW_KERNELS)
    assert note.startswith(ON_HOST) and "no denoiser of the SD family" in note
    with pytest.raises(
        UnavailableError, match="'float8' is of edits that stay on the device, and method 'wplus' has no"
    ):
        editor(still, {"a": 1.0}, monkeypatch, replace(on_gpu, precision="float8"))


def test_a_warp_alone_runs_no_denoiser(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    made = editor(still, {"warp": 1.0}, monkeypatch)
    frames = [frame_of(i) for i in range(30)]
    plan = surveyed(made.survey(), frames)
    results = [plan.edit(frame) for frame in frames]
    assert [r.edited for r in results] == [True] * 24 + [False] * 6, "a gap of two frames is filled"
    assert all(r.frame is f for r, f in zip(results[24:], frames[24:], strict=True))
    for name in ("w_encoder", "vae_encoder", "vae_decoder", "denoiser"):
        assert still.networks[name].calls == 0
    ((x0, y0, x1, y1),) = results[5].boxes
    changed = results[5].frame.planes[0] != frames[5].planes[0]
    assert changed.any()
    changed[y0:y1, x0:x1] = False
    assert not changed.any()
    (track,) = plan.tracks
    assert (track.first_index, track.last_index, track.frames, track.chosen) == (0, 23, 22, True)


def test_the_edit_fades_where_a_face_leaves(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    made = editor(still, {"warp": 1.0}, monkeypatch)
    frames = [frame_of(i) for i in range(30)]
    plan = surveyed(made.survey(), frames)
    size = [
        np.abs(plan.edit(f).frame.planes[0].astype(int) - f.planes[0]).sum() for f in (frames[i] for i in range(24))
    ]
    assert size[0] > 0.5 * size[10], "no fade where the scene begins"
    assert size[19] > size[20] > size[21] > size[22] > size[23] > 0


def test_stream_edits_in_order_and_reports_boxes(
    still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = editor(still, {"warp": 1.0}, monkeypatch)
    frames = [frame_of(i) for i in range(30)]
    out = list(made.run(iter(frames)))
    assert [f.index for f in out] == list(range(30))
    edited = [a is not b for a, b in zip(out, frames, strict=True)]
    assert edited == [i in still.faces for i in range(30)]
    assert all(f.pts == i for i, f in enumerate(out))


def test_picture(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    made = editor(still, {"smile": 1.0}, monkeypatch)
    assert len(made.edit_picture(frame_of(3)).boxes) == 1
    empty = frame_of(29)
    assert made.edit_picture(empty).frame is empty


def test_as_many_threads_as_a_config_allows(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    many, one = (
        editor(still, {"smile": 1.0}, monkeypatch, EngineConfig(threads=threads)).edit_picture(frame_of(3)).frame
        for threads in (MAX_THREADS, 1)
    )
    assert all(np.array_equal(a, b) for a, b in zip(many.planes, one.planes, strict=True))
    assert not np.array_equal(many.planes[0], frame_of(3).planes[0])


def test_a_crop_that_the_autoencoder_does_not_take_is_refused(still: Fakes) -> None:
    image = {"image": TensorSpec((None, 3, 64, 64))}
    encoder = NetworkSpec("vae_encoder", "", "onnx", "", Architecture("a.A", {}), image, {}, {})
    plain = bundle()
    sized = replace(plain, manifest=replace(plain.manifest, networks={"vae_encoder": encoder}))

    def made(edit: str, crop_px: int | None) -> Editor:
        return Editor(sized, {edit: 1.0}, EditSpec(crop_px=crop_px), networks=still.networks)

    with pytest.raises(EditError, match="^crop_px is 72; the bundle 'test' takes 64: leave it out$"):
        made("a", 72)
    assert made("a", 64).active and made("a", None).active
    assert made("warp", 72).active, "a warp has no autoencoder"


def test_two_branches_share_noise_and_codes_add(
    still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = editor(still, {"a": 1.0, "b": -0.5}, monkeypatch, num_steps=2, seed=5)
    frames = [frame_of(i) for i in range(4)]
    plan = surveyed(made.survey(), frames)
    for frame in frames:
        plan.edit(frame)
    first, second = still.denoised[0], still.denoised[1]
    np.testing.assert_array_equal(first["timestep"], [500, 500])  # the largest t_max of the two
    np.testing.assert_array_equal(second["timestep"], [250, 250])
    np.testing.assert_array_equal(first["latents"][0], first["latents"][1])
    dw = first["w_plus"][1] - first["w_plus"][0]
    np.testing.assert_allclose(dw, 1.0 * 0.5 + -0.5 * 2.0 * -0.25, atol=1e-6)
    codes = np.stack([row["w_plus"][0] for row in still.denoised])
    assert np.ptp(codes, 0).max() == 0.0, "one code for the whole clip"
    schedule = Schedule()
    noise = [  # z_t - alpha z over sigma, alike in every frame of a step: the noise is fixed
        (row["latents"][0] - schedule.alpha(500) * _latents(still, row)) / schedule.sigma(500)
        for row in still.denoised[::2]
    ]
    for other in noise[1:]:
        np.testing.assert_allclose(other, noise[0], atol=2e-2)


def _latents(fakes: Fakes, row: dict[str, Array]) -> Array:
    """The clean latents of a still clip: the first row of any call, its noise taken away, is what the encoder said."""
    drawn = np.random.default_rng((5, 1, 0)).standard_normal((4, 8, 8)).astype(np.float32)
    schedule = Schedule()
    return np.asarray((row["latents"][0] - schedule.sigma(500) * drawn) / schedule.alpha(500))


def test_difference_reaches_the_frame(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake decoder copies latents, the fake v adds mean(w): x0 falls by sigma mean(dw), so red falls by that much."""
    made = editor(still, {"a": 1.0}, monkeypatch)
    frame = frame_of(2)
    ((x0, y0, x1, y1),) = (result := made.edit_picture(frame)).boxes
    centre = ((y0 + y1) // 2, (x0 + x1) // 2)
    fall = float(frame.planes[0][centre]) - float(result.frame.planes[0][centre])
    want = Schedule().sigma(350) * 0.5 / 2 * 219  # grey: all three channels fall by sigma dw on the [-1, 1] scale
    assert fall == pytest.approx(want, abs=1.5)


@pytest.mark.parametrize("sampler", ["lcm", "tcd", "ddim"])
def test_replace_composition(still: Fakes, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    made = editor(still, {"paint": 1.0}, monkeypatch, num_steps=2, strength=0.5, sampler=sampler)
    frame = frame_of(1)
    result = made.edit_picture(frame)
    assert result.edited and len(still.denoised) == 2
    assert all(len(row["latents"]) == 1 for row in still.denoised)
    assert still.denoised[0]["timestep"][0] == 499


def test_bank_holds_anchor_and_previous(
    face: Array, network_of: Any, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(network_of, {i: face for i in range(5)}, bank=True)
    made = editor(fakes, {"a": 1.0}, monkeypatch, num_steps=2)
    list(made.run([frame_of(i) for i in range(5)]))
    lengths = [row["bank_k_0"].shape for row in fakes.denoised]
    assert lengths == [(2, 0, 2)] * 2 + [(2, 3, 2)] * 2 + [(2, 6, 2)] * 6
    last = fakes.denoised[-1]["bank_k_0"][0, :, 0]  # second step of frame 4: the second step's of frames 0 and 3
    assert last.tolist() == [2.0] * 3 + [8.0] * 3


def test_stream_code_is_a_running_mean(
    face: Array, network_of: Any, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Fakes(network_of, {i: face for i in range(17)})
    made = editor(fakes, {"a": 1.0}, monkeypatch)
    list(made.run([frame_of(i, shift=0.01 * i) for i in range(17)]))
    assert fakes.networks["w_encoder"].calls == 3
    codes = [float(row["w_plus"][0, 0, 0]) for row in fakes.denoised]
    assert len(set(codes[:8])) == len(set(codes[8:16])) == 1 and codes[0] != codes[8] != codes[16]


def test_timing_hook(still: Fakes, frame_of: MakeFrame) -> None:
    parts: dict[str, float] = {}
    made = Editor(bundle(), {"warp": 1.0}, networks=still.networks, on_time=lambda k, s: parts.update({k: s}))
    still.answer = np.zeros((68, 2))
    still.faces = {}
    made.stream().edit(frame_of(0))
    assert {"scene", "detect", "landmarks"} <= set(parts) and min(parts.values()) >= 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_frames_under_work_at_a_time_are_the_same_in_the_same_order(
    face: Array, network_of: Any, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Codes too are those of the frame's own moment: a second one is added while frames are under work."""
    monkeypatch.setattr("mien.engine.stream.CODE_EVERY", 3)
    frames = [frame_of(i, shift=0.05 * i) for i in range(count)]
    results = []
    for config in (EngineConfig(), EngineConfig(frames_at_once=3, batch_size=4, threads=1)):
        fakes = Fakes(network_of, {i: face for i in range(count)})
        made = editor(fakes, {"a": 1.0}, monkeypatch, num_steps=2, config=config)
        results.append(list(made.run(iter(frames))))
    counts = made.gathering.counts() if made.gathering is not None else None
    assert counts is not None and counts.rows == 2 * 2 * count and counts.padded == 0
    assert [frame.index for frame in results[1]] == list(range(count))
    for one, other in zip(*results, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.planes, other.planes, strict=True))
    assert not np.array_equal(results[0][0].planes[0], frames[0].planes[0])


def test_two_streams_share_the_calls_of_their_network(
    face: Array, network_of: Any, frame_of: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two editors, a thread each, over one denoiser; each gets what it gets alone."""
    gathering, fakes = RowGathering((1, 2, 4), 10.0), [Fakes(network_of, {i: face for i in range(4)}) for _ in range(2)]
    fakes[1].networks["denoiser"] = fakes[0].networks["denoiser"]
    editors = [
        editor(one, {"a": s}, monkeypatch, gathering=gathering) for one, s in zip(fakes, (1.0, -1.0), strict=True)
    ]
    frames = [frame_of(i) for i in range(4)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda made: list(made.run(frames)), editors))
    assert gathering.counts().rows == 2 * 2 * 4 == sum(len(row["latents"]) for row in fakes[0].denoised)
    for strength, result in zip((1.0, -1.0), together, strict=True):
        alone = editor(Fakes(network_of, fakes[0].faces), {"a": strength}, monkeypatch)
        for a, b in zip(result, alone.run(frames), strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
