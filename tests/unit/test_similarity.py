"""The similarity filter: its probabilities, its forced refresh, and that a loop around it keeps every frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mien.engine.edits import Answer, View
from mien.engine.errors import EditError
from mien.engine.prompt_edit import PromptEdit, Recipe
from mien.engine.similarity import SimilarityFilter, cosine_similarity, skip_probability
from mien.engine.thrift import Thrift
from mien.engine.types import FaceTrack


def at_similarity(c: float, size: int = 300) -> tuple[Any, Any]:
    """Two vectors whose cosine is c, to 1e-7."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, size))
    b -= a * (a @ b) / (a @ a)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return a.reshape(3, 10, 10), (c * a + math.sqrt(1 - c * c) * b).reshape(3, 10, 10)


@pytest.mark.parametrize(
    ("similarity", "threshold", "wanted"),
    [
        (1.0, 0.98, 1.0),
        (0.99, 0.98, 0.5),
        (0.995, 0.98, 0.75),
        (0.98, 0.98, 0.0),
        (0.5, 0.98, 0.0),
        (-1.0, 0.98, 0.0),
        (0.75, 0.5, 0.5),
        (1.0, 1.0, 0.0),
        (1.0, 1.5, 0.0),
    ],
)
def test_skip_probability(similarity: float, threshold: float, wanted: float) -> None:
    assert skip_probability(similarity, threshold) == pytest.approx(wanted, abs=1e-12)


def test_cosine_similarity() -> None:
    a, b = (v.reshape(-1) for v in at_similarity(0.3))
    assert cosine_similarity(a, 5 * b) == pytest.approx(0.3, abs=1e-9)
    assert cosine_similarity(a, -a) == pytest.approx(-1)
    assert cosine_similarity(a, 0 * a) == 0.0 and cosine_similarity(0 * a, 0 * a) == 1.0


@pytest.mark.parametrize("c", [0.97, 0.983, 0.99, 0.996])
def test_frequency(c: float) -> None:
    """One draw per filter and seed; the share of skips within 5 binomial deviations."""
    first, second = at_similarity(c)
    draws, expected = 2000, skip_probability(c, 0.98)
    skipped = 0
    for seed in range(draws):
        chosen = SimilarityFilter(0.98, seed=seed)
        assert not chosen.reuse(first)
        skipped += chosen.reuse(second)
    assert abs(skipped - draws * expected) <= 5 * math.sqrt(draws * expected * (1 - expected))


def test_frequency_in_one_stream() -> None:
    """The generator runs on from frame to frame: alternating pictures, each seen against the last processed one."""
    first, second = at_similarity(0.99)
    chosen, skips, chances = SimilarityFilter(0.98, max_skip=10**9, seed=3), 0, 0
    held = None
    for i in range(4000):
        picture = i % 2
        reused = chosen.reuse((first, second)[picture])
        if held is not None and held != picture:
            chances += 1
            skips += reused
        elif held is not None:
            assert reused  # the same picture again
        held = held if reused else picture
    assert chances > 1000 and abs(skips - chances / 2) <= 5 * math.sqrt(chances / 4)


@pytest.mark.parametrize("max_skip", [0, 1, 3])
def test_forced_refresh(max_skip: int) -> None:
    frame = at_similarity(0.5)[0]
    chosen = SimilarityFilter(max_skip=max_skip)
    got = [chosen.reuse(frame) for _ in range(3 * (max_skip + 1))]
    assert got == ([False] + [True] * max_skip) * 3


def test_drift_is_measured_from_the_last_processed_frame() -> None:
    """Each frame is close to the one before, and the tenth is far from the first."""
    a, b = (v.reshape(-1) for v in at_similarity(0.0))
    turned = [math.cos(i / 20) * a + math.sin(i / 20) * b for i in range(40)]
    chosen, held = SimilarityFilter(0.98, max_skip=10**9, seed=1), 0
    for i, frame in enumerate(turned):
        if not chosen.reuse(frame):
            held = i
        assert cosine_similarity(turned[held], frame) > 0.98
    assert held > 20


def test_reset_and_seed() -> None:
    first, second = at_similarity(0.99)
    chosen = SimilarityFilter(seed=7)

    def sequence() -> list[bool]:
        return [chosen.reuse((first, second)[i % 2]) for i in range(30)]

    once = sequence()
    chosen.reset()
    assert sequence() == once and True in once and False in once[1:]
    other = SimilarityFilter(seed=8)
    assert [other.reuse((first, second)[i % 2]) for i in range(30)] != once


def test_the_caller_may_write_into_a_frame() -> None:
    frame = np.ones((3, 4, 4), np.float32)
    chosen = SimilarityFilter()
    chosen.reuse(frame)
    frame[:] = -1
    assert not chosen.reuse(frame)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(EditError, match="threshold is 0"):
        SimilarityFilter(0.0)
    with pytest.raises(EditError, match="max_skip is -1"):
        SimilarityFilter(max_skip=-1)


def clip() -> list[Any]:
    """Thirty frames that hardly move, a cut, and ten more."""
    rng = np.random.default_rng(5)
    scenes = rng.standard_normal((2, 1, 4, 6, 5))
    return [scenes[int(i >= 30)] + 0.05 * rng.standard_normal((1, 4, 6, 5)) for i in range(40)]


def test_a_loop_keeps_count_and_order() -> None:
    frames, chosen = clip(), SimilarityFilter(seed=2)
    results: list[tuple[int, int]] = []
    last = -1
    for i, frame in enumerate(frames):
        if not chosen.reuse(frame):
            last = i
        results.append((i, last))
    assert [i for i, _ in results] == list(range(40))
    sources = [source for _, source in results]
    assert sources == sorted(sources) and 5 < len(set(sources)) < 35
    assert all(0 <= i - source <= 10 for i, source in results)
    assert sources[29] < 30 <= sources[30]


def test_a_frame_that_fails_leaves_no_answer_behind() -> None:
    """The next one alike is made anew, and the one after it is given that answer."""
    method, made = object.__new__(PromptEdit), list[int]()
    method.recipe = Recipe({}, {}, lambda track, t: {}, thrift=Thrift(similarity=0.5))
    method._seed = 0

    def make(track: FaceTrack, view: View) -> Answer:
        made.append(len(made))
        if made[-1] in (0, 2):
            raise RuntimeError("this frame failed")
        return Answer(np.full((3, 4, 4), made[-1], np.float32))

    method._made = make  # type: ignore[method-assign]
    one, other = (sign * np.ones((3, 4, 4), np.float32) for sign in (1, -1))
    track, seen = FaceTrack(1), list[float | None]()
    for crop in (one, one, one, other, other, other):
        try:
            answer = method.finish(track, View(crop, np.ones((4, 4), np.float32), np.zeros((68, 2))))
            assert answer.difference is not None
            seen.append(float(answer.difference[0, 0, 0]))
        except RuntimeError:
            seen.append(None)
    assert seen == [None, 1.0, 1.0, None, 3.0, 3.0] and made == [0, 1, 2, 3]
