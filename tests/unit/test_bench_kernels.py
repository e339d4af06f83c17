"""The kernel benchmark runs on both paths and its figures belong together."""

from __future__ import annotations

import pytest

from mien.bench import kernels
from mien.kernels import cpp


def test_rows_are_complete_and_consistent(monkeypatch):
    monkeypatch.setattr(kernels, "CASES", ((160, 90, 60, 8),))
    monkeypatch.setattr(kernels, "memcpy_bytes_per_s", lambda: 1e10)
    rows = kernels.run(repeats=3)
    paths = {"native", "numpy"} if cpp.native else {"numpy"}
    assert {row["path"] for row in rows} == paths
    assert len({row["op"] for row in rows}) == 4 and len(rows) == 4 * len(paths)
    for row in rows:
        assert row["repeats"] == 3
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["share_of_memcpy"] == pytest.approx(row["gb_per_s"] / 10, abs=2e-4)
    # 1.5 bytes a pixel of the frame, read and written, are the least a composition moves
    for row in rows:
        if row["op"] != "crop_yuv":
            assert row["gb_per_s"] * row["p50_ms"] * 1e6 > 2 * 1.5 * 160 * 90
    assert kernels.composite.native is cpp.native
