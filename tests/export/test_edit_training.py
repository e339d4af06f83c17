"""The stages that learn the edits, on made-up latents: what they are shown, and that they learn it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.networks.denoiser import Denoiser
from mien.engine.schedule import Schedule
from mien.export.tiny import denoiser, difference, edit_pairs
from mien.export.tiny.edit_pairs import EditPairs, Noiser, alphas_cumprod
from mien.export.tiny.loop import Recipe
from mien.export.tiny.paint import EDITS

CHANNELS, SAMPLES = 4, 40


@pytest.fixture
def pairs(tmp_path: Path) -> EditPairs:
    """Edit e adds (e + 1) / 4 times the strength to channel e % 4; the last entry is of the first two edits."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((SAMPLES, CHANNELS, 32, 32)).astype(np.float16)
    strength = np.where(np.arange(SAMPLES) >= 32, 1.0, rng.uniform(0.3, 1.0, SAMPLES)).astype(np.float32)
    entries = np.concatenate([np.eye(len(EDITS)), [[1, 1] + [0] * (len(EDITS) - 2)]])
    adds = np.zeros((len(EDITS), CHANNELS))
    for e in range(len(EDITS)):
        adds[e, e % CHANNELS] = (e + 1) / 4
    strengths = (strength[:, None, None] * entries).astype(np.float32)
    source = np.repeat(plain[:, None], len(entries), 1)
    arrays = {
        "plain_w": rng.integers(0, 255, (SAMPLES, 128, 128, 3), np.uint8),
        "source_z": source,
        "target_z": source + (strengths @ adds)[..., None, None].astype(np.float16),
        "target_w": rng.integers(0, 255, (SAMPLES, len(entries), 128, 128, 3), np.uint8),
        "strengths": strengths,
        "points": (rng.normal(0, 2, (SAMPLES, len(entries), 68, 2)) + 256 * MEAN_FACE).astype(np.float16),
        "is_val": np.arange(SAMPLES) >= 32,
    }
    (tmp_path / "pairs").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "pairs" / f"{name}.npy", array)
    return EditPairs(tmp_path)


def test_pairs_know_the_energy_of_edits(pairs: EditPairs) -> None:
    expected = [((e + 1) / 4) ** 2 / CHANNELS for e in range(len(EDITS))]
    found = pairs.energy(pairs.strengths[35])
    np.testing.assert_allclose(found[:-1].mean((1, 2, 3)), expected, rtol=0.01)
    np.testing.assert_allclose(found[-1].mean(), sum(expected[:2]), rtol=0.01)
    np.testing.assert_allclose(pairs.energy(pairs.strengths[0]), found, err_msg="the same at any strength")
    assert found.shape == (len(EDITS) + 1, 1, 32, 32)
    assert pairs.entries == len(EDITS) + 1 and len(pairs.train) == 32 and len(pairs.val) == 8


def test_energy_is_measured_on_train_pairs_alone(tmp_path: Path, pairs: EditPairs) -> None:
    folder, given = tmp_path / "pairs", pairs.strengths[35]
    target = np.load(folder / "target_z.npy")
    target[32:] += 5
    np.save(folder / "target_z.npy", target)
    np.testing.assert_array_equal(EditPairs(tmp_path).energy(given), pairs.energy(given))
    strengths = np.load(folder / "strengths.npy")
    strengths[:32, 1] *= 0.3
    np.save(folder / "strengths.npy", strengths)
    with pytest.raises(ValueError, match=EDITS[1]):
        EditPairs(tmp_path)


def test_landmarks_are_off_as_the_network_is() -> None:
    """What was measured on faces it has not seen: 2.2 px, 3.0 on the jaw; neighbours err together, the corners of the eyes do not."""
    rng = np.random.default_rng(0)
    off = np.stack([edit_pairs.landmark_error(rng) for _ in range(3000)])
    apart = np.linalg.norm(off, axis=-1).mean(0)
    assert 2.0 < apart[17:].mean() < 2.6 and 2.6 < apart[:17].mean() < 3.2
    along_x, along_y = (np.corrcoef(off[..., axis].T) for axis in (0, 1))
    assert along_x[36, 37] > 0.9 and along_y[3, 4] > 0.85 and along_x[36, 45] < 0.45
    x, y = off.mean(1).std(0)
    assert 0.9 < x < 1.3 and 1.5 < y < 1.9


def test_coordinates_in_training_are_off_by_shares_of_the_face(tmp_path: Path, pairs: EditPairs) -> None:
    ids, entries = np.arange(8), np.zeros(8, int)

    def moved() -> float:
        exact = EditPairs(tmp_path).coordinates(ids, entries)
        return float((EditPairs(tmp_path).coordinates(ids, entries, np.random.default_rng(0)) - exact).abs().mean())

    usual = moved()
    assert 0.003 < usual < 0.05
    path = tmp_path / "pairs" / "points.npy"
    np.save(path, ((np.load(path) - 127.5) / 1.3 + 127.5).astype(np.float16))
    assert moved() == pytest.approx(usual, rel=0.2)  # in the wider crop the face is smaller, and so are the errors


def test_what_is_faint_somewhere_counts_there(tmp_path: Path, pairs: EditPairs) -> None:
    folder = tmp_path / "pairs"
    target = np.load(folder / "target_z.npy")
    target[:, 0, :, :16] += 3 * (target[:, 0, :, :16] - np.load(folder / "source_z.npy")[:, 0, :, :16])  # 4 times above
    np.save(folder / "target_z.npy", target)
    above, below = EditPairs(tmp_path).energy(pairs.strengths[35, :1])[0, 0].chunk(2)
    even = edit_pairs.EVEN_SHARE * (16 + 1) / 2
    expected = (even + (1 - edit_pairs.EVEN_SHARE) * 16) / (even + (1 - edit_pairs.EVEN_SHARE))
    np.testing.assert_allclose(above.mean() / below.mean(), expected, rtol=0.01)


def test_noising_is_the_engines() -> None:
    noiser, schedule = Noiser(alphas_cumprod()), Schedule()
    z, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    ours = noiser(z, noise, torch.tensor([300.0, 20.0]))
    for row, t in enumerate((300, 20)):
        torch.testing.assert_close(ours[row], schedule.add_noise(z[row], noise[row], t), rtol=1e-4, atol=1e-5)


def test_directions_add_up_by_their_strengths() -> None:
    directions = torch.randn(3, 12, 64)
    change = difference.code_change(directions, torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.0, -1.0]]))
    torch.testing.assert_close(change[0], 0.5 * directions[0])
    torch.testing.assert_close(change[1], directions[0] - directions[2])


def test_going_on_keeps_directions_by_name(tmp_path: Path) -> None:
    old, new = difference.EditModel(CHANNELS), difference.EditModel(CHANNELS)
    kept = {"difference": old.difference.state_dict(), "w_encoder": old.w_encoder.state_dict()}
    torch.save(kept | {"directions": {EDITS[2]: old.directions[0].detach()}}, tmp_path / "final.pt")
    begun = new.directions.detach().clone()
    difference.go_on_from(new, tmp_path / "final.pt")
    assert torch.equal(new.directions[2], old.directions[0]) and torch.equal(new.directions[1], begun[1])
    assert all(torch.equal(a, b) for a, b in zip(old.difference.parameters(), new.difference.parameters(), strict=True))


def test_what_goes_on_does_not_learn_to_answer_nothing_first() -> None:
    begun = [difference.sharpness_at(step, False) for step in (0, 2000, 4000, 9000)]
    assert begun == [0.0, 0.25, 0.5, 0.5]
    assert difference.sharpness_at(0, True) == 0.5


def test_the_difference_is_learned(pairs: EditPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(pairs, "entries", 3)  # the first three: enough to learn in seconds
    monkeypatch.setattr(edit_pairs, "VALIDATED", EDITS[:3])
    model, noiser = difference.EditModel(CHANNELS), Noiser(alphas_cumprod())
    monkeypatch.setattr(difference, "BATCH", 8)
    first = model.directions.detach()[:3].clone()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def missed() -> float:
        scores = difference.validate(model, pairs, noiser, torch.nn.Identity(), None)
        return sum(scores.values()) / len(scores)

    before = missed()
    assert before == pytest.approx(1.0, abs=0.1), "an untrained network answers nothing"
    for step in range(60):
        loss = difference.training_loss(model, pairs, noiser, np.random.default_rng(step), "cpu")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert missed() < 0.7 * before
    assert all((now - then).abs().max() > 1e-3 for now, then in zip(model.directions, first, strict=False))


def test_the_denoiser_sees_edited_and_unedited_rows(pairs: EditPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "BATCH", 4)
    model, codes = Denoiser(CHANNELS), torch.randn(SAMPLES, 12, 64)
    seen: list[torch.Tensor] = []
    real = model.forward

    def spy(latents: torch.Tensor, timestep: torch.Tensor, w_plus: torch.Tensor, *rest: torch.Tensor) -> object:
        seen.append(w_plus)
        return real(latents, timestep, w_plus, *rest)

    monkeypatch.setattr(model, "forward", spy)
    directions = torch.ones(len(EDITS), 12, 64)
    loss = denoiser.training_loss(
        model, pairs, Noiser(alphas_cumprod()), codes, directions, np.random.default_rng(5), "cpu"
    )
    own, edited = seen[-1].chunk(2)
    change = (edited - own).flatten(1)
    assert bool((change > 0.25).all()) and float(change.std(1).max()) < 1e-5, "strength times the direction"
    assert loss.item() > 0


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(1e-3, 1e-5, warm_up=0.1)
    assert recipe.rate(0.0) == pytest.approx(2e-5) and recipe.rate(0.05) == pytest.approx(5e-4)
    assert recipe.rate(0.1) == pytest.approx(1e-3) and recipe.rate(0.55) == pytest.approx(5.05e-4)
    assert recipe.rate(1.0) == recipe.rate(2.0) == pytest.approx(1e-5)
