"""A made-up voice: phonemes in time, the mouth shapes that go with them, and a formant synthesis of the sound.

The spectrum of each phoneme is three resonances (formants, Hz) on a harmonic source, plus noise for fricatives and bursts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Phoneme:
    """formants in Hz; voice and hiss: loudness 0..1; hiss_at: centre of the noise, Hz; mouth: expression weights; shut: lips closed."""

    formants: tuple[float, float, float] = (500.0, 1500.0, 2500.0)
    voice: float = 0.0
    hiss: float = 0.0
    hiss_at: float = 4000.0
    mouth: dict[str, float] = field(default_factory=dict)
    shut: float = 0.0


_CLOSED = {"mouthPress": 0.25, "mouthRollLower": 0.12}
_TOOTH = {"mouthRollLower": 0.45, "mouthUpperUp": 0.2, "jawOpen": 0.05}
PHONEMES: dict[str, Phoneme] = {
    "-": Phoneme(),
    "aa": Phoneme((730, 1090, 2440), 1.0, mouth={"jawOpen": 0.44}),
    "ae": Phoneme((660, 1720, 2410), 1.0, mouth={"jawOpen": 0.38, "mouthStretch": 0.15, "mouthUpperUp": 0.15}),
    "ah": Phoneme((640, 1190, 2390), 0.9, mouth={"jawOpen": 0.32}),
    "ao": Phoneme((570, 840, 2410), 1.0, mouth={"jawOpen": 0.36, "mouthFunnel": 0.4}),
    "eh": Phoneme((530, 1840, 2480), 1.0, mouth={"jawOpen": 0.28, "mouthStretch": 0.14, "mouthLowerDown": 0.15}),
    "ey": Phoneme((420, 2050, 2600), 1.0, mouth={"jawOpen": 0.2, "mouthStretch": 0.2, "mouthLowerDown": 0.2}),
    "er": Phoneme((490, 1350, 1690), 0.8, mouth={"jawOpen": 0.16, "mouthFunnel": 0.35}),
    "ih": Phoneme((390, 1990, 2550), 0.9, mouth={"jawOpen": 0.17, "mouthLowerDown": 0.15}),
    "iy": Phoneme((290, 2290, 3010), 0.9, mouth={"jawOpen": 0.11, "mouthStretch": 0.26, "mouthLowerDown": 0.25}),
    "ow": Phoneme((460, 900, 2300), 1.0, mouth={"jawOpen": 0.25, "mouthFunnel": 0.5, "mouthPucker": 0.25}),
    "uw": Phoneme((310, 870, 2240), 0.9, mouth={"jawOpen": 0.1, "mouthPucker": 0.7, "mouthFunnel": 0.2}),
    "l": Phoneme((360, 1200, 2700), 0.6, mouth={"jawOpen": 0.2}),
    "r": Phoneme((420, 1250, 1600), 0.6, mouth={"jawOpen": 0.12, "mouthFunnel": 0.45}),
    "w": Phoneme((310, 700, 2200), 0.6, mouth={"jawOpen": 0.06, "mouthPucker": 0.8}),
    "y": Phoneme((290, 2200, 2900), 0.6, mouth={"jawOpen": 0.1, "mouthStretch": 0.2}),
    "m": Phoneme((270, 1000, 2200), 0.42, mouth=_CLOSED, shut=1.0),
    "n": Phoneme((280, 1500, 2500), 0.42, mouth={"jawOpen": 0.12}),
    "b": Phoneme((300, 900, 2200), 0.22, 0.12, 900.0, _CLOSED, 1.0),
    "p": Phoneme((400, 1100, 2200), 0.0, 0.3, 1200.0, _CLOSED, 1.0),
    "d": Phoneme((320, 1700, 2600), 0.25, 0.25, 3800.0, {"jawOpen": 0.1}),
    "g": Phoneme((320, 1500, 2300), 0.25, 0.2, 2000.0, {"jawOpen": 0.15}),
    "ch": Phoneme(hiss=0.7, hiss_at=3200.0, mouth={"jawOpen": 0.1, "mouthFunnel": 0.5}),
    "f": Phoneme(hiss=0.4, hiss_at=6500.0, mouth=_TOOTH, shut=0.6),
    "s": Phoneme(hiss=0.75, hiss_at=6500.0, mouth={"jawOpen": 0.05, "mouthStretch": 0.15, "mouthLowerDown": 0.12}),
    "z": Phoneme((300, 1700, 2500), 0.35, 0.45, 6000.0, {"jawOpen": 0.05, "mouthStretch": 0.15}),
    "h": Phoneme((600, 1500, 2500), 0.0, 0.3, 1700.0, {"jawOpen": 0.18}),
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """Phonemes with their start times; `times` has one entry more: the end. Seconds."""

    names: tuple[str, ...]
    times: Floats


def speak(text: str, pace: float, seed: int, lead: float = 0.35) -> Spoken:
    """Lay phonemes out in time. text: names separated by blanks, "-" a pause; pace: seconds of a full vowel; lead: silence before."""
    rng = np.random.default_rng(seed)
    names = ("-", *text.split(), "-")
    long = {
        "-": 2.0,
        "b": 0.7,
        "p": 0.8,
        "d": 0.55,
        "g": 0.6,
        "l": 0.65,
        "r": 0.65,
        "n": 0.65,
        "y": 0.5,
        "w": 0.7,
        "h": 0.6,
        "z": 0.75,
    }
    spans = [pace * long.get(n, 1.0) * float(rng.uniform(0.85, 1.2)) for n in names]
    spans[0] = lead
    return Spoken(names, np.concatenate([[0.0], np.cumsum(spans)]))


def _track(spoken: Spoken, at: Floats, values: list[float], sigma: float) -> Floats:
    """A phoneme property as a smooth curve at the times `at`; sigma: seconds of the Gaussian that blends neighbours."""
    step = 0.002
    grid = np.arange(-0.3, max(float(at[-1]), float(spoken.times[-1])) + 0.3, step)
    index = np.clip(np.searchsorted(spoken.times, grid, side="right") - 1, 0, len(values) - 1)
    held = np.array(values)[index] * ((grid >= 0) & (grid < spoken.times[-1]))
    reach = np.arange(-int(4 * sigma / step), int(4 * sigma / step) + 1) * step
    kernel = np.exp(-0.5 * np.square(reach / sigma))
    return np.interp(at, grid, np.convolve(held, kernel / kernel.sum(), mode="same"))


def mouth(spoken: Spoken, at: Floats) -> list[dict[str, float]]:
    """Expression weights at the times `at` (seconds): neighbours blend, lips that must close do."""
    table = [PHONEMES[n] for n in spoken.names]
    ahead = at + 0.03  # the mouth leads the sound
    shut = np.clip(1.5 * _track(spoken, ahead, [p.shut for p in table], 0.022), 0, 1)
    keys = sorted({k for p in table for k in p.mouth})
    out: dict[str, Floats] = {}
    for key in keys:
        tight = key in ("mouthPress", "mouthRollLower")
        out[key] = _track(spoken, ahead, [p.mouth.get(key, 0.0) for p in table], 0.026 if tight else 0.042)
        if not tight:
            out[key] = out[key] * (1 - 0.93 * shut)
    return [{k: float(v[i]) for k, v in out.items()} for i in range(len(at))]


def voice(spoken: Spoken, seconds: float, rate: int, seed: int, pitch: float = 195.0) -> NDArray[np.float32]:
    """The sound (seconds * rate,), peak 0.35. pitch: Hz at the start of the sentence."""
    rng = np.random.default_rng(seed)
    table = [PHONEMES[n] for n in spoken.names]
    at = np.arange(int(seconds * rate)) / rate
    coarse = np.arange(0, seconds + 0.02, 0.004)

    def curve(values: list[float], sigma: float) -> Floats:
        return np.interp(at, coarse, _track(spoken, coarse, values, sigma))

    drift = np.interp(at, np.linspace(0, seconds, 24), rng.normal(0, 0.05, 24))
    f0 = pitch * (1.06 - 0.22 * at / seconds) * (1 + drift) * (1 + 0.012 * np.sin(2 * np.pi * 5.3 * at))
    phase = 2 * np.pi * np.cumsum(f0) / rate
    loud = curve([p.voice for p in table], 0.014)
    formants = [curve([p.formants[k] for p in table], 0.022) for k in range(3)]
    sound = np.zeros_like(at)
    for harmonic in range(1, 28):
        f = harmonic * f0
        gain = sum(
            strength / (1 + np.square((f - centre) / width))
            for centre, width, strength in zip(formants, (75.0, 110.0, 170.0), (1.0, 0.55, 0.28), strict=True)
        )
        sound += gain * harmonic**-0.45 * np.sin(harmonic * phase + 0.3 * harmonic) * (f < rate * 0.42)
    sound *= loud
    window = 512
    hiss, centre = curve([p.hiss for p in table], 0.010), curve([p.hiss_at for p in table], 0.010)
    frequency = np.fft.rfftfreq(window, 1 / rate)
    noise, fade = np.zeros(len(at) + window), np.hanning(window)
    for start in range(0, len(at) - window, window // 2):
        middle = start + window // 2
        if hiss[middle] > 1e-3:
            spectrum = np.fft.rfft(rng.standard_normal(window)) / (1 + np.square((frequency - centre[middle]) / 1500))
            noise[start : start + window] += hiss[middle] * fade * np.fft.irfft(spectrum, window)
    sound = sound / (np.abs(sound).max() + 1e-9) + 0.35 * noise[: len(at)] / (np.abs(noise).max() + 1e-9)
    room = np.zeros_like(sound)
    for delay, share in ((0.011, 0.18), (0.023, 0.12), (0.041, 0.07)):
        k = int(delay * rate)
        room[k:] += share * sound[:-k]
    sound = sound + room + 0.0015 * rng.standard_normal(len(at))
    return np.asarray(0.35 * sound / np.abs(sound).max(), np.float32)
