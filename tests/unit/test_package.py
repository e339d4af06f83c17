"""The facade: what `import mien` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import mien


@pytest.mark.parametrize("name", [name for name in mien.__all__ if name != "__version__"])
def test_every_export_exists_and_is_cached(name):
    value = getattr(mien, name)
    assert value.__name__ == name and vars(mien)[name] is value
    assert name in dir(mien)


def test_version_is_the_distributions():
    assert mien.__version__ == version("mien")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Edtior'"):
        mien.Edtior  # noqa: B018


def test_import_is_cheap():
    """Importing mien brings none of the heavy packages, and the kernels bring numpy only."""
    heavy = "{'torch', 'onnxruntime', 'av', 'cv2', 'typer', 'rich'} & set(sys.modules)"
    code = f"import sys, mien\nassert 'numpy' not in sys.modules\nimport mien.kernels.crop_yuv\nassert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
