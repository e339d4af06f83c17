"""The shipped bundle on the repository's own clip, from the command line to the planes; needs nothing but the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.spec import EditSpec
from mien.engine.types import Array, Frame
from mien.runtime.app import run
from mien.runtime.source import VideoReader

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
FRAMES = 12
PART = ("--from", "1.0", "--to", "1.4")  # FRAMES of them at 30 a second
FACE = (slice(100, 680), slice(360, 920))  # of the clip's pixels: the head and its surroundings


@dataclass(frozen=True)
class Done:
    """A lossless edit of a part of the clip, and that part."""

    before: list[Frame]
    after: list[Frame]
    out: Path
    report: dict[str, Any]


def read(path: Path, start_s: float | None = None, stop_s: float | None = None) -> list[Frame]:
    with VideoReader(path, start_s, stop_s) as reader:
        return list(reader)


@pytest.fixture(scope="module")
def smile(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("smile")
    out, report = folder / "out.mkv", folder / "report.json"
    words = ["edit", str(CLIP), str(out), *PART, "--edit", "smile=1", "--codec", "ffv1", "--report", str(report)]
    assert run(words) == 0
    return Done(read(CLIP, 1.0, 1.4), read(out), out, json.loads(report.read_text()))


def test_the_face_is_found_and_edited_in_every_frame(smile: Done) -> None:
    report = smile.report
    assert (report["frames_in"], report["frames_out"], report["frames_edited"]) == (FRAMES, FRAMES, FRAMES)
    assert (report["tracks"], report["frames_failed"], report["frames_dropped"]) == (1, 0, 0)
    assert [box[0] for box in report["paste_boxes"]] == list(range(FRAMES))
    for before, after, (_, x0, y0, x1, y1) in zip(smile.before, smile.after, report["paste_boxes"], strict=True):
        change = np.abs(after.planes[0].astype(int) - before.planes[0])[y0:y1, x0:x1]
        assert change.max() > 12 and (change > 3).mean() > 0.005


def test_outside_the_boxes_every_sample_is_the_sources(smile: Done) -> None:
    for before, after, (_, x0, y0, x1, y1) in zip(smile.before, smile.after, smile.report["paste_boxes"], strict=True):
        assert x0 % 2 == y0 % 2 == x1 % 2 == y1 % 2 == 0 and (x1 - x0) * (y1 - y0) < 0.7 * 1280 * 720
        for a, b, half in zip(before.planes, after.planes, (1, 2, 2), strict=True):
            changed = a != b
            changed[y0 // half : y1 // half, x0 // half : x1 // half] = False
            assert not changed.any()


def test_times_and_sound_are_the_sources(smile: Done, packets_by_stream: Callable[[Path], list[list[bytes]]]) -> None:
    origin = smile.before[0].pts * smile.before[0].time_base - smile.after[0].pts * smile.after[0].time_base
    for before, after in zip(smile.before, smile.after, strict=True):
        shift = before.pts * before.time_base - after.pts * after.time_base - origin
        assert abs(shift) <= after.time_base, "one shift for all, to a tick"
        assert abs(before.duration * before.time_base - after.duration * after.time_base) <= after.time_base
    (whole,), (part,) = packets_by_stream(CLIP), packets_by_stream(smile.out)
    first = whole.index(part[0])
    assert part == whole[first : first + len(part)], "the sound of the part, packet by packet"
    with av.open(str(CLIP)) as clip:
        seconds = 1024 / clip.streams.audio[0].rate
    assert FRAMES / 30 <= len(part) * seconds <= FRAMES / 30 + 2 * seconds


def test_the_report_says_everything(smile: Done) -> None:
    report = smile.report
    assert report["input"] == str(CLIP) and report["output"] == str(smile.out)
    assert (report["backend"], report["device"], report["passes"]) == ("onnxruntime", "cpu", 2)
    assert report["bundle"]["name"] == "tiny" and len(report["bundle"]["sha256"]) == 64
    assert report["settings"]["edits"] == {"smile": 1.0} and report["settings"]["codec"] == "ffv1"
    assert {"decode", "analyse", "edit", "encode"} <= set(report["stages"])
    assert {"p50", "p95", "p99"} == set(report["latency_ms"])
    assert report["fps"] > 0 and report["wall_s"] > 0 and report["peak_rss_bytes"] < 3e9
    assert {"python", "mien", "numpy", "av", "onnxruntime"} <= set(report["versions"])


def test_strength_0_is_the_clip(tmp_path: Path, packets_by_stream: Callable[[Path], list[list[bytes]]]) -> None:
    out = tmp_path / "out.mkv"
    assert run(["edit", str(CLIP), str(out), "--edit", "smile=0", "--codec", "ffv1"]) == 0
    with VideoReader(CLIP) as before, VideoReader(out) as after:
        for a, b in zip(before, after, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
    assert packets_by_stream(CLIP) == packets_by_stream(out)


@pytest.fixture(scope="module")
def few() -> list[Frame]:
    return read(CLIP, 1.0, 1.2)


def streamed(frames: list[Frame], seed: int = 0) -> list[Frame]:
    return list(Editor(edits={"smile": 1.0}, spec=EditSpec(seed=seed)).run(iter(frames)))


def test_a_stream_gives_a_frame_for_a_frame_and_the_same_every_time(few: list[Frame]) -> None:
    once, again, other = streamed(few), streamed(few), streamed(few, seed=1)
    assert [(f.pts, f.index) for f in once] == [(f.pts, f.index) for f in few]
    assert sum(a is not b for a, b in zip(few, once, strict=True)) >= len(few) - 2, "found at once, or nearly"
    for a, b in zip(once, again, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
    assert any(not np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(once, other, strict=True))


def inputs(name: str, frame: Frame) -> dict[str, Array]:
    """What each network is asked in practice, from a frame of the clip; two rows where it takes several."""
    rng = np.random.default_rng(0)
    face = frame.planes[0][FACE].astype(np.float32) / 255

    def picture(side: int) -> Array:
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA) * 2 - 1
        return np.stack([small, 0.9 * small, 0.8 * small])[None].repeat(2, 0)

    if name == "detector":
        small = cv2.resize(frame.planes[0], (320, 192), interpolation=cv2.INTER_AREA)
        return {"luma": small[None, None].astype(np.float32) / 255}
    manifest = Bundle.open("tiny").manifest
    channels = manifest.latent_channels
    if name == "vae_decoder":
        return {"latents": rng.standard_normal((2, channels, 13, 20), np.float32)}
    if name == "difference_decoder":
        z, change = rng.standard_normal((2, 2, channels, 16, 12), np.float32)
        return {"source": z, "edited": z + 0.2 * change, "image": np.ascontiguousarray(picture(128)[..., :96])}
    if name not in ("denoiser", "difference"):
        return {"image": picture(256 if name == "vae_encoder" else 128)}
    known = {"timestep": np.array([350, 350], np.float32), "w_scale": np.ones(2, np.float32)}
    arrays: dict[str, Array] = {}
    for key, tensor in manifest.networks[name].inputs.items():  # the batch is 2, a bank's length 96
        shape = (2, *(96 if side is None else side for side in tensor.shape[1:]))
        arrays[key] = known[key] if key in known else rng.standard_normal(shape, np.float32)
    return arrays


@pytest.mark.parametrize("name", sorted(Bundle.open("tiny").networks))
def test_the_backends_agree(name: str, few: list[Frame]) -> None:
    pytest.importorskip("torch", reason="the definition of the networks is in torch")
    bundle, config = Bundle.open("tiny"), EngineConfig(threads=1, precision="float32")
    arrays = inputs(name, few[0])
    want, got = (bundle.load(name, backend, config)(**arrays) for backend in ("torch", "onnxruntime"))
    for key, value in want.items():
        largest = float(np.abs(value).max())
        assert largest > 1e-3, "an answer of nothing would prove nothing"
        np.testing.assert_allclose(got[key], value, rtol=0, atol=2e-5 * largest, err_msg=key)  # measured: up to 1.3e-6


def test_int8_is_float32_within_a_tenth_of_a_grey_level(few: list[Frame]) -> None:
    bundle = Bundle.open("tiny")
    assert [name for name, spec in bundle.networks.items() if spec.int8] == ["vae_encoder"]
    exact, fast = (EngineConfig(threads=1, precision=precision) for precision in ("float32", "auto"))
    arrays = inputs("vae_encoder", few[0])
    want, got = (bundle.load("vae_encoder", "onnxruntime", c)(**arrays)["latents"] for c in (exact, fast))
    assert 0 < rms(got - want) < 0.02 * rms(want)  # measured: 0.010
    decoder = bundle.load("vae_decoder", "onnxruntime", exact)
    change = np.zeros_like(want)
    change[..., 8:14, 6:26] = -0.5  # as an edit changes a part
    pictures = [decoder(latents=z)["image"] for z in (want + change, want, got + change, got)]
    difference, rounded = pictures[0] - pictures[1], pictures[2] - pictures[3]
    assert rms(difference) > 0.02 and rms(rounded - difference) < 0.1 / 127.5


def rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_what_is_not_decoded_would_not_show(few: list[Frame]) -> None:
    results: list[Frame] = []
    for whole in (0.0, 1.0):
        spec = EditSpec(edits=(("smile", 1.0),), options=(("whole", whole),))
        config = EngineConfig(threads=1, precision="float32")
        results.append(Editor("tiny", spec=spec, config=config).edit_picture(few[0]).frame)
    for part, all_of_it, source in zip(*(result.planes for result in results), few[0].planes, strict=True):
        change = np.abs(part.astype(int) - all_of_it)
        assert change.max() <= 1 and change.mean() < 0.05 * np.abs(all_of_it.astype(int) - source).mean()
