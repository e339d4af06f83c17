"""Frames under work at a time: their order, how many, and what comes out before an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from mien.engine.stream import Stream, edit_in_flight


class Halves:
    """A stream of numbers in the place of frames; the even ones take longer to finish."""

    def __init__(self, frames_at_once: int, begin_fails: int = -1, finish_fails: int = -1) -> None:
        self.frames_at_once, self._begin_fails, self._finish_fails = frames_at_once, begin_fails, finish_fails

    def edit(self, frame: int) -> int:
        return self.finish(self.begin(frame))

    def begin(self, frame: int) -> int:
        if frame == self._begin_fails:
            raise OSError("out of order")
        return frame

    def finish(self, begun: int) -> int:
        if begun == self._finish_fails:
            raise OSError("out of order")
        time.sleep(0.0 if begun % 2 else 0.01)
        return begun


def edited(stream: Halves, frames: Any) -> Iterator[int]:
    return cast(Iterator[int], edit_in_flight(cast(Stream, stream), frames))


@pytest.mark.parametrize(
    ("at_once", "taken"), [(1, [1, 2, 3, 4, 5]), (2, [2, 3, 4, 5, 5]), (3, [3, 4, 5, 5, 5]), (9, [5] * 5)]
)
def test_a_frame_is_answered_after_as_many_as_are_under_work(at_once: int, taken: list[int]) -> None:
    begun: list[int] = []

    def source() -> Iterator[int]:
        for i in range(5):
            begun.append(i)
            yield i

    assert [(i, len(begun)) for i in edited(Halves(at_once), source())] == list(enumerate(taken))
    assert list(edited(Halves(at_once), ())) == []


@pytest.mark.parametrize("at_once", [1, 2, 3, 9])
@pytest.mark.parametrize("failing", ["source", "begin", "finish"])
def test_an_error_comes_in_the_place_of_its_frame(failing: str, at_once: int) -> None:
    def source() -> Iterator[int]:
        yield from range(4)
        if failing == "source":
            raise OSError("out of order")
        yield from range(4, 7)

    stream = Halves(at_once, **({} if failing == "source" else {f"{failing}_fails": 4}))
    came: list[int] = []
    with pytest.raises(OSError, match="out of order"):
        for frame in edited(stream, source()):
            came.append(frame)
    assert came == [0, 1, 2, 3]


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    answers = edited(Halves(2), range(9))
    assert next(answers) == 0 and threading.active_count() > before
    answers.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
