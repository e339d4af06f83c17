"""What a process runs on."""

import numpy as np
import pytest

from mien.engine.config import EngineConfig, usable_cores
from mien.engine.errors import InputError


@pytest.mark.parametrize(("threads", "frames", "each"), [(4, 1, 4), (4, 2, 2), (5, 2, 2), (2, 8, 1), (1, 1, 1)])
def test_frames_at_a_time_share_the_threads(threads: int, frames: int, each: int) -> None:
    one = EngineConfig(threads=threads, frames_at_once=frames).for_one_frame()
    assert (one.num_threads, one.frames_at_once) == (each, 1)


def test_zero_threads_are_all_cores() -> None:
    assert EngineConfig().num_threads == usable_cores() >= 1
    assert EngineConfig(frames_at_once=usable_cores()).for_one_frame().num_threads == 1


@pytest.mark.parametrize(
    ("device", "largest", "sizes"),
    [("cpu", 3, (1, 2, 3)), ("cuda", 1, (1,)), ("cuda", 8, (1, 2, 4, 8)), ("cuda:1", 6, (1, 2, 4, 6))],
)
def test_batch_sizes(device: str, largest: int, sizes: tuple[int, ...]) -> None:
    assert EngineConfig(device=device, batch_size=largest).batch_sizes == sizes


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": -1}, {"threads": True}, {"frames_at_once": 0}, {"device": "tpu"}, {"precision": "int4"},
        {"frames_at_once": 2.5}, {"frames_at_once": True}, {"frames_at_once": "2"}, {"device": None}, {"batch_wait_s": "1"},
        {"batch_wait_s": True}, {"batch_wait_s": 10**400}, {"threads": 257},
        {"batch_size": 0}, {"batch_size": 65}, {"batch_size": 2.0}, {"batch_wait_s": -1.0}, {"batch_wait_s": float("nan")},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        EngineConfig(**wrong)  # type: ignore[arg-type]


def test_numbers_of_numpy_become_pythons() -> None:
    made = EngineConfig(
        threads=np.int64(3), frames_at_once=np.int32(2), batch_size=np.uint8(4), batch_wait_s=np.float32(1)
    )  # type: ignore[arg-type]
    assert made == EngineConfig(threads=3, frames_at_once=2, batch_size=4, batch_wait_s=1.0)
    assert [type(v) for v in (made.threads, made.frames_at_once, made.batch_size, made.batch_wait_s)] == [int] * 3 + [
        float
    ]
