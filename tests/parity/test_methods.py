"""The methods over an imported miniature bundle: every one runs, streaming equals batch, same seed same result."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from mien.engine import edits as methods  # noqa: E402
from mien.engine.bundle import Bundle  # noqa: E402
from mien.engine.checkpoints.importing import import_bundle  # noqa: E402
from mien.engine.checkpoints.sources import Settings, Sources  # noqa: E402
from mien.engine.config import EngineConfig  # noqa: E402
from mien.engine.editor import Editor  # noqa: E402
from mien.engine.edits import View  # noqa: E402
from mien.engine.errors import EditError  # noqa: E402
from mien.engine.spec import EditSpec  # noqa: E402
from mien.engine.types import Array, FaceTrack, Frame  # noqa: E402
from tests import published  # noqa: E402

PX, FRAMES = 128, 4
PROMPT = EditSpec(prompt="a superhero", num_steps=2, guidance_scale=2.0)
CASES: dict[str, tuple[str, EditSpec]] = {
    "wplus": ("plain", replace(PROMPT, method="wplus", edits=(("age", 2.0),))),
    "wplus extended": ("plain", replace(PROMPT, method="wplus", edits=(("age", 2.0),), options=(("extended", 1.0),))),
    "wplus delayed": ("plain", replace(PROMPT, method="wplus", edits=(("age", 2.0),), options=(("w_delay", 0.5),))),
    "controlnet": ("plain", replace(PROMPT, method="controlnet", options=(("control", "canny"),))),
    "controlnet residual": (
        "plain",
        replace(PROMPT, method="controlnet", options=(("control", "canny"), ("residual_cfg", "self"))),
    ),
    "text2video_zero moving": (
        "plain",
        replace(PROMPT, method="text2video_zero", options=(("motion_x", 64.0), ("smooth_background", 1.0))),
    ),
    "instruct_pix2pix": ("instruct", replace(PROMPT, method="instruct_pix2pix")),
    "text2video_zero": ("plain", replace(PROMPT, method="text2video_zero")),
    "text2video_zero canny": ("plain", replace(PROMPT, method="text2video_zero", options=(("control", "canny"),))),
    "text2video_zero instruct": ("instruct", replace(PROMPT, method="text2video_zero")),
    "pix2video": ("plain", replace(PROMPT, method="pix2video")),
    "pix2video depth": ("depth", replace(PROMPT, method="pix2video")),
}
OF_REPLACE = ("controlnet residual", "text2video_zero moving")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bundle, dict[str, Any]]]:
    """Bundles by kind, each with its networks loaded."""
    root = tmp_path_factory.mktemp("published")
    settings = Settings(sampling="lcm_lora", prediction=None, crop_px=PX, licences={})
    plain = Sources(
        unet=published.write_repository(root / "sd15"),
        wplus=published.write_wplus(root),
        e4e=published.write_e4e(root),
        controlnet=published.write_controlnet(root / "controlnet"),
        directions=(published.write_directions(root / "w_direction"),),
    )
    sources = {
        "plain": plain,
        "instruct": Sources(unet=published.write_repository(root / "ip2p", in_channels=8), controlnet=plain.controlnet),
        "depth": Sources(
            unet=published.write_repository(root / "depth", in_channels=5),
            depth=published.write_depth(root / "depth.onnx"),
        ),
    }
    for kind, channels in (("lcm", 4), ("lcm instruct", 8)):
        unet = published.write_repository(root / kind, in_channels=channels, time_cond_proj_dim=32)
        sources[kind] = Sources(unet=unet, controlnet=plain.controlnet)
    config, out = EngineConfig(threads=1), {}
    for kind, parts in sources.items():
        wanted = replace(settings, sampling="lcm") if kind.startswith("lcm") else settings
        bundle = import_bundle(kind.replace(" ", "-"), parts, wanted, root / "bundles").bundle
        backends = {"onnx": "onnxruntime", "safetensors": "torch"}
        out[kind] = (
            bundle,
            {name: bundle.load(name, backends[spec.format], config) for name, spec in bundle.networks.items()},
        )
    return out


def views(count: int = FRAMES) -> list[View]:
    """A picture that moves."""
    rng = np.random.default_rng(3)
    wide: Array = rng.uniform(-1, 1, (3, 12, 12)).astype(np.float32).repeat(16, 1).repeat(16, 2)
    mask: Array = np.zeros((PX, PX), np.float32)
    mask[16:-16, 16:-16] = 1.0
    points = rng.uniform(40, 90, (68, 2))
    return [View(np.ascontiguousarray(wide[:, 4 * i : 4 * i + PX, :PX]), mask, points) for i in range(count)]


def bound(case: str, bundles: Any, **changes: Any) -> Any:
    kind, spec = CASES[case]
    bundle, networks = bundles[kind]
    spec = replace(spec, **changes)
    method = methods.load(spec.method)
    wanted = (*method.networks(spec, bundle.manifest), "parser")
    return method(spec, bundle, {name: networks[name] for name in wanted})


def run(method: Any, frames: list[View], track: FaceTrack | None = None) -> list[Array]:
    """What each frame gets: the new crop, or the difference."""
    track = track or FaceTrack(7)
    if method.wants_code() and not track.w_count:
        method.encode(track, frames[0].crop)
    out = []
    for view in frames:
        answer = method.finish(track, view)
        picture = answer.difference if answer.difference is not None else answer.cover[0]
        assert picture.shape == (3, PX, PX) and np.isfinite(picture).all()
        out.append(picture)
    return out


@pytest.mark.parametrize(
    ("case", "composition"),
    [(case, c) for case in CASES for c in ("replace", "delta") if c == "replace" or case not in OF_REPLACE],
)
def test_every_method_runs_and_depends_on_the_seed_alone(case: str, composition: str, bundles: Any) -> None:
    first = run(bound(case, bundles, composition=composition), views(3))
    again = run(bound(case, bundles, composition=composition), views(3))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    other = run(bound(case, bundles, composition=composition, seed=1), views(3))
    assert max(np.abs(a - b).max() for a, b in zip(first, other, strict=True)) > 1e-3
    prompted = run(bound(case, bundles, composition=composition, prompt="a robot"), views(3))
    assert max(np.abs(a - b).max() for a, b in zip(first, prompted, strict=True)) > 1e-4, "the prompt is read"


@pytest.mark.parametrize("case", list(CASES))
def test_a_clip_in_pieces_is_the_clip(case: str, bundles: Any) -> None:
    frames = views()
    whole, track, pieces = run(bound(case, bundles), frames), FaceTrack(7), list[Array]()
    method = bound(case, bundles)
    if method.wants_code():
        method.encode(track, frames[0].crop)
    for part in (frames[:1], frames[1:3], frames[3:]):
        pieces += run(method, part, track)
    assert len(pieces) == len(whole) == FRAMES
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "extended" not in c and "pix2video" not in c[:9] and "moving" not in c]
)
def test_frames_know_of_the_first_frame_at_most(case: str, bundles: Any) -> None:
    """Frame by frame equals any chunks that begin with the first: what lies between leaves no trace."""
    frames = views()
    whole, skipped = run(bound(case, bundles), frames), run(bound(case, bundles), [frames[0], frames[3]])
    np.testing.assert_allclose(whole[3], skipped[1], rtol=1e-4, atol=1e-5)


def test_the_first_and_the_previous_frame_are_seen(bundles: Any) -> None:
    frames = views()
    for case in ("pix2video", "wplus extended"):
        whole = run(bound(case, bundles), frames)
        without_first = run(bound(case, bundles), frames[1:])
        without_previous = run(bound(case, bundles), [frames[0], frames[1], frames[3]])
        assert np.abs(whole[3] - without_first[2]).max() > 1e-4, case
        assert np.abs(whole[3] - without_previous[2]).max() > 1e-4, case
    anchored = run(bound("text2video_zero", bundles), frames)
    assert np.abs(anchored[3] - run(bound("text2video_zero", bundles), frames[1:])[2]).max() > 1e-4


def test_a_frame_like_the_last_one_takes_its_answer(bundles: Any) -> None:
    frames = views(1) * 3
    options = (("control", "canny"), ("similarity", 0.9))
    method, seen = bound("controlnet", bundles, options=options), list[int]()
    predict = method.model.predict
    method.model.predict = lambda *args: (seen.append(1), predict(*args))[1]
    pictures = run(method, frames)
    assert len(seen) == 2, "two steps of one frame"
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])
    run(method, views(2), FaceTrack(8))
    assert len(seen) == 6, "another picture is made anew"


def test_residual_guidance_costs_a_row_less(bundles: Any) -> None:
    for kind, rows in (("none", [2, 2]), ("self", [1, 1]), ("initialize", [1, 1, 1])):
        method = bound("controlnet", bundles, options=(("control", "canny"), ("residual_cfg", kind)))
        seen, predict = list[int](), method.model.predict
        method.model.predict = lambda x, *args, seen=seen, predict=predict: (seen.append(len(x)), predict(x, *args))[1]
        run(method, views(1))
        assert seen == rows, kind


@pytest.mark.parametrize(
    ("case", "kind", "told"),
    [
        ("controlnet", "lcm", {"replace": [7.0], "delta": [0.0, 7.0]}),
        ("pix2video", "lcm", {"replace": [7.0], "delta": [0.0, 7.0]}),
        ("text2video_zero", "lcm", {"replace": [7.0], "delta": [0.0, 7.0]}),
        ("instruct_pix2pix", "lcm instruct", {"replace": [0.0, 0.0, 7.0], "delta": [0.0, 0.0, 0.0, 7.0]}),
        ("text2video_zero instruct", "lcm instruct", {"replace": [0.0, 0.0, 7.0], "delta": [0.0, 0.0, 0.0, 7.0]}),
    ],
)
def test_a_whole_lcm_unet_is_guided_once(case: str, kind: str, told: dict[str, list[float]], bundles: Any) -> None:
    """It is told the guidance of the prompted row, and no row without a prompt is run and mixed in beside it."""
    bundle, networks = bundles[kind]
    seen: list[list[float]] = []

    class Unet:
        def __getattr__(self, name: str) -> Any:
            return getattr(networks["unet"], name)

        def __call__(self, **inputs: Array) -> Any:
            seen.append(inputs["guidance"].tolist())
            assert len(inputs["latents"]) == len(seen[-1])
            return networks["unet"](**inputs)

    for composition, rows in told.items():
        spec = replace(CASES[case][1], guidance_scale=8.0, composition=composition)
        method = methods.load(spec.method)(spec, bundle, {**networks, "unet": Unet()})
        seen.clear()
        run(method, views(1))
        assert seen == [rows, rows], composition
        assert list(method.recipe.edited.values())[-1] == 1.0, "the prompted row is not weighted once more"


def test_the_guided_update_pulls_a_frame_towards_the_one_before(bundles: Any) -> None:
    frames = views(2)
    options = {"strength": 0.9, "num_steps": 4}
    with_it = run(bound("pix2video", bundles, **options), frames)
    without = run(bound("pix2video", bundles, options=(("guided_update", 0.0),), **options), frames)
    np.testing.assert_allclose(with_it[0], without[0], atol=1e-6)
    assert np.abs(with_it[1] - without[1]).max() > 1e-4


@pytest.mark.parametrize("case", list(CASES))
def test_strength_0_and_missing_networks(case: str, bundles: Any) -> None:
    kind, spec = CASES[case]
    bundle, _ = bundles[kind]
    editor = Editor(bundle, spec=replace(spec, strength=0.0))
    assert not editor.active
    y, u, v = (np.zeros((side, side), np.uint8) for side in (64, 32, 32))
    frame = Frame((y, u, v), "yuv420p", "bt601", "limited", 0, 0, Fraction(1, 30))
    assert next(iter(editor.run([frame]))) is frame
    with pytest.raises(EditError, match="needs the network|reads no prompts"):
        methods.load(spec.method).networks(spec, Bundle.open("tiny").manifest)


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("instruct_pix2pix", "plain", r"UNet of 8 channels \(InstructPix2Pix\), .* 'plain' reads 4 \(text-to-image\)"),
        ("controlnet", "instruct", r"UNet of 4 channels \(text-to-image\), .* reads 8 \(InstructPix2Pix\): import"),
        ("pix2video", "instruct", r"4 channels \(text-to-image\) or 5 channels \(depth\), .* reads 8"),
        (
            "text2video_zero",
            "depth",
            r"4 channels \(text-to-image\) or 8 channels \(InstructPix2Pix\), .* reads 5 \(depth\)",
        ),
        ("wplus", "depth", r"UNet of 4 channels \(text-to-image\), .* reads 5"),
    ],
)
def test_a_unet_of_other_channels_is_refused_before_anything_is_loaded(
    method: str, kind: str, words: str, bundles: Any
) -> None:
    spec = EditSpec(method=method, prompt="a superhero")
    with pytest.raises(EditError, match=rf"method '{method}' needs a .*{words}"):
        methods.load(method).networks(spec, bundles[kind][0].manifest)


NO_USE: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "residual of an instruction": ("instruct_pix2pix", "instruct", {"residual_cfg": "self"}, "are none, image, image_text"),
    "residual over that UNet": ("text2video_zero", "instruct", {"residual_cfg": "initialize"}, "are none, image, image_text"),
    "residual without guidance": (
        "controlnet", "plain", {"residual_cfg": "self", "guidance_scale": 1.0}, "are text: .* or give a --guidance-scale",
    ),
    "residual of a difference": ("pix2video", "plain", {"residual_cfg": "self", "composition": "delta"}, "composition replace"),
    "motion of a difference": ("text2video_zero", "plain", {"motion_x": 9.0, "composition": "delta"}, "'motion_x' .* replace"),
    "smoothing of a difference": (
        "text2video_zero", "plain", {"smooth_background": 1.0, "motion_y": 0.0, "composition": "delta"}, "--composition replace",
    ),
    "smoothing without motion": ("text2video_zero", "plain", {"smooth_background": 1.0}, "belongs to motion_x and motion_y"),
    "update of a difference": ("pix2video", "plain", {"guided_update": 0.0, "composition": "delta"}, "composition replace"),
    "source prompt of a replacement": ("controlnet", "plain", {"source_prompt": "a man"}, "--composition delta"),
    "conditioning of nothing": ("text2video_zero", "plain", {"conditioning_scale": 0.5}, "belongs to control"),
    "picture's guidance": ("text2video_zero", "plain", {"image_guidance_scale": 2.0}, "an InstructPix2Pix UNet"),
    "source prompt of instructions": (
        "text2video_zero", "instruct", {"source_prompt": "a man", "composition": "delta"}, "a text-to-image UNet",
    ),
    "sampler": ("controlnet", "plain", {"sampler": "ddim"}, "see mien models import --sampling"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(NO_USE))
def test_what_would_do_nothing_is_refused(case: str, bundles: Any) -> None:
    name, kind, given, words = NO_USE[case]
    settings = {key: given[key] for key in ("composition", "guidance_scale", "sampler") if key in given}
    options = tuple((key, value) for key, value in given.items() if key not in settings)
    spec = replace(PROMPT, method=name, options=options, **settings)
    with pytest.raises(EditError, match=words):
        methods.load(name).networks(spec, bundles[kind][0].manifest)


def test_motion_needs_two_steps(bundles: Any) -> None:
    with pytest.raises(EditError, match="motion_x and motion_y need two steps at least"):
        bound("text2video_zero moving", bundles, num_steps=1)


def test_a_prompt_that_is_too_long_is_refused_with_the_words_that_are_lost(bundles: Any) -> None:
    fits = " ".join(["face"] * 75)
    bound("controlnet", bundles, prompt=fits)
    for field in ("prompt", "negative_prompt"):
        with pytest.raises(EditError, match="of the 77 tokens .* no longer fit: 'of a photo'; shorten it"):
            bound("controlnet", bundles, **{field: f"{fits} of a photo"})


def test_the_conditioning_scale_counts_under_instructions_too(bundles: Any) -> None:
    frames, changes = views(1), {"method": "text2video_zero", "composition": "replace"}
    pictures = [
        run(
            bound("instruct_pix2pix", bundles, options=(("control", "canny"), ("conditioning_scale", s)), **changes),
            frames,
        )
        for s in (0.0, 1.0)
    ]
    assert np.abs(pictures[0][0] - pictures[1][0]).max() > 1e-4


def test_the_timestep_stays_exact_in_half_precision(bundles: Any) -> None:
    """In bfloat16 999 is 1000, and so would the answers be."""
    bundle, networks = bundles["depth"]
    inputs = networks["context"](text=np.ones((1, 77, published.WIDTH), np.float32))
    inputs = {name: value for name, value in inputs.items() if name in bundle.networks["unet"].inputs}
    inputs |= {
        key: np.zeros((1, 0, s.shape[2]), np.float32)
        for key, s in bundle.networks["unet"].inputs.items()
        if "bank" in key
    }
    inputs |= {"latents": np.ones((1, 5, 16, 16), np.float32), "own_weight": np.ones(1, np.float32)}
    unet = bundle.load("unet", "torch", EngineConfig(threads=1, precision="bfloat16"))
    answers = [unet(**inputs, timestep=np.full(1, t, np.float32))["prediction"] for t in (999, 1000)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_the_edit_of_a_code_moves_the_picture(bundles: Any) -> None:
    frames = views(1)
    pictures = [run(bound("wplus", bundles, edits=(("age", s),)), frames)[0] for s in (0.5, 2.0)]
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-4
    delayed = run(bound("wplus delayed", bundles), frames)[0]
    assert np.abs(delayed - run(bound("wplus", bundles), frames)[0]).max() > 1e-5
