"""The kernel benchmark runs on both paths and its figures belong together."""

from __future__ import annotations

import pytest

from mien.bench import kernels, kernels_gpu
from mien.bench.results import key_of
from mien.kernels import cpp


def test_rows_are_complete_and_consistent(monkeypatch):
    monkeypatch.setattr(kernels, "CASES", ((160, 90, 60, 8),))
    monkeypatch.setattr(kernels, "memcpy_bytes_per_s", lambda: 1e10)
    rows = kernels.run(repeats=3)
    paths = {"native", "numpy"} if cpp.native else {"numpy"}
    assert {row["path"] for row in rows} == paths
    assert len({row["op"] for row in rows}) == 4 and len(rows) == 4 * len(paths)
    assert len({key_of(row) for row in rows}) == len(rows)
    for row in rows:
        assert row["repeats"] == 3
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["share_of_memcpy"] == pytest.approx(row["gb_per_s"] / 10, abs=2e-4)
    # 1.5 bytes a pixel of the frame, read and written, are the least a composition moves
    for row in rows:
        if row["op"] != "crop_yuv":
            assert row["gb_per_s"] * row["p50_ms"] * 1e6 > 2 * 1.5 * 160 * 90
    assert kernels.composite.native is cpp.native


def test_the_device_decides_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.device_of(["--device", "cuda:1", "--rows", "8"]) == "cuda:1"
    assert kernels.device_of(["--device=cpu"]) == "cpu" and kernels.device_of(["--repeats", "3"]) in ("cpu", "cuda")
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert kernels.device_of([]) == "cpu", "without torch there is no other"
    said: list[object] = []
    monkeypatch.setattr(kernels_gpu, "main", said.append)
    kernels.main(["--device", "cuda", "--rows", "8"])
    assert said == [["--device", "cuda", "--rows", "8"]]
