"""The stages that learn the edits, on made-up latents: what they are shown, and that they learn it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mien.engine.networks.denoiser import Denoiser
from mien.engine.schedule import Schedule
from mien.export.tiny import denoiser, difference, edit_pairs
from mien.export.tiny.edit_pairs import EditPairs, Noiser, alphas_cumprod
from mien.export.tiny.loop import Recipe
from mien.export.tiny.pairs import EDITS

CHANNELS, SAMPLES, WARPED = 4, 40, EDITS.index("smile")


@pytest.fixture
def pairs(tmp_path: Path) -> EditPairs:
    """Edit e adds (e + 1) / 4 times the strength to channel e % 4; a smile's source is shifted first."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((SAMPLES, CHANNELS, 32, 32)).astype(np.float16)
    strength = np.where(np.arange(SAMPLES) >= 32, 1.0, rng.uniform(0.3, 1.0, SAMPLES)).astype(np.float32)
    source = np.repeat(plain[:, None], len(EDITS), 1)
    source[:, WARPED] = np.roll(plain, 1, -1)
    target = source.copy()
    for e in range(len(EDITS)):
        target[:, e, e % CHANNELS] += ((e + 1) / 4 * strength)[:, None, None].astype(np.float16)
    arrays = {
        "plain_z": plain,
        "plain_w": rng.integers(0, 255, (SAMPLES, 128, 128, 3), np.uint8),
        "source_z": source,
        "target_z": target,
        "target_w": rng.integers(0, 255, (SAMPLES, len(EDITS), 128, 128, 3), np.uint8),
        "strength": np.repeat(strength[:, None], len(EDITS), 1),
        "is_val": np.arange(SAMPLES) >= 32,
    }
    (tmp_path / "pairs").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "pairs" / f"{name}.npy", array)
    return EditPairs(tmp_path)


def test_pairs_know_their_energy_and_what_warps(pairs: EditPairs) -> None:
    expected = [((e + 1) / 4) ** 2 / CHANNELS for e in range(len(EDITS))]
    np.testing.assert_allclose(pairs.energy, expected, rtol=0.01)
    assert pairs.warps.tolist() == [e == WARPED for e in range(len(EDITS))]
    assert len(pairs.train) == 32 and len(pairs.val) == 8


def test_noising_is_the_engines() -> None:
    noiser, schedule = Noiser(alphas_cumprod()), Schedule()
    z, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    ours = noiser(z, noise, torch.tensor([300.0, 20.0]))
    for row, t in enumerate((300, 20)):
        torch.testing.assert_close(ours[row], schedule.add_noise(z[row], noise[row], t), rtol=1e-4, atol=1e-5)


def test_a_second_edit_adds_up_only_where_nothing_warps(pairs: EditPairs) -> None:
    model, count = difference.EditModel(CHANNELS), 8
    ids, edits = pairs.train[:count], np.array([WARPED, 1, 2, 3] * 2)
    rows = (ids, edits, np.array([True] * 4 + [False] * 4))
    zero_z, zero_w = torch.zeros(count, CHANNELS, 32, 32), torch.zeros(count, 12, 64)
    wanted, edited = difference._with_second(model, pairs, np.random.default_rng(3), rows, zero_z, zero_w)
    changed = [bool(z.any()) for z in wanted]
    assert changed == [bool(w.any()) for w in edited]
    assert not changed[0] and not any(changed[4:]), "warped and unmarked rows stay"
    assert any(changed[1:4])


def test_the_difference_is_learned(pairs: EditPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for module in (difference, edit_pairs):
        monkeypatch.setattr(module, "EDITS", EDITS[:3])  # the first three: enough to learn in seconds
    model, noiser = difference.EditModel(CHANNELS), Noiser(alphas_cumprod())
    monkeypatch.setattr(difference, "BATCH", 8)
    first = model.directions.detach().clone()
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
    assert all((now - then).abs().max() > 1e-3 for now, then in zip(model.directions, first, strict=True))


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
