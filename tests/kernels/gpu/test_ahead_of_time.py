"""Every kernel compiles for every GPU generation, without one: no spills, shared memory that fits, PTX that assembles."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mien.kernels import gpu
from mien.kernels.gpu.compile import SHARED_LIMIT_BYTES, compile_ahead, forms, kernel_files, specialisations
from mien.kernels.gpu.specialisation import CAPABILITIES

Rows = list[dict[str, Any]]


def ahead(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m mien.bench.kernels_ahead`, in a process that does not interpret."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if cache is not None:
        env["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "mien.bench.kernels_ahead", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def table(*arguments: str, folder: Path, config: pytest.Config) -> Rows:
    """Its rows. What it compiled is kept in pytest's cache, so that a second run of the tests is short."""
    cache = config.cache.mkdir("triton") if config.cache else None
    ran = ahead(*arguments, "--json", str(folder / "rows.json"), cache=cache)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    rows: Rows = json.loads((folder / "rows.json").read_text())
    return rows


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Rows:
    return table("--quick", folder=tmp_path_factory.mktemp("ahead"), config=pytestconfig)


def check(rows: Rows, quick: bool) -> None:
    """The rows are those wanted, and none spills, calls for more than there is, or needs memory from its launcher."""
    wanted = [
        (file, form.label, capability) for file, form, capability in forms(kernel_files(), CAPABILITIES, quick=quick)
    ]
    assert len(set(wanted)) == len(wanted), "two forms of one file have the same label"
    assert [(row["file"], row["label"], row["capability"]) for row in rows] == wanted
    bad = [
        row
        for row in rows
        if row["spill_bytes"]
        or row["stack_bytes"]
        or row["scratch_bytes"]
        or row["shared_bytes"] > SHARED_LIMIT_BYTES[row["capability"]]
        or not 0 < row["registers"] <= 255
    ]
    assert not bad, "\n".join(map(str, bad))


def test_every_kernel_compiles_and_fits(quick):
    check(quick, quick=True)


@pytest.mark.slow
def test_every_form_compiles_and_fits(tmp_path, pytestconfig):
    check(table(folder=tmp_path, config=pytestconfig), quick=False)


def test_every_file_that_launches_is_in_the_table(quick):
    """A launch is `kernel[grid](...)`."""
    launching = {
        path.stem
        for path in Path(gpu.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)
    }
    assert launching and {row["file"] for row in quick} == launching


def test_a_quick_table_has_every_form_and_every_kernel_everywhere():
    everything = [each for each in forms(kernel_files(), CAPABILITIES) if not each[1].slow]
    part = list(forms(kernel_files(), CAPABILITIES, quick=True))
    assert {(file, form.label) for file, form, _ in part} == {(file, form.label) for file, form, _ in everything}
    assert {(form.kernel, c) for _, form, c in part} == {(form.kernel, c) for _, form, c in everything}
    assert len(part) < len(everything)


def test_a_form_with_a_wrong_argument_is_refused():
    form = specialisations(kernel_files()[0])[0]
    code = (
        "from dataclasses import replace\n"
        "from mien.kernels.gpu.compile import *\n"
        "form = specialisations(kernel_files()[0])[0]\n"
        "compile_ahead(replace(form, types={**form.types, 'wrong': 'i32'}), 90)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ran.returncode == 1 and "together they must name each of its arguments" in ran.stderr
    with pytest.raises(ValueError, match="is interpreted; compile in a process without TRITON_INTERPRET"):
        compile_ahead(form, 90)


def test_the_command_says_what_is_wrong_in_one_line():
    ran = ahead("no_such_kernel")
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1
    assert "no kernels in no_such_kernel; there are" in ran.stderr and "cross_frame_attention" in ran.stderr
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-m", "mien.bench.kernels_ahead"], env=env, capture_output=True, text=True)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1 and "unset it" in ran.stderr


def test_the_command_without_triton(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['triton'] = None\n")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env.get('PYTHONPATH', '')}"
    ran = subprocess.run([sys.executable, "-m", "mien.bench.kernels_ahead"], env=env, capture_output=True, text=True)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1 and "pip install triton" in ran.stderr
