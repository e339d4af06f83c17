"""Which calls go together, and when: nothing but arithmetic, time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mien.engine.errors import ShapeError
from mien.engine.row_queue import RowCall, RowQueue
from mien.engine.rows import RowCounts, run_batch
from mien.engine.types import Array


def call(network: Any, rows: int = 1, due_s: float = 1.0, tokens: int = 0, value: float = 0.0) -> RowCall:
    arrays = {"x": np.full((rows, 4), value, np.float32), "bank": np.zeros((rows, tokens, 2), np.float32)}
    return RowCall(network, arrays, due_s)


def queue(*calls: RowCall, largest: int = 4) -> RowQueue:
    made = RowQueue(largest)
    for one in calls:
        made.add(one)
    return made


def test_a_call_waits_until_its_time(network_of: Any) -> None:
    waiting = queue(one := call(network_of(dict)), call(one.network, due_s=2.0))
    assert waiting.due(0.999, everybody_waits=False) == []
    assert waiting.due_in_s(0.25) == 0.75 and waiting.due_in_s(5.0) == 0.0
    assert len(waiting.due(1.0, everybody_waits=False)) == 2, "what waits of its kind goes with it"
    assert waiting.due(1.0, everybody_waits=False)[0] is one, "and stays until it is removed"
    waiting.remove([one])
    assert waiting.due(1.0, everybody_waits=False) == [] and waiting.due_in_s(1.0) == 1.0
    assert RowQueue(4).due_in_s(0.0) == float("inf")


def test_a_full_batch_waits_for_nobody(network_of: Any) -> None:
    network = network_of(dict)
    waiting = queue(*(calls := [call(network, rows) for rows in (2, 1)]))
    assert waiting.due(0.0, everybody_waits=False) == []
    waiting.add(late := call(network, 2))
    assert waiting.due(0.0, everybody_waits=False) == calls, "the third does not fit"
    waiting.remove(calls)
    assert waiting.due(0.0, everybody_waits=False) == []
    assert waiting.due(0.0, everybody_waits=True) == [late]


def test_more_rows_than_the_largest_are_a_batch_of_their_own(network_of: Any) -> None:
    network = network_of(dict)
    waiting = queue(big := call(network, 9), small := call(network))
    assert waiting.due(0.0, everybody_waits=False) == [big]
    waiting.remove([big])
    assert waiting.due(0.0, everybody_waits=True) == [small]


def test_other_shapes_types_and_networks_go_in_turn_by_age(network_of: Any) -> None:
    network, other = network_of(dict), network_of(dict)
    first, long, second = call(network), call(network, tokens=3), call(network)
    elsewhere, coarse = call(other), call(network)
    coarse = RowCall(network, {name: array.astype(np.float16) for name, array in coarse.arrays.items()})
    waiting = queue(first, long, second, elsewhere, coarse)
    batches = []
    while batch := waiting.due(0.0, everybody_waits=True):
        batches.append(batch)
        waiting.remove(batch)
    assert batches == [[first, second], [long], [elsewhere], [coarse]]


@pytest.mark.parametrize(
    "arrays",
    [{}, {"x": np.zeros((2, 3)), "t": np.zeros(3)}, {"x": np.zeros((0, 3))}, {"x": np.float32(1)}, {"x": None}],
)
def test_calls_without_rows_are_refused(arrays: Any) -> None:
    with pytest.raises(ShapeError, match="rows"):
        RowCall(None, arrays)  # type: ignore[arg-type]


class Sizes:
    """A network that remembers how many rows it was given, and answers each row its own."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Array, bank: Array) -> Mapping[str, Array]:
        self.sizes.append(len(x))
        return {"y": 2 * x, "kept": np.arange(len(x))}


@pytest.mark.parametrize(
    ("rows", "ran"),
    [
        ((1,), [1]), ((2, 1), [4]), ((1, 1, 1, 1), [4]), ((3, 4), [8]), ((9,), [8, 1]), ((17,), [8, 8, 1]), ((13,), [8, 8]),
        ((16,), [8, 8]), ((5,), [8]),
    ],
)  # fmt: skip
def test_padding_and_splitting(rows: tuple[int, ...], ran: list[int]) -> None:
    network: Any = Sizes()
    calls = [call(network, n, value=i) for i, n in enumerate(rows)]
    answers, counts = run_batch(calls, (1, 2, 4, 8), np.concatenate)
    assert network.sizes == ran
    assert counts == RowCounts(len(ran), sum(rows), sum(ran) - sum(rows))
    for i, (answer, n) in enumerate(zip(answers, rows, strict=True)):
        np.testing.assert_array_equal(answer["y"], np.full((n, 4), 2 * i, np.float32))
        assert len(answer["kept"]) == n


def test_pad_rows_are_the_last_row_again() -> None:
    seen: list[Array] = []
    network: Any = lambda x, bank: seen.append(x) or {"y": x}  # noqa: E731
    run_batch([call(network, 1, value=3.0), call(network, 2, value=5.0)], (4,), np.concatenate)
    assert seen[0][:, 0].tolist() == [3.0, 5.0, 5.0, 5.0]


def test_a_row_alone_is_given_as_it_is() -> None:
    given: list[Array] = []
    network: Any = lambda x, bank: given.append(x) or {"y": x}  # noqa: E731
    run_batch([one := call(network, 2)], (1, 2), np.concatenate)
    assert given[0] is one.arrays["x"]


def test_answers_of_other_rows_are_refused() -> None:
    network: Any = lambda x, bank: {"y": x[:1]}  # noqa: E731
    with pytest.raises(ShapeError, match="'y' has 1 rows for 2"):
        run_batch([call(network, 2)], (1, 2), np.concatenate)


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    network: Any = lambda x: {"y": x + 1}  # noqa: E731
    calls = [RowCall(network, {"x": torch.full((n, 2), float(n))}) for n in (1, 2)]
    answers, counts = run_batch(calls, (4,), torch.cat)
    assert [answer["y"].tolist() for answer in answers] == [[[2.0, 2.0]], [[3.0, 3.0]] * 2] and counts.padded == 1
