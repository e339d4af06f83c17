"""Which versions of Python and of packages are here, for reports."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import import_module, metadata

USED = ("mien", "numpy", "av", "opencv-python-headless", "onnxruntime", "torch")
"""By editing."""

MEASURED = (*USED, "triton", "tensorrt", "transformers", "diffusers", "streamdiffusion")
"""By benchmarks."""


def versions(names: Iterable[str] = USED) -> dict[str, str]:
    """Of Python and of those of the packages that are installed; mien's own also where it runs from a tree of links."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "mien":
                found[name] = str(import_module(name).__version__)
    return found
