"""Pictures: what is read, what changes where, and what is refused."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.engine.errors import MediaError
from mien.engine.survey import EditedFrame
from mien.engine.types import Array, Frame
from mien.runtime.edit_picture import edit_picture
from mien.runtime.exif import upright
from mien.runtime.picture import check_picture_output, is_picture, read_picture, write_picture

BOX = (12, 10, 41, 37)


def photo(width: int = 75, height: int = 53, channels: int = 3) -> Array:
    """Colourful pixels (H, W, C), red first."""
    rng = np.random.default_rng(width)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (height, width, channels)).astype(np.float32), (0, 0), 4)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 200 + 20
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def save(path: Path, rgb: Array) -> Path:
    swapped = rgb if rgb.ndim == 2 else np.concatenate([rgb[..., 2::-1], rgb[..., 3:]], axis=2)
    assert cv2.imwrite(str(path), swapped)
    return path


class Brighten:
    """An editor that adds to luma and to one chroma plane inside the box."""

    def __init__(self, luma: int = 20, chroma: int = 10) -> None:
        self.luma, self.chroma = luma, chroma

    def edit_picture(self, frame: Frame) -> EditedFrame:
        x0, y0, x1, y1 = BOX
        y, u, v = (plane.copy() for plane in frame.planes)
        y[y0:y1, x0:x1] = np.minimum(y[y0:y1, x0:x1].astype(int) + self.luma, 255)
        u[y0 // 2 + 1 : y1 // 2, x0 // 2 + 1 : x1 // 2] += self.chroma
        return EditedFrame(replace(frame, planes=(y, u, v)), (BOX,))


class Idle:
    def edit_picture(self, frame: Frame) -> EditedFrame:
        return EditedFrame(frame)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_outside_the_box_every_pixel_is_the_sources(tmp_path: Path, ending: str, channels: int) -> None:
    pixels = photo(channels=channels)
    if channels == 4:
        pixels[..., 3] = np.maximum(pixels[..., 3], 1)
    source = save(tmp_path / "in.png", pixels)
    report = edit_picture(str(source), tmp_path / f"out{ending}", Brighten())
    result = read_picture(tmp_path / f"out{ending}")
    x0, y0, x1, y1 = BOX
    changed = (result.rgb != pixels[..., :3]).any(-1)
    assert changed[y0:y1, x0:x1].mean() > 0.95
    changed[y0:y1, x0:x1] = False
    assert not changed.any()
    if channels == 4:
        assert result.alpha is not None
        np.testing.assert_array_equal(result.alpha, pixels[..., 3])
    assert (report.frames_edited, report.paste_boxes) == (1, [(0, *BOX)])
    assert set(report.clocks.table()) == {"read", "edit", "write"}


def test_a_pure_luma_change_adds_the_same_to_each_colour(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "in.png", photo()))
    edited = Brighten(luma=20, chroma=0).edit_picture(picture.frame)
    result = picture.apply(edited.frame, edited.boxes)
    x0, y0, x1, y1 = BOX
    difference = result.rgb[y0:y1, x0:x1].astype(int) - picture.rgb[y0:y1, x0:x1]
    assert (difference == 20).all()


def test_a_chroma_change_moves_colours_by_the_matrix(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "in.png", np.full((40, 60, 3), 128, np.uint8)))
    y, u, v = picture.frame.planes
    box = (0, 0, 60, 40)
    result = picture.apply(replace(picture.frame, planes=(y, u + 10, v)), [box])
    np.testing.assert_array_equal(result.rgb[20, 30].astype(int) - 128, [0, -3, 18])
    assert (result.rgb == result.rgb[20, 30]).all()


def test_overlapping_boxes_count_once(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "in.png", photo()))
    edited = Brighten().edit_picture(picture.frame).frame
    x0, y0, x1, y1 = BOX
    once = picture.apply(edited, [BOX])
    twice = picture.apply(edited, [(x0, y0, x1 - 5, y1), (x0 + 3, y0, x1, y1), BOX])
    np.testing.assert_array_equal(once.rgb, twice.rgb)


def test_no_edit_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = photo(33, 47)
    report = edit_picture(str(save(tmp_path / "in.png", pixels)), tmp_path / "out.png", Idle())
    np.testing.assert_array_equal(read_picture(tmp_path / "out.png").rgb, pixels)
    assert (report.frames_edited, report.frames_passed_through, report.tracks) == (0, 1, 0)


def test_jpeg_is_near(tmp_path: Path) -> None:
    pixels = cv2.GaussianBlur(photo(), (0, 0), 2)
    edit_picture(str(save(tmp_path / "in.png", pixels)), tmp_path / "out.jpg", Idle())
    assert np.abs(read_picture(tmp_path / "out.jpg").rgb.astype(int) - pixels).mean() < 2.0


def test_the_frame_shows_the_picture(tmp_path: Path) -> None:
    pixels = cv2.GaussianBlur(photo(64, 48), (0, 0), 3)
    frame = read_picture(save(tmp_path / "in.png", pixels)).frame
    y, u, v = (p.astype(float) for p in frame.planes)
    assert (frame.color_range, frame.matrix, y.shape, u.shape) == ("full", "bt601", (48, 64), (24, 32))
    u, v = (np.kron(p - 128, np.ones((2, 2))) for p in (u, v))
    shown = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    assert np.abs(shown - pixels).mean() < 3


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation(tmp_path: Path, value: int, order: str) -> None:
    pixels = cv2.GaussianBlur(photo(64, 48), (0, 0), 2)
    stored = save(tmp_path / "plain.jpg", pixels).read_bytes()
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    block = b"Exif\0\0" + tiff
    marked = tmp_path / "marked.jpg"
    marked.write_bytes(stored[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + stored[2:])
    wanted = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: np.rot90,
    }[value](read_picture(tmp_path / "plain.jpg").rgb)
    np.testing.assert_array_equal(read_picture(marked).rgb, wanted)
    np.testing.assert_array_equal(upright(read_picture(tmp_path / "plain.jpg").rgb, value), wanted)


def tiff(path: Path, pixels: Array, tags: dict[int, int], *, pages: int = 1) -> Path:
    """A plain TIFF (H, W, 3 or 4), red first, with further tags of 16 bits in each of its equal pages."""
    height, width, channels = pixels.shape
    data = b"II*\0" + struct.pack("<I", 12 + pixels.size) + struct.pack("<I", 0) + pixels.tobytes()
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 277: channels, 278: height, 284: 1} | tags
    for page in range(pages):
        here = len(data)
        rows = sorted({**{k: (3, 1, v) for k, v in entries.items()}, 273: (4, 1, 12), 279: (4, 1, pixels.size)}.items())
        end = here + 2 + 12 * len(rows) + 4
        rows = [(k, (3, channels, end) if k == 258 else row) for k, row in rows]
        data += struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", k, *row) for k, row in rows)
        data += struct.pack("<I", end + 2 * channels if page + 1 < pages else 0) + struct.pack("<H", 8) * channels
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("value", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path: Path, value: int) -> None:
    pixels = photo(64, 48)
    np.testing.assert_array_equal(
        read_picture(tiff(tmp_path / "a.tif", pixels, {274: value})).rgb, upright(pixels, value)
    )


@pytest.mark.parametrize("kind", [1, 2])
def test_colours_under_a_tiffs_alpha_are_read_as_they_are(tmp_path: Path, kind: int) -> None:
    pixels = photo(channels=4)
    picture = read_picture(tiff(tmp_path / "a.tif", pixels, {338: kind}))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.rgb, pixels[..., :3])
    np.testing.assert_array_equal(picture.alpha, pixels[..., 3])


def test_further_pictures_are_said(tmp_path: Path) -> None:
    frames = cv2.Animation()
    frames.frames, frames.durations = [photo(), photo()[::-1].copy()], [100, 100]
    for ending in (".webp", ".png"):
        assert cv2.imwriteanimation(str(tmp_path / f"many{ending}"), frames)
        save(tmp_path / f"one{ending}", photo())
    tiff(tmp_path / "many.tif", photo(), {}, pages=2)
    tiff(tmp_path / "one.tif", photo(), {})
    for ending in (".webp", ".png", ".tif"):
        assert read_picture(tmp_path / f"many{ending}").notes == (
            "it holds several pictures, only the first was edited",
        )
        assert read_picture(tmp_path / f"one{ending}").notes == ()


def test_sixteen_bits_and_grey_are_said(tmp_path: Path) -> None:
    deep = photo().astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    picture = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(picture.rgb, photo())
    assert "16-bit" in picture.notes[0]
    picture = read_picture(save(tmp_path / "grey.png", photo()[..., 0]))
    assert "grey" in picture.notes[0]
    np.testing.assert_array_equal(picture.rgb[..., 2], photo()[..., 0])


def test_refusals(tmp_path: Path) -> None:
    whole = save(tmp_path / "in.png", photo())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "words.png").write_bytes(b"not a picture at all")
    rows = [
        ("missing.png", "no such file"),
        ("empty.png", "is empty"),
        ("cut.png", "cut short"),
        ("words.png", "not a picture"),
    ]
    for name, words in [*rows, (".", "is a folder")]:
        with pytest.raises(MediaError, match=words) as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    clear = read_picture(save(tmp_path / "clear.png", photo(channels=4)))
    with pytest.raises(MediaError, match=r"\.jpg cannot hold the picture's transparency"):
        check_picture_output(tmp_path / "o.jpg", "x", clear)
    with pytest.raises(MediaError, match=r"ending \.gif is not a picture"):
        check_picture_output(tmp_path / "o.gif", "x")
    with pytest.raises(MediaError, match="is the input itself"):
        check_picture_output(whole, str(whole), overwrite=True)
    with pytest.raises(MediaError, match="exists"):
        check_picture_output(tmp_path / "clear.png", str(whole))


def test_is_picture(tmp_path: Path) -> None:
    for ending in (".png", ".jpg", ".webp", ".bmp", ".tiff"):
        assert is_picture(save(tmp_path / f"a{ending}", photo()))
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert not is_picture(tmp_path / "a.mp4")
    assert not is_picture(tmp_path / "missing.png")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "in.png", photo()))
    with pytest.raises(MediaError, match="appeared while"):
        write_picture(picture, tmp_path / "in.png")
    assert os.listdir(tmp_path) == ["in.png"]
    np.testing.assert_array_equal(read_picture(tmp_path / "in.png").rgb, photo())
