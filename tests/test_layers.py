"""The layer rule: kernels, engine, then runtime and export, which never import each other; bench may import all."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "kernels": {"kernels", "_native"},
    "engine": {"engine", "kernels"},
    "runtime": {"runtime", "engine", "kernels"},
    "export": {"export", "engine", "kernels"},
    "bench": {"bench", "runtime", "export", "engine", "kernels", "_native"},
}
# What the CPU installation does not have, or what only one layer may know. Any folder not named may import it.
ONLY_IN = {
    "torch": {
        "export",
        "engine/networks",
        "engine/checkpoints",
        "engine/backends/torch.py",
        "engine/cuda",
        "bench",
        "kernels/gpu",
        "kernels/consistency_step.py",
        "kernels/cross_frame_attention.py",
        "kernels/geglu.py",
        "kernels/group_norm_silu.py",
        "kernels/opaque.py",
        "kernels/to_float8.py",
    },
    "triton": {"kernels/gpu"},
    "onnxruntime": {"engine/backends/onnxruntime.py", "runtime", "export", "bench"},
    "av": {"runtime", "export", "bench"},
    "cv2": {"runtime", "engine", "export", "bench"},
    "typer": {"runtime", "export", "bench"},
}


def violations(path: Path, source: str) -> list[str]:
    """Return what a file (its path relative to the root) imports against the rule, one line each."""
    layer, found = path.parts[0], []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "mien":
                names = [f"mien.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "mien":
                part = rest.split(".")[0]
                if part not in MAY_IMPORT[layer]:
                    found.append(
                        f"{path}:{node.lineno} imports mien.{part}; {layer} may import {sorted(MAY_IMPORT[layer])}"
                    )
            elif top in MAY_IMPORT:
                found.append(f"{path}:{node.lineno} imports {name}; write mien.{name}")
            elif top in ONLY_IN and not any(path.as_posix().startswith(place) for place in ONLY_IN[top]):
                found.append(f"{path}:{node.lineno} imports {top}, which belongs to {sorted(ONLY_IN[top])}")
            elif layer == "kernels" and top not in {"numpy", "torch", "triton", *sys.stdlib_module_names}:
                found.append(f"{path}:{node.lineno} imports {top}; kernels may import numpy only")
    return found


def files() -> list[Path]:
    """Every Python file of the five layers, relative to the root."""
    return [path.relative_to(ROOT) for layer in MAY_IMPORT for path in sorted((ROOT / layer).rglob("*.py"))]


def test_there_are_files_in_every_layer():
    assert {path.parts[0] for path in files()} == set(MAY_IMPORT)


def test_no_file_breaks_the_rule():
    broken = [line for path in files() for line in violations(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "path, source, word",
    [
        ("kernels/blend.py", "from mien.engine.types import Frame", "mien.engine"),
        ("kernels/blend.py", "import cv2", "cv2"),
        ("kernels/blend.py", "import requests", "numpy only"),
        ("engine/editor.py", "def f():\n    from mien.runtime import source", "mien.runtime"),
        ("engine/editor.py", "from mien import export", "mien.export"),
        ("engine/sampler.py", "import torch", "torch"),
        ("kernels/crop_yuv.py", "import torch", "torch"),
        ("kernels/geglu.py", "import triton", "triton"),
        ("engine/networks/sd_unet.py", "import triton.language as tl", "triton"),
        ("kernels/gpu/geglu.py", "from mien.engine.types import Frame", "mien.engine"),
        ("engine/sampler.py", "from onnxruntime import InferenceSession", "onnxruntime"),
        ("runtime/cli.py", "import mien.export.onnx", "mien.export"),
        ("export/onnx.py", "import mien.runtime.sink as sink", "mien.runtime"),
        ("runtime/cli.py", "from engine.types import Frame", "write mien.engine.types"),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str, word: str):
    assert [word in line for line in violations(Path(path), source)] == [True]


def test_what_is_allowed_is_not_found():
    source = "import numpy\nfrom mien import _native\nfrom mien.kernels.planes import Planes"
    assert violations(Path("kernels/crop_yuv.py"), source) == []
    assert violations(Path("kernels/gpu/geglu.py"), "import torch\nimport triton\nfrom triton import language") == []
    assert violations(Path("kernels/geglu.py"), "from torch import Tensor") == []
    assert violations(Path("runtime/cli.py"), "import av\nfrom mien.engine.editor import Editor") == []


def test_files_stay_readable():
    """No file beyond 400 lines, and none with a name that says nothing."""
    everything = [*files(), *(p.relative_to(ROOT) for p in (ROOT / "tests").rglob("*.py"))]
    everything += [p.relative_to(ROOT) for p in (ROOT / "kernels" / "native").iterdir()]
    long = [
        f"{path}: {n}"
        for path in everything
        if (n := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > 400
    ]
    vague = [
        str(path) for path in everything if path.stem in {"utils", "util", "helpers", "common", "manager", "wrapper"}
    ]
    assert not long and not vague, (long, vague)
