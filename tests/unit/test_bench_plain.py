"""The plain way makes the engine's edit, so that their times can be compared."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mien.bench import plain
from mien.bench.frame_rgb import rgb8_of
from mien.bench.plain import PlainWay
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig
from mien.engine.editor import Editor
from mien.engine.errors import EditError
from mien.engine.spec import EditSpec
from mien.engine.types import FaceTrack, Frame
from mien.runtime.source import open_video

CLIP = Path(__file__).resolve().parents[2] / "examples" / "sample.mp4"
CONFIG = EngineConfig(threads=1)


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    """The embedded bundle."""
    return Bundle.open("tiny")


@pytest.fixture(scope="module")
def frame() -> Frame:
    """A frame of the sample clip."""
    with open_video(CLIP) as video:
        return next(islice(video, 30, None))


@pytest.mark.parametrize("edit", ["smile", "hair_blond"])
def test_the_plain_way_and_the_engine_make_the_same_edit(tiny: Bundle, frame: Frame, edit: str) -> None:
    """Their changes of the picture correlate by 0.95 and are of one strength within 10 %; the rest is what 8-bit YUV with half the
    colour and the detector's view of another grey make of it. What lies outside of the engine's box stays the same.
    """
    spec, source = EditSpec(edits=((edit, 1.0),), num_steps=1), rgb8_of(frame)
    result = PlainWay(tiny, spec, CONFIG).edit_picture(source, FaceTrack(0))
    edited = Editor(tiny, spec=spec, config=CONFIG).edit_picture(frame)
    assert result is not None
    ((x0, y0, x1, y1),) = edited.boxes
    theirs, ours = (picture.astype(np.float64) - source for picture in (result, rgb8_of(edited.frame)))
    a, b = (change[y0:y1, x0:x1].ravel() for change in (theirs, ours))
    assert np.abs(b).mean() > 0.5, "the edit is seen"
    assert np.corrcoef(a, b)[0, 1] > 0.95 and a @ b / (b @ b) == pytest.approx(1.0, abs=0.1)
    theirs[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = 0.0
    assert not theirs.any()


def test_pixels_move_into_the_box_from_around_it() -> None:
    """Three to the right and two down: also at the frame's edge, whose pixels are repeated."""
    rgb = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    by = np.broadcast_to(np.array([3.0, 2.0], np.float32), (16, 12, 2))
    np.testing.assert_allclose(plain._moved(rgb, (10, 8, 22, 24), by), rgb[10:26, 13:25], atol=1e-3)
    repeated = np.pad(rgb, ((0, 2), (0, 3), (0, 0)), "edge")
    np.testing.assert_allclose(plain._moved(rgb, (36, 24, 48, 40), by), repeated[26:42, 39:51], atol=1e-3)


def test_nothing_outside_of_the_box_is_made_anew() -> None:
    rgb = np.full((60, 80, 3), 100, np.uint8)
    affine = np.array([[0.5, 0.0, 30.0], [0.0, 0.5, 20.0]])
    delta, mask = np.full((3, 32, 32), 0.2, np.float32), np.ones((32, 32), np.float32)
    out = plain._paste(rgb, (32, 22, 44, 34), affine, delta, mask, None)
    assert (out[22:34, 32:44] == 126).all(), "0.2 of 127.5 levels"
    out[22:34, 32:44] = 100
    assert (out == 100).all() and (rgb == 100).all()


@pytest.mark.parametrize("edit", ["mouth_open", "eyes_closed"])
def test_edits_that_tear_the_warp_are_refused(tiny: Bundle, edit: str) -> None:
    with pytest.raises(EditError, match=edit):
        PlainWay(tiny, EditSpec(edits=((edit, 1.0),)), CONFIG)
