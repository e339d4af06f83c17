"""Which encoder is taken and how it is told: against what FFmpeg's encoders declare, with NVENC that opens, and that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest

from mien.engine.errors import MediaError, UnavailableError
from mien.runtime.encoders import (
    ENCODERS,
    NVENC,
    NVENC_FORMATS,
    NVENC_PRESETS,
    PRESETS,
    Choice,
    Codec,
    Encoder,
    Encoding,
    choose_encoder,
    cpu_encoder,
    nvenc_encoder,
    open_encoder,
    why_no_nvenc,
)
from mien.runtime.planes import video_frame
from mien.runtime.sink import VideoWriter
from mien.runtime.source import VideoReader

declares_options = pytest.mark.skipif(
    not hasattr(av.CodecContext, "supported_options"), reason="this PyAV does not tell the options of an encoder"
)


def opens(encoder: Encoder, width: int, height: int) -> str | None:
    return None


def is_closed(encoder: Encoder, width: int, height: int) -> str | None:
    return "No capable devices found"


def never(encoder: Encoder, width: int, height: int) -> str | None:
    raise AssertionError("nothing is opened for this")


def all_of_nvenc() -> Iterator[Encoder]:
    crfs, formats, either = (0, 1, 18, 51), NVENC_FORMATS, (False, True)
    for codec, crf, preset, pixel_format, reorders, is_live in product(NVENC, crfs, PRESETS, formats, either, either):
        if (codec, pixel_format) != ("h264", "yuv420p10le"):
            asked = Encoding(codec, crf, preset, "nvenc", "cuda:1")
            yield nvenc_encoder(asked, pixel_format, reorders=reorders, is_live=is_live)


@declares_options
def test_nvenc_knows_every_option_that_it_is_told() -> None:
    declared: dict[str, dict[str, Any]] = {}
    for name in NVENC.values():
        found = av.CodecContext.create(name, "w").supported_options
        declared[name] = {option.name: option for option in [*found.generic, *found.private]}
    told = set()
    for encoder in all_of_nvenc():
        for key, value in encoder.options.items():
            option = declared[encoder.name][key]
            choices = [choice.name for choice in option.choices]
            is_number = value.isdigit() and option.min <= float(value) <= option.max
            assert is_number if value.isdigit() else value in choices, (encoder, key)
            told.add(key)
        assert encoder.pixel_format in [f.name for f in av.codec.Codec(encoder.name, "w").video_formats or ()]
    assert told == {"preset", "tune", "rc", "cq", "profile", "bf", "delay", "zerolatency", "gpu"}


@declares_options
def test_presets_are_those_of_ffmpegs_words() -> None:
    (preset,) = (o for o in av.CodecContext.create("h264_nvenc", "w").supported_options.private if o.name == "preset")
    words = {choice.name: choice.help for choice in preset.choices}
    for name in ("faster", "fast", "medium", "slow", "slower"):
        assert words[NVENC_PRESETS[name]].split()[0] == name
    assert "fastest" in words[NVENC_PRESETS["ultrafast"]] and "slowest" in words[NVENC_PRESETS["placebo"]]
    assert list(NVENC_PRESETS.values()) == sorted(NVENC_PRESETS.values())


def test_nvenc_is_told_what_was_asked_for() -> None:
    plain = nvenc_encoder(Encoding("h264", 23, "medium", device="cuda"), "yuv420p", reorders=False)
    assert plain == Encoder(
        "h264_nvenc",
        "yuv420p",
        {"preset": "p4", "rc": "vbr", "cq": "23", "tune": "hq", "profile": "high", "bf": "0", "gpu": "0"},
    )
    assert "bf" not in nvenc_encoder(Encoding(), "yuv420p").options, (
        "B-frames are its own choice where they are welcome"
    )
    assert "gpu" not in nvenc_encoder(Encoding(), "yuv420p").options, "whichever has NVENC"
    lossless = nvenc_encoder(Encoding(crf=0), "yuv420p").options
    assert lossless == {"preset": "p1", "tune": "lossless"}, "its constant quality of 0 means any"
    deep = nvenc_encoder(Encoding("hevc"), "yuv420p10le")
    assert (deep.pixel_format, deep.options["profile"]) == ("p010le", "main10")
    for codec, pixel_format in (("h264", "yuv420p10le"), ("ffv1", "yuv420p"), ("hevc", "yuv422p")):
        with pytest.raises(MediaError, match=f"does not take {pixel_format} in {codec}"):
            nvenc_encoder(Encoding(codec), pixel_format)


def test_the_cpu_is_told_what_it_always_was() -> None:
    asked, hevc = Encoding("h264", 20, "fast"), Encoding("hevc", 20, "fast")
    assert cpu_encoder(asked, "yuv420p") == Encoder("libx264", "yuv420p", {"crf": "20", "preset": "fast"})
    assert cpu_encoder(asked, "yuv420p", reorders=False).options == {"crf": "20", "preset": "fast", "bf": "0"}
    plain = {"crf": "20", "preset": "fast", "x265-params": "log-level=none"}
    assert cpu_encoder(hevc, "yuv420p").options == plain
    assert cpu_encoder(hevc, "yuv420p", reorders=False).options == plain | {"x265-params": "log-level=none:bframes=0"}
    for reorders in (False, True):
        ffv1 = cpu_encoder(Encoding("ffv1"), "yuv420p10le", reorders=reorders)
        assert ffv1 == Encoder("ffv1", "yuv420p10le", {"level": "3", "slicecrc": "1"})


def test_nothing_is_opened_on_a_run_of_the_cpu() -> None:
    for codec, choice in product(ENCODERS, ("auto", "cpu")):
        chosen = choose_encoder(Encoding(codec, encoder=choice), 64, 64, "yuv420p", probe=never)  # type: ignore[arg-type]
        assert chosen == cpu_encoder(Encoding(codec), "yuv420p")
    for asked in (Encoding(encoder="cpu", device="cuda"), Encoding("ffv1", device="cuda")):
        assert choose_encoder(asked, 64, 64, "yuv420p", probe=never).note is None


@pytest.mark.parametrize(
    ("asked", "pixel_format", "note"),
    [
        (
            Encoding("h264", device="cuda:0"),
            "yuv420p",
            "NVENC did not open for h264 of 1280x720 yuv420p (No capable devices found), libx264 encoded",
        ),
        (
            Encoding("hevc", device="cuda:0"),
            "yuv420p10le",
            "NVENC did not open for hevc of 1280x720 yuv420p10le (No capable devices found), libx265 encoded",
        ),
        (
            Encoding("h264", device="cuda:0"),
            "yuv420p10le",
            "NVENC does not take yuv420p10le in h264, libx264 encoded",
        ),
    ],
)
def test_auto_says_why_the_cpu_encoded(asked: Encoding, pixel_format: str, note: str) -> None:
    chosen = choose_encoder(asked, 1280, 720, pixel_format, probe=is_closed)
    assert (chosen.name, chosen.note) == (ENCODERS[asked.codec], note)
    assert chosen.options == cpu_encoder(asked, pixel_format).options


@pytest.mark.parametrize("choice", ["auto", "nvenc"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_nvenc_is_taken_where_it_opens(codec: Codec, choice: Choice) -> None:
    seen = []

    def probe(encoder: Encoder, width: int, height: int) -> str | None:
        seen.append((encoder, width, height))
        return None

    asked = Encoding(codec, encoder=choice, device="cuda:2")
    chosen = choose_encoder(asked, 1280, 720, "yuv420p", reorders=False, probe=probe)
    assert chosen == nvenc_encoder(asked, "yuv420p", reorders=False) and chosen.note is None
    assert seen == [(chosen, 1280, 720)], "the very encoder is tried, at the very size"


def test_nvenc_that_is_demanded_and_missing_is_an_error() -> None:
    with pytest.raises(UnavailableError, match=r"h264 of 64x64 yuv420p: No capable devices found: use --encoder cpu"):
        choose_encoder(Encoding(encoder="nvenc"), 64, 64, "yuv420p", probe=is_closed)
    with pytest.raises(MediaError, match="10le in h264: use --codec hevc, or --encoder cpu"):
        choose_encoder(Encoding(encoder="nvenc"), 64, 64, "yuv420p10le", probe=opens)
    for asked, words in (
        (Encoding("ffv1", encoder="nvenc"), "NVENC has no ffv1: use h264 or hevc"),
        (Encoding(encoder="gpu"), "unknown encoder gpu"),  # type: ignore[arg-type]
    ):
        with pytest.raises(MediaError, match=words):
            asked.check()


def test_a_probe_tells_the_reason_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    assert why_no_nvenc(cpu_encoder(Encoding(), "yuv420p"), 64, 64) is None
    nothing = Encoder("h264_of_nobody", "yuv420p")
    assert why_no_nvenc(nothing, 64, 64) == "this FFmpeg has no h264_of_nobody"
    wrong = Encoder("ffv1", "yuv420p", {"coder": "warp"})
    reasons = [why_no_nvenc(wrong, 64, 64) for _ in range(2)]
    assert reasons[0] is not None and "warp" in reasons[0] and "\n" not in reasons[0]
    assert reasons[0] == reasons[1], "a repeated line is not kept back"
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_live_encoder_gives_each_packet_at_once(codec: Codec) -> None:
    encoder = cpu_encoder(Encoding(codec, preset="ultrafast"), "nv12" if codec == "h264" else "yuv420p", is_live=True)
    context = open_encoder(encoder, 96, 64, Fraction(30))
    for number in range(6):
        frame = av.VideoFrame(96, 64, encoder.pixel_format)
        frame.pts = number
        assert [packet.pts for packet in context.encode(frame)] == [number]


def test_p010_is_the_same_codes_in_other_places() -> None:
    """Against FFmpeg's own repacking, and back; widths whose rows are padded."""
    rng = np.random.default_rng(0)
    for width, height in ((64, 32), (98, 66)):
        sizes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]
        y, u, v = (rng.integers(0, 1024, size).astype(np.uint16) for size in sizes)
        ours = video_frame((y, u, v), "p010le")
        theirs = video_frame((y, u, v), "yuv420p10le").reformat(format="p010le")
        for a, b in zip(ours.planes, theirs.planes, strict=True):
            samples = [np.frombuffer(p, np.uint16).reshape(p.height, -1)[:, :width] for p in (a, b)]
            np.testing.assert_array_equal(*samples)
        pairs = np.frombuffer(ours.planes[1], np.uint16).reshape(height // 2, -1)[:, :width]
        np.testing.assert_array_equal(pairs[:, 0::2] >> 6, u)
        np.testing.assert_array_equal(pairs[:, 1::2] >> 6, v)


@pytest.fixture
def no_nvenc() -> str:
    """Why NVENC does not open here; a machine where it does is none for the test."""
    why = why_no_nvenc(nvenc_encoder(Encoding(), "yuv420p"), 640, 480)
    if why is None:
        pytest.skip("NVENC opens here")
    return why


def test_a_writer_without_nvenc_writes_the_cpus_file_and_says_so(
    make_clip: Callable[..., Path], tmp_path: Path, no_nvenc: str
) -> None:
    path, told = make_clip("in.mp4"), {}
    for name, more in {"plain": {}, "cpu": {"encoder": "cpu"}, "gpu": {"device": "cuda:0"}}.items():
        out = tmp_path / f"{name}.mp4"
        with VideoReader(path) as reader, VideoWriter(out, reader, preset="ultrafast", threads=1, **more) as writer:  # type: ignore[arg-type]
            for frame in reader:
                writer.write(frame)
        told[name] = (writer.encoder.name, writer.notes)
    assert told["plain"] == told["cpu"] == ("libx264", [])
    name, (note,) = told["gpu"]
    assert name == "libx264" and note.startswith("NVENC did not open for h264 of 96x64") and no_nvenc in note
    assert len({(tmp_path / f"{name}.mp4").read_bytes() for name in told}) == 1
    with VideoReader(path) as reader, pytest.raises(UnavailableError, match="NVENC does not open") as caught:
        VideoWriter(tmp_path / "no.mp4", reader, encoder="nvenc")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cpu.mp4", "gpu.mp4", "in.mp4", "plain.mp4"]
