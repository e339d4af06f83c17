"""Render the sample clip: a made-up person who talks, blinks and turns her head, with a synthesised voice.

    python -m mien.export.sample_clip ict_facekit_f16.npz examples/sample.mp4

Everything is drawn or computed here (export/render, export/sample_speech.py) from a seed; nobody real is seen or heard.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from mien.export.render.body import room
from mien.export.render.hair import HairStyle
from mien.export.render.model import Pose
from mien.export.render.paint import Complexion
from mien.export.render.person import Act, Person, Studio
from mien.export.render.picture import portrait, render
from mien.export.render.shade import Light
from mien.export.sample_speech import mouth, speak, voice

SIZE = (720, 1280)
Floats = NDArray[np.float32]
RATE, FRAMES, AUDIO_RATE, SEED = 30, 140, 48000, 11
PACE = 0.098  # seconds of a full vowel
# "Hello. Nobody you see here is real. Each frame was drawn by a program."
TEXT = "h eh l ow - n ow b ah d iy y uw s iy h ih r ih z r iy l - iy ch f r ey m w ah z d r ao n b aa iy ah p r ow g r ae m"
_BLINKS = (0.75, 2.25, 3.05, 4.3)  # seconds


def acts(count: int) -> list[Act]:
    """What the person does in each of the first `count` frames."""
    at = np.arange(count) / RATE
    shapes = mouth(speak(TEXT, PACE, SEED), at)
    seconds = FRAMES / RATE
    keys = np.linspace(0, seconds, 8)
    yaw = _glide(at, keys, [1, -3, -13, -8, 6, 14, 6, -1])
    pitch = _glide(at, keys, [0, 2, -2, 3, 0, 3, -1, 1]) + 0.8 * np.sin(at * 9.1) * np.sin(at * 2.3)
    roll = _glide(at, keys, [0, 1, 3, 1, -2, -4, -1, 0])
    look = np.interp(at, [0, 1.0, 1.06, 1.7, 1.76, 3.3, 3.36, 9], [0, 0, -5, -5, 1, 1, 6, 0])
    lift = np.interp(at, [0, 0.3, 0.6, 2.4, 2.7, 3.2, 9], [0, 0.25, 0.05, 0.05, 0.3, 0.05, 0.05])
    blink = np.zeros(count)
    for moment in _BLINKS:
        after = at - moment
        blink = np.maximum(
            blink, np.where(after < 0, np.exp(-np.square(after / 0.035)), np.exp(-np.square(after / 0.07)))
        )
    out = []
    for i, shape in enumerate(shapes):
        expression = dict(shape)
        expression["eyeBlink"] = float(np.clip(1.05 * blink[i], 0, 1))
        expression["eyeWide"] = 0.22 * (1 - expression["eyeBlink"])
        expression["browInnerUp"], expression["browOuterUp"] = 0.25 * float(lift[i]), float(lift[i])
        expression["browDown"] = 0.3
        expression["mouthSmile"] = 0.06
        gaze = (float(-0.75 * yaw[i] + look[i]), float(2.0 + 0.5 * pitch[i]))
        out.append(Act(expression, Pose(float(yaw[i]), float(pitch[i]), float(roll[i])), gaze, 0.42))
    return out


def _glide(at: NDArray[np.float64], keys: NDArray[np.float64], values: list[float]) -> NDArray[np.float64]:
    """A smooth curve through keys: linear, then a Gaussian of 0.14 s."""
    grid = np.arange(-1, keys[-1] + 1, 0.01)
    reach = np.arange(-60, 61) * 0.01
    kernel = np.exp(-0.5 * np.square(reach / 0.14))
    padded = np.pad(np.interp(grid, keys, values), 60, mode="edge")
    return np.interp(at, grid, np.convolve(padded, kernel / kernel.sum(), mode="valid"))


def between(before: Floats, after: Floats, count: int) -> list[Floats]:
    """`count` pictures (H, W, 3) that lead from one to the next: both are moved along the optical flow and blended."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    first, last = (cv2.cvtColor(np.clip(p, 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for p in (before, after))
    still = np.zeros((*SIZE, 2), np.float32)
    ahead = cv2.GaussianBlur(flow.calc(first, last, still.copy()), (0, 0), 2.0)
    back = cv2.GaussianBlur(flow.calc(last, first, still.copy()), (0, 0), 2.0)
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32)
    out: list[Floats] = []
    for k in range(1, count + 1):
        t = np.float32(k / (count + 1))
        moved = [
            cv2.remap(p, x - s * f[..., 0], y - s * f[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            for p, f, s in ((before, ahead, t), (after, back, 1 - t))
        ]
        out.append(np.asarray((1 - t) * moved[0] + t * moved[1], np.float32))
    return out


def person(model: Path) -> Person:
    """The person of the clip."""
    identity = (np.random.default_rng(17).standard_normal(40) * 0.6).astype(np.float32)
    look = Complexion(hair=(112, 78, 54), brows=(78, 54, 40), iris=(84, 108, 116), freckles=0.35)
    return Person(Studio(model), identity, look, HairStyle(part=-1.6), cloth=(70, 84, 104), seed=17, brow_count=650)


def write(path: Path, pictures: list[NDArray[np.uint8]], sound: NDArray[np.float32], crf: int) -> None:
    """Encode RGB pictures as H.264 (4:2:0, BT.709, limited range) and mono sound as AAC into an mp4 that starts at once."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        video = out.add_stream("libx264", rate=RATE, options={"crf": str(crf), "preset": "medium", "tune": "grain"})
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = 1, 1
        video.codec_context.color_primaries, video.codec_context.color_trc = 1, 1
        audio = out.add_stream("aac", rate=AUDIO_RATE, layout="mono", bit_rate=64000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(
                format="yuv420p", src_colorspace="ITU709", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = AUDIO_RATE, 0, Fraction(1, AUDIO_RATE)
        out.mux(audio.encode(block))
        out.mux(audio.encode())


def frames(model: Path, every: int, cache: Path) -> list[Floats]:
    """The pictures (H, W, 3), 0..255, without grain. cache: drawn pictures are kept there and found again.

    every: draw one frame of so many, and the last; the rest is interpolated.
    """
    plan = acts(FRAMES)
    drawn = sorted({*range(0, FRAMES, every), FRAMES - 1})
    cache.mkdir(parents=True, exist_ok=True)
    missing = [i for i in drawn if not (cache / f"{i:03}.png").exists()]
    speaker = person(model) if missing else None
    backdrop = room(SIZE, np.array([0.2, 0.22, 0.235], np.float32), 4)
    for i in missing:
        assert speaker is not None
        picture = render(speaker, plan[i], portrait(17.5, (640.0, 325.0)), SIZE, Light(), backdrop)
        cv2.imwrite(str(cache / "partial.png"), picture.rgb[..., ::-1])
        (cache / "partial.png").rename(cache / f"{i:03}.png")
        print(f"drawn: frame {i}", flush=True)
    out: list[Floats] = []
    for i in drawn:
        drawing = np.asarray(cv2.imread(str(cache / f"{i:03}.png")))[..., ::-1].astype(np.float32)
        if out and i > len(out):
            out += between(out[-1], drawing, i - len(out))
        out.append(drawing)
    return out


def main() -> None:
    """Render and write the clip."""
    parser = argparse.ArgumentParser(prog="python -m mien.export.sample_clip", description=__doc__)
    parser.add_argument("model", type=Path, help="the ICT Face Model Light as npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=2, help="draw one frame of so many, interpolate the others")
    parser.add_argument("--cache", type=Path, default=Path("runs/sample"), help="drawn pictures, kept between calls")
    parser.add_argument("--crf", type=int, default=21)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    pictures: list[NDArray[np.uint8]] = []
    for clean in frames(args.model, args.every, args.cache):
        grain = cv2.GaussianBlur(rng.standard_normal(SIZE).astype(np.float32), (0, 0), 0.7)
        pictures.append(np.clip(clean + 3.0 * grain[..., None] + 0.5, 0, 255).astype(np.uint8))
    sound = voice(speak(TEXT, PACE, SEED), FRAMES / RATE, AUDIO_RATE, SEED)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, pictures, sound, args.crf)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
