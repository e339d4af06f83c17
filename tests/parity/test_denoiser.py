"""The tiny denoiser's properties, on random weights."""

import pytest
import torch

from mien.engine.networks.denoiser import Denoiser, DifferenceDenoiser, timestep_embedding


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(8).eval()
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)  # it starts at zero
    return model


def _inputs(batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 8, 32, 32, generator=generator)
    w_plus = torch.randn(batch, 12, 64, generator=generator)
    return latents, torch.full((batch,), 400.0), w_plus, torch.ones(batch)


def _empty(model: Denoiser, batch: int) -> list[torch.Tensor]:
    return [torch.zeros(batch, 0, channels) for channels in model.bank_channels for _ in range(2)]


@torch.no_grad()
def test_a_bank_of_ones_own_keys_changes_nothing(denoiser: Denoiser) -> None:
    inputs = _inputs()
    v, *own = denoiser(*inputs, *_empty(denoiser, 2))
    # softmax over every key twice gives each the half of its weight, so the attended value stays
    again, *_ = denoiser(*inputs, *own)
    torch.testing.assert_close(again, v, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_faces_bank_changes_the_answer(denoiser: Denoiser) -> None:
    inputs = _inputs()
    v, *own = denoiser(*inputs, *_empty(denoiser, 2))
    swapped = [t.flip(0) for t in own]
    other, *_ = denoiser(*inputs, *swapped)
    assert (other - v).abs().max() > 1e-3


@torch.no_grad()
def test_w_scale_zero_ignores_the_code(denoiser: Denoiser) -> None:
    latents, t, w_plus, scale = _inputs()
    bank = _empty(denoiser, 2)
    a = denoiser(latents, t, w_plus, 0 * scale, *bank)[0]
    b = denoiser(latents, t, -w_plus, 0 * scale, *bank)[0]
    c = denoiser(latents, t, -w_plus, scale, *bank)[0]
    torch.testing.assert_close(a, b)
    assert (c - b).abs().max() > 1e-3


@torch.no_grad()
def test_rows_do_not_see_each_other(denoiser: Denoiser) -> None:
    inputs = _inputs(3)
    together = denoiser(*inputs, *_empty(denoiser, 3))[0]
    alone = torch.cat([denoiser(*(t[i : i + 1] for t in inputs), *_empty(denoiser, 1))[0] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_timestep_embedding_known_values() -> None:
    low = 10_000**-0.5
    angles = torch.tensor([[0.0, 0.0], [3.0, 3 * low]])
    torch.testing.assert_close(
        timestep_embedding(torch.tensor([0.0, 3.0]), 4), torch.cat([angles.cos(), angles.sin()], 1)
    )


@torch.no_grad()
def test_no_bank_is_an_empty_bank(denoiser: Denoiser) -> None:
    inputs = _inputs()
    torch.testing.assert_close(denoiser(*inputs)[0], denoiser(*inputs, *_empty(denoiser, 2))[0])


@torch.no_grad()
def test_the_difference_reads_all_it_is_given() -> None:
    torch.manual_seed(0)
    model = DifferenceDenoiser(8).eval()
    torch.nn.init.normal_(model.trunk.conv_out.weight, std=0.1)
    latents, t, w_plus, _ = _inputs()
    coordinates = torch.rand(2, 2, 32, 32) - 0.5
    inputs = [latents, latents.flip(0), t, w_plus, w_plus + 0.2, coordinates]
    answer = model(*inputs)
    assert answer.shape == latents.shape
    for k, value in enumerate(inputs):
        changed = [*inputs[:k], value * 1.1 + 0.1, *inputs[k + 1 :]]
        assert (model(*changed) - answer).abs().max() > 1e-3, f"input {k} is not read"
