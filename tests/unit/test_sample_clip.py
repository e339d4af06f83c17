"""The sample clip of the repository, and the voice and mouth it was made with. Needs nothing but the repository."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mien.export.sample_clip import AUDIO_RATE, FRAMES, PACE, RATE, SEED, SIZE, TEXT, acts, between
from mien.export.sample_speech import PHONEMES, Spoken, mouth, speak, voice

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"


def test_small_720p_h264_with_sound() -> None:
    assert CLIP.stat().st_size < 2_000_000
    with av.open(str(CLIP)) as clip:
        video, audio = clip.streams.video[0], clip.streams.audio[0]
        assert (video.width, video.height) == (1280, 720) == SIZE[::-1]
        assert video.codec_context.name == "h264" and video.pix_fmt == "yuv420p"
        assert (video.codec_context.colorspace, video.codec_context.color_range) == (1, 1)  # BT.709, limited
        assert video.average_rate == RATE and audio.codec_context.name == "aac" and audio.rate == AUDIO_RATE


def test_every_frame_in_its_place() -> None:
    with av.open(str(CLIP)) as clip:
        times = [f.pts * f.time_base for f in clip.decode(video=0)]
    assert times == [Fraction(i, RATE) for i in range(FRAMES)]


def test_the_picture_lives_and_the_sound_speaks() -> None:
    with av.open(str(CLIP)) as clip:
        grey = [f.to_ndarray(format="gray")[200:560, 500:780].astype(float) for f in clip.decode(video=0)]
    changes = [np.abs(b - a).mean() for a, b in zip(grey, grey[1:], strict=False)]
    assert min(changes) > 0.2 and np.abs(grey[-1] - grey[len(grey) // 2]).mean() > 3
    with av.open(str(CLIP)) as clip:
        sound = np.concatenate([f.to_ndarray().ravel() for f in clip.decode(audio=0)])
    loud = np.sqrt(np.mean(np.square(sound[: len(sound) // 2400 * 2400].reshape(-1, 2400)), 1))
    assert abs(len(sound) / AUDIO_RATE - FRAMES / RATE) < 0.06
    assert loud.max() > 0.03 and loud[:4].max() < 0.1 * loud.max() and 0.05 < np.abs(sound).max() < 0.6


def test_lips_close_for_m_and_open_for_a() -> None:
    spoken = speak("aa m aa", 0.12, 0)
    middle = (spoken.times[1:4] + spoken.times[2:5]) / 2 - 0.03
    first, closed, last = mouth(spoken, middle)
    assert min(first["jawOpen"], last["jawOpen"]) > 0.25 > 0.06 > closed["jawOpen"]
    assert closed["mouthPress"] > 0.1 > first["mouthPress"]


def test_mouth_and_voice_share_their_times() -> None:
    spoken = speak(TEXT, PACE, SEED)
    assert spoken.times[-2] < FRAMES / RATE - 0.05 and set(spoken.names) <= set(PHONEMES)
    sound = voice(spoken, FRAMES / RATE, 16000, SEED)
    power = np.square(sound)
    speaking = [
        power[int(a * 16000) : int(b * 16000)].mean()
        for n, a, b in zip(spoken.names, spoken.times, spoken.times[1:], strict=False)
        if PHONEMES[n].voice == 1.0
    ]
    silent = power[: int(0.25 * 16000)].mean()
    assert min(speaking) > 20 * silent
    np.testing.assert_array_equal(sound, voice(spoken, FRAMES / RATE, 16000, SEED))


def test_a_vowel_has_its_formants() -> None:
    rate = 16000
    sound = voice(Spoken(("aa",), np.array([0.0, 1.0])), 1.0, rate, 0)[4000:12000]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    frequency = np.fft.rfftfreq(len(sound), 1 / rate)

    def band(low: float, high: float) -> float:
        return float(np.square(spectrum[(frequency >= low) & (frequency < high)]).sum())

    assert band(600, 1250) > 3 * band(1300, 1950) > 0  # /a/: energy at 730 and 1090 Hz, a valley above


def test_acts_blink_turn_and_stay_within_bounds() -> None:
    plan = acts(FRAMES)
    blink, yaw = np.array([a.expression["eyeBlink"] for a in plan]), np.array([a.pose.yaw for a in plan])
    assert (blink > 0.85).any() and np.mean(blink < 0.1) > 0.5
    assert yaw.min() < -8 and yaw.max() > 8 and np.abs(np.diff(yaw)).max() < 2.5
    for act in plan:
        assert all(0 <= v <= 1 for v in act.expression.values())


def test_between_moves_and_does_not_fade() -> None:
    rng = np.random.default_rng(0)
    before = np.zeros((*SIZE, 3), np.float32)
    noise = rng.uniform(60, 200, (90, 90, 1)).astype(np.float32).repeat(3, 2)
    before[300:390, 600:690] = noise
    after = np.zeros_like(before)
    after[300:390, 604:694] = noise
    (middle,) = between(before, after, 1)
    expected = np.zeros_like(before)
    expected[300:390, 602:692] = noise
    inside = (slice(320, 370), slice(625, 670))
    assert np.abs(middle - expected)[inside].mean() < 0.35 * np.abs(0.5 * (before + after) - expected)[inside].mean()


@pytest.mark.parametrize("name", sorted(PHONEMES))
def test_phonemes_are_sane(name: str) -> None:
    phoneme = PHONEMES[name]
    assert phoneme.formants[0] < phoneme.formants[1] < phoneme.formants[2]
    assert all(0 <= v <= 1 for v in (phoneme.voice, phoneme.hiss, phoneme.shut, *phoneme.mouth.values()))
