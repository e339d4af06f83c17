"""Training on a device other than the CPU: nothing of a step may be left on the host. The device is `meta`, which only knows shapes."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.engine.face.coordinates import MEAN_FACE
from mien.engine.networks.denoiser import Denoiser
from mien.export.tiny import denoiser, difference
from mien.export.tiny.edit_pairs import EditPairs, Noiser, alphas_cumprod, fixed_noise
from mien.export.tiny.loop import Recipe, train
from mien.export.tiny.paint import EDITS
from mien.export.tiny.stage import Arguments

CHANNELS, SAMPLES, ENTRIES = 4, 10, len(EDITS) + 1
DEVICE = "meta"


@pytest.fixture
def pairs(tmp_path: Path) -> EditPairs:
    """Random pairs, the last two samples for validation."""
    rng = np.random.default_rng(0)
    latents, views = (CHANNELS, 32, 32), (128, 128, 3)
    arrays = {
        "plain_w": rng.integers(0, 255, (SAMPLES, *views), np.uint8),
        "source_z": rng.standard_normal((SAMPLES, ENTRIES, *latents)).astype(np.float16),
        "target_z": rng.standard_normal((SAMPLES, ENTRIES, *latents)).astype(np.float16),
        "target_w": rng.integers(0, 255, (SAMPLES, ENTRIES, *views), np.uint8),
        "strengths": rng.uniform(0, 1, (SAMPLES, ENTRIES, len(EDITS))).astype(np.float32),
        "points": (rng.normal(0, 2, (SAMPLES, ENTRIES, 68, 2)) + 256 * MEAN_FACE).astype(np.float16),
        "is_val": np.arange(SAMPLES) >= SAMPLES - 2,
    }
    (tmp_path / "pairs").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "pairs" / f"{name}.npy", array)
    return EditPairs(tmp_path, DEVICE)


@pytest.fixture
def noiser(monkeypatch: pytest.MonkeyPatch) -> Noiser:
    """The schedule on the device, with small batches in full precision."""
    for module in (difference, denoiser):
        monkeypatch.setattr(module, "BATCH", 4)
        monkeypatch.setattr(module, "mixed_precision", lambda _: nullcontext())
    return Noiser(alphas_cumprod().to(DEVICE))


def test_all_that_pairs_answer_is_on_the_device(pairs: EditPairs) -> None:
    ids, entries = np.array([0, 3]), np.array([1, 2])
    answers = [*pairs.latents(ids, entries), pairs.energy(pairs.strengths[ids, entries])]
    answers += [
        pairs.coordinates(ids, entries, np.random.default_rng(0)),
        pairs.plain_views(ids),
        pairs.target_views(ids, entries),
        fixed_noise(pairs),
    ]
    assert {answer.device.type for answer in answers} == {DEVICE}
    assert [tuple(a.shape) for a in answers[:2]] == [(2, CHANNELS, 32, 32)] * 2
    assert answers[3].shape == (2, 2, 32, 32)
    assert answers[4].shape == answers[5].shape == (2, 3, 128, 128)


def test_a_step_of_the_difference_stays_on_the_device(pairs: EditPairs, noiser: Noiser) -> None:
    model = difference.EditModel(CHANNELS).to(DEVICE)
    for step in range(6):  # some of them look at the target pictures
        loss = difference.training_loss(model, pairs, noiser, np.random.default_rng(step), DEVICE)
        loss.backward()
        assert loss.device.type == DEVICE
    assert all(p.grad is not None for p in model.parameters())


def test_a_step_of_the_denoiser_stays_on_the_device(pairs: EditPairs, noiser: Noiser) -> None:
    model, directions = Denoiser(CHANNELS).to(DEVICE), torch.randn(len(EDITS), 12, 64, device=DEVICE)
    codes = denoiser.encode_all(difference.EditModel(CHANNELS).to(DEVICE).w_encoder, pairs)
    assert codes.shape == (SAMPLES, 12, 64) and codes.device.type == DEVICE
    for step in range(8):  # some of them read a bank
        rng = np.random.default_rng(step)
        denoiser.training_loss(model, pairs, noiser, codes, directions, rng, DEVICE).backward()


def test_the_loop_does_not_wait_for_the_device(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).to(DEVICE)
    steps: list[int] = []

    def loss(step: int) -> torch.Tensor:
        steps.append(step)
        return model(torch.randn(8, 3, device=DEVICE)).square().mean()

    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0.2 / 60, device=DEVICE)
    train("small", args, model, loss, lambda _: "", Recipe(1e-2, 1e-2))  # reading a value from `meta` raises
    assert len(steps) > 2


def test_batches_are_larger_on_a_gpu() -> None:
    for module in (difference, denoiser):
        assert module.batch_size("cpu") == module.BATCH < module.CUDA_BATCH == module.batch_size("cuda:0")


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(tmp_path: Path) -> None:
    def drawn(name: str, seed: int, *minutes: float) -> dict[int, float]:
        torch.manual_seed(99)  # what was drawn before a run has no part in it
        seen: dict[int, float] = {}
        for budget in minutes:
            model = torch.nn.Linear(3, 3)

            def loss(step: int, model: torch.nn.Module = model) -> torch.Tensor:
                noise = torch.randn(8, 3)
                seen[step] = float(noise[0, 0])
                return model(noise).square().mean()

            args = Arguments(data=tmp_path, runs=tmp_path, minutes=budget, seed=seed)
            train(name, args, model, loss, lambda _: "", Recipe(1e-2, 1e-2))
        return seen

    whole, parts, other = drawn("a", 0, 0.01), drawn("b", 0, 0.002, 0.004, 0.006), drawn("c", 1, 0.002)
    common = whole.keys() & parts.keys()
    assert len(common) > 20 and all(whole[step] == parts[step] for step in common)
    assert len({*whole.values()}) > 0.9 * len(whole) and not {*whole.values()} & {*other.values()}


def test_weights_are_averaged_in_place(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    seen: list[torch.Tensor] = []

    def loss(_: int) -> torch.Tensor:
        seen.append(model[0].weight.detach().clone())
        return model(torch.randn(8, 3)).square().mean()

    args = Arguments(data=tmp_path, runs=tmp_path, minutes=0.3 / 60)
    average = train("small", args, model, loss, lambda _: "", Recipe(1e-2, 1e-2))
    expected = seen[0]
    for step, weight in enumerate([*seen[1:], model[0].weight.detach()]):
        keep = min(0.998, step / (step + 10))
        expected = keep * expected + (1 - keep) * weight
    torch.testing.assert_close(average[0].weight, expected)
    assert average[1].num_batches_tracked == 0 and bool((average[1].running_var != 1).all())
