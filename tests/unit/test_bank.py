"""The key and value bank: what a row reads in its track's first, second and later frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mien.engine.bank import Bank, Held, bank_layers
from mien.engine.errors import ShapeError
from mien.engine.types import TensorSpec

N, C = 3, 2
INPUTS = {"latents": TensorSpec((None, 4, 8, 8))} | {
    f"bank_{kind}_{i}": TensorSpec((None, None, C)) for kind in "kv" for i in (0, 10)
}
ROWS = [("source", 500), ("edited", 500)]


def zeros(shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, np.float32)


def answer(frame: int, rows: int = 2) -> dict[str, Any]:
    base = np.arange(rows, dtype=np.float32)[:, None, None] + 10 * frame
    return {f"own_{k}_{i}": np.broadcast_to(base, (rows, N, C)).copy() for k in "kv" for i in (0, 10)} | {"v": base}


def read(bank: Bank) -> Any:
    return bank.read(ROWS, INPUTS, np.concatenate, zeros)


def test_layers() -> None:
    assert bank_layers(INPUTS) == (0, 10)


def test_anchor_and_previous_per_row() -> None:
    bank = Bank()
    assert read(bank)["bank_k_0"].shape == (2, 0, C)
    bank.write(ROWS, answer(0))
    assert read(bank)["bank_v_10"].shape == (2, 0, C), "a frame does not see itself"
    bank.step_frame()
    np.testing.assert_array_equal(read(bank)["bank_k_0"][:, :, 0], [[0] * N, [1] * N])
    for frame in (1, 2, 3):
        bank.write(ROWS, answer(frame))
        bank.step_frame()
        got = read(bank)
        assert set(got) == set(INPUTS) - {"latents"}
        previous = 10 * frame
        np.testing.assert_array_equal(
            got["bank_v_10"][:, :, 1], [[0] * N + [previous] * N, [1] * N + [previous + 1] * N]
        )
    bank.reset()
    assert read(bank)["bank_k_10"].shape == (2, 0, C)


def test_steps_have_rows_of_their_own() -> None:
    bank = Bank()
    bank.write(ROWS, answer(0))
    bank.step_frame()
    assert bank.read([("source", 250)], INPUTS, np.concatenate, zeros)["bank_k_0"].shape == (1, 0, C)


def test_unequal_rows_are_refused() -> None:
    bank = Bank()
    bank.write(ROWS[:1], answer(0, 1))
    bank.step_frame()
    with pytest.raises(ShapeError):
        read(bank)


def test_frames_and_layers_may_be_chosen() -> None:
    bank = Bank()
    for frame in (0, 1, 2):
        bank.write(ROWS, answer(frame))
        bank.step_frame()

    def chosen(*frames: Held) -> list[float]:
        got = bank.read(ROWS[:1], INPUTS, np.concatenate, zeros, frames, layers=(10,))
        assert got["bank_k_0"].shape == (1, 0, C), "a layer that was not asked for reads nothing"
        return [float(v) for v in got["bank_k_10"][0, ::N, 0]]

    assert chosen("anchor") == [0.0] and chosen("previous") == [20.0] and chosen("anchor", "previous") == [0.0, 20.0]


def test_the_second_frame_has_one_frame_behind_it() -> None:
    bank = Bank()
    bank.write(ROWS, answer(7))
    bank.step_frame()
    for frames in (("anchor",), ("previous",), ("anchor", "previous")):
        got = bank.read(ROWS[:1], INPUTS, np.concatenate, zeros, frames)  # type: ignore[arg-type]
        np.testing.assert_array_equal(got["bank_v_0"][0, :, 0], [70.0] * N)


def test_only_what_a_policy_sees_is_kept() -> None:
    for frames, anchors, previous in ((("anchor",), [0.0], []), (("previous",), [], [20.0])):
        bank = Bank(frames)  # type: ignore[arg-type]
        for frame in (0, 1, 2):
            bank.write(ROWS[:1], answer(frame, 1))
            bank.step_frame()
        kept = [[float(own["own_k_0"][0, 0, 0]) for own in held.values()] for held in (bank.anchor, bank.previous)]
        assert kept == [anchors, previous]
        got = bank.read(ROWS[:1], INPUTS, np.concatenate, zeros, frames)  # type: ignore[arg-type]
        assert [float(v) for v in got["bank_k_0"][0, ::N, 0]] == [*anchors, *previous]
