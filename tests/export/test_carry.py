"""What travels to a machine without the training data, and comes back the same there."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mien.export.tiny import carry, uncarry
from mien.export.tiny.dataset import Prepared
from mien.export.tiny.prepare import padded_matrix
from mien.export.tiny.stage import Arguments
from mien.export.tiny.teachers import MESH_TO_68

TILES, SIDE = 3, 320


def smooth(rng: np.random.Generator, channels: int) -> np.ndarray:
    """A picture (320, 320, channels) with large shapes only."""
    small = rng.integers(0, 256, (6, 6, channels), np.uint8)
    return cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).reshape(SIDE, SIDE, channels)


def face_points(rng: np.random.Generator) -> np.ndarray:
    """A mesh (478, 3) whose eyes and mouth lie where those of an upright face do."""
    points = rng.uniform(100, 280, (478, 3))
    points[[MESH_TO_68[i] for i in range(36, 42)], :2] = (150, 170)
    points[[MESH_TO_68[i] for i in range(42, 48)], :2] = (230, 172)
    points[[MESH_TO_68[48], MESH_TO_68[54]], :2] = ((165, 250), (215, 251))
    return points.astype(np.float32)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder as `prepare` and the training stages leave it."""
    rng = np.random.default_rng(0)
    prepared = tmp_path / "runs" / "prepared"
    prepared.mkdir(parents=True)
    tile_points = np.stack([face_points(rng) for _ in range(TILES)])
    moved = []
    for points in tile_points:
        m = padded_matrix(points[MESH_TO_68, :2])
        scale = np.sqrt(np.linalg.det(m[:, :2]))
        moved.append(np.concatenate([points[:, :2] @ m[:, :2].T + m[:, 2], points[:, 2:] * scale], 1))
    arrays = {
        "crops": np.stack([smooth(rng, 3) for _ in range(TILES)]),
        "hair": np.stack([smooth(rng, 1)[..., 0] for _ in range(TILES)]),
        "person": np.stack([smooth(rng, 1)[..., 0] for _ in range(TILES)]),
        "valid": np.where(rng.random((TILES, SIDE, SIDE)) < 0.5, 255, 0).astype(np.uint8),
        "points": np.stack(moved).astype(np.float32),
        "tile_points": tile_points,
    }
    for name, array in arrays.items():
        np.save(prepared / f"{name}.npy", array)
    (prepared / "index.json").write_text(json.dumps([{"file": "ä.jpg", "split": s} for s in ("train", "val", "train")]))
    for stage in ("autoencoder", "difference"):
        (tmp_path / "runs" / stage).mkdir()
        content = {"kwargs": {"latent_channels": 4}, "state": {"a": torch.randn(5), "n": torch.tensor(3)}}
        torch.save(content, tmp_path / "runs" / stage / "final.pt")
    return tmp_path / "runs"


def carried(runs: Path) -> Path:
    """Pack a runs folder, and unpack it into another one beside it."""
    again = runs.parent / "again"
    carry.run(Arguments(data=runs, runs=runs, minutes=0))
    uncarry.run(Arguments(data=runs, runs=again, minutes=0, carry=runs / "carry"))
    return again


def test_prepared_tiles_come_back(runs: Path) -> None:
    before, after = Prepared.open(runs), Prepared.open(carried(runs))
    assert after.rows == before.rows
    np.testing.assert_array_equal(after.train_ids, [0, 2])
    np.testing.assert_array_equal(after.valid, before.valid)
    np.testing.assert_allclose(after.tile_points, before.tile_points, atol=0.5 / carry.POINT_STEPS + 1e-4)
    np.testing.assert_allclose(after.points, before.points, atol=0.1)
    for name in carry.PICTURES:
        old, new = getattr(before, name), getattr(after, name)
        assert new.shape == old.shape and new.dtype == old.dtype
        assert np.square(new.astype(float) - old).mean() < 255**2 / 10**3.5, f"{name}: less than 35 dB"


def test_weights_come_back_in_their_own_type(runs: Path) -> None:
    again = carried(runs)
    for stage, tolerance in (("autoencoder", 0.0), ("difference", 1e-3)):
        old, new = (torch.load(r / stage / "final.pt", weights_only=True) for r in (runs, again))
        assert new["kwargs"] == old["kwargs"]
        torch.testing.assert_close(new["state"], old["state"], rtol=tolerance, atol=0)  # checks the types, too
    assert not (again / "denoiser").exists(), "there was none to carry"


def test_what_is_there_is_kept(runs: Path) -> None:
    again = carried(runs)
    torch.save({}, again / "difference" / "final.pt")
    uncarry.run(Arguments(data=runs, runs=again, minutes=0, carry=runs / "carry"))
    assert torch.load(again / "difference" / "final.pt", weights_only=True) == {}


def test_too_much_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry, "LIMIT_MB", 0.001)
    with pytest.raises(ValueError, match=r"MB, more than 0"):
        carry.run(Arguments(data=runs, runs=runs, minutes=0))
