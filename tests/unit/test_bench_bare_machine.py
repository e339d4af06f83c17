"""A GPU machine has torch, Triton, numpy, OpenCV and pytest: everything that runs there must do with these."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mien.bench.run_all import gpu_tests

ENTRY_POINTS = (
    *(
        "device_peaks",
        "kernels",
        "kernels_gpu",
        "networks",
        "attention_tuning",
        "throughput",
        "latency",
        "unet_profile",
    ),
    *("peers", "run_all", "compare_results", "tables", "kernels_ahead"),
)
ABSENT = ("av", "typer", "rich", "click", "diffusers", "transformers", "safetensors", "onnx", "onnxruntime", "scipy")
FINDER = """
import sys

ABSENT = {absent!r}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
IMPORTS = """
import importlib, sys, without

for point in sys.argv[1].split(","):
    module = importlib.import_module(f"mien.bench.{point}")
    assert callable(module.main), point
assert not set(without.ABSENT) & set(sys.modules)
print("ok")
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that can import a module `without`, after which nothing of ABSENT is there."""
    (tmp_path / "without.py").write_text(FINDER.format(absent=ABSENT))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def test_entry_points_need_no_more_than_is_there(without: dict[str, str]) -> None:
    words = [sys.executable, "-c", IMPORTS, ",".join(ENTRY_POINTS)]
    done = subprocess.run(words, capture_output=True, text=True, env=without, cwd=ROOT)
    assert done.stdout.strip() == "ok", done.stderr


def test_tests_for_a_gpu_can_be_collected(without: dict[str, str]) -> None:
    files = gpu_tests(ROOT, has_av=False)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "without",
        "-m",
        "gpu",
        "-q",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    done = subprocess.run(words, capture_output=True, text=True, env=without, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    for file in files:
        assert f"{file}::" in done.stdout, f"no test of {file} is for a GPU"
