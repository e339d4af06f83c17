"""Runs the Triton kernels in Triton's interpreter, on CPU tensors; with `pytest -m gpu`, compiled, on a GPU.

Which of the two is decided for a whole process, before anything in it imports triton. So a run that only wants `gpu` tests
compiles, and any other interprets.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import pytest

# Triton exists for Linux only.
collect_ignore_glob = ["test_*.py"] if find_spec("triton") is None else []

_late = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"


def pytest_configure(config: pytest.Config) -> None:
    """Set the interpreter for this process; its children that compile take the variable out again."""
    if config.getoption("markexpr") != "gpu" and not _late:
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def right_triton(request: pytest.FixtureRequest) -> None:
    """Fail where a test would run on the wrong one of the two."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if request.node.get_closest_marker("gpu") is not None:
        if interpreted:
            pytest.fail("this process interprets the kernels; tests of a GPU run alone: pytest -m gpu")
    elif not interpreted:
        pytest.fail("triton was imported before tests/kernels/gpu was collected; give pytest that folder first")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors of a test lie."""
    return "cpu" if request.node.get_closest_marker("gpu") is None else "cuda"
