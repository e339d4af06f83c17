"""The stage that learns to draw differences: the pictures it is shown, and that it learns from them."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from mien.engine.networks.autoencoder import DifferenceDecoder
from mien.export.tiny import difference_decoder, edit_pictures
from mien.export.tiny.dataset import write_samples
from mien.export.tiny.edit_pictures import LATENT_PX, WINDOW, EditPictures
from mien.export.tiny.paint import EDITS
from mien.export.tiny.stage import Arguments

SAMPLES, ENTRIES, CHANNELS, SIDE = 12, len(EDITS) + 1, 3, 32


def means(pictures: np.ndarray) -> np.ndarray:
    """Latents (..., 3, 32, 32) of pictures: the mean of every block of pixels, in [-1, 1]."""
    blocks = pictures.reshape(*pictures.shape[:-3], SIDE, LATENT_PX, SIDE, LATENT_PX, 3).astype(np.float32)
    return np.moveaxis(blocks.mean((-4, -2)), -1, -3) / 127.5 - 1


@pytest.fixture
def pictures(tmp_path: Path) -> EditPictures:
    """Sources of smooth noise; every edit darkens a square of its own, fainter from edit to edit; the last entry is of two."""
    rng = np.random.default_rng(0)
    small = rng.integers(60, 200, (SAMPLES, 9, 9, 3), np.uint8)
    plain = np.stack([cv2.resize(one, (256, 256), interpolation=cv2.INTER_CUBIC) for one in small])
    source = np.repeat(plain[:, None], ENTRIES, 1)
    target = source.copy()
    strengths = np.zeros((SAMPLES, ENTRIES, len(EDITS)), np.float32)
    for e in range(ENTRIES):
        for one in {e % len(EDITS), 0} if e == len(EDITS) else {e}:
            at = np.s_[:, e, 40:120, 16 * one : 16 * one + 60]
            target[at] = target[at] * (0.3 + 0.05 * one)
            strengths[:, e, one] = 1.0
    folder = tmp_path / "difference_decoder"
    folder.mkdir()
    arrays = {"source": source, "target": target, "strengths": strengths, "is_val": np.arange(SAMPLES) >= 9}
    arrays |= {f"{k}_z": means(a).astype(np.float16) for k, a in (("source", source), ("edited", target))}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return EditPictures(tmp_path)


def test_windows_of_latents_lie_where_those_of_pixels_do(pictures: EditPictures) -> None:
    changed = 0
    for seed in range(4):
        (z, edited, source, target), weights = pictures.windows(np.random.default_rng(seed))
        assert z.shape == edited.shape == (edit_pictures.BATCH, CHANNELS, WINDOW, WINDOW)
        for latents, pixels in ((z, source), (edited, target)):
            torch.testing.assert_close(torch.nn.functional.avg_pool2d(pixels, LATENT_PX), latents, atol=2e-3, rtol=0)
        assert weights.shape == (edit_pictures.BATCH,) and (weights > 0).all()
        changed += int(((target - source).abs().amax((1, 2, 3)) > 0.05).sum())
    assert changed > 0.7 * 4 * edit_pictures.BATCH, "windows are drawn where an edit shows"


def test_faint_edits_weigh_more(pictures: EditPictures) -> None:
    weights = [pictures.weight(0, e) for e in range(len(EDITS))]
    assert weights == sorted(weights) and weights[-1] > 1.3 * weights[0]
    assert pictures.weight(0, len(EDITS)) <= weights[0]


def test_it_learns_the_difference(pictures: EditPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = DifferenceDecoder(CHANNELS, (16, 16), (1, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def nothing(rows: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(rows), 3, 256, 256)

    def errors() -> dict[str, tuple[float, float]]:
        return difference_decoder.validate(model, nothing, pictures, None)

    monkeypatch.setattr(edit_pictures, "BATCH", 8)
    before = errors()
    assert set(before) == {*EDITS, "combined"}
    assert all(pair == pytest.approx((1, 1)) for pair in before.values()), "untrained it answers nothing"
    for step in range(80):
        optimizer.zero_grad()
        rng = np.random.default_rng(step)
        difference_decoder.training_loss(model, pictures, rng, "cpu", step / 80).backward()
        optimizer.step()
    after = errors()
    assert all(two == pytest.approx(1) for _, two in after.values())
    assert max(one for one, _ in after.values()) < 0.5, after


def test_a_step_stays_on_the_device(pictures: EditPictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference_decoder, "mixed_precision", lambda _: nullcontext())
    model = DifferenceDecoder(CHANNELS, (16, 16), (1, 1)).to("meta")
    loss = difference_decoder.training_loss(model, pictures, np.random.default_rng(0), "meta", 1.0)
    loss.backward()
    assert loss.device.type == "meta" and all(p.grad is not None for p in model.parameters())


def test_samples_are_whole_or_not_there(tmp_path: Path) -> None:
    rows = [(np.full((2, 3), n, np.uint8), np.full(4, n, np.float32)) for n in range(5)]
    is_val = [False, False, True, False, True]
    write_samples(tmp_path, ("a", "b"), rows, is_val, 2)
    assert np.array_equal(np.load(tmp_path / "is_val.npy"), is_val)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.stack([a for a, _ in rows]))
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.stack([b for _, b in rows]))

    def broken() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield rows[0]
        raise MemoryError

    with pytest.raises(MemoryError):
        write_samples(tmp_path, ("a", "b"), broken(), is_val, 2)
    assert not (tmp_path / "is_val.npy").exists(), "what was there is overwritten in part"


def test_samples_of_older_networks_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def write(folder: Path, *_: object) -> None:
        calls.append(folder)
        folder.mkdir(exist_ok=True)
        (folder / "is_val.npy").touch()

    nobody = np.array([], int)
    monkeypatch.setattr(edit_pictures, "write_samples", write)
    opened = SimpleNamespace(open=lambda runs: SimpleNamespace(train_ids=nobody, val_ids=nobody))
    monkeypatch.setattr(edit_pictures, "Prepared", opened)
    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0)
    for name in ("autoencoder", "difference"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "final.pt").touch()
    for newer, expected in ((None, 1), (None, 1), ("difference", 2), (None, 2), ("autoencoder", 3)):
        if newer is not None:
            ahead = (tmp_path / "difference_decoder" / "is_val.npy").stat().st_mtime + 10
            os.utime(tmp_path / newer / "final.pt", (ahead, ahead))
        edit_pictures.make(args)
        if newer is not None:
            os.utime(tmp_path / "difference_decoder" / "is_val.npy", (ahead + 10, ahead + 10))
        assert len(calls) == expected, newer
