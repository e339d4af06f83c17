"""Direction files of the published systems: .npy, and .pt of a tensor, a list of tensors or GANSpace's components."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from torch import Tensor

from mien.engine.checkpoints.directions import (
    N_STYLES,
    Direction,
    attribute_scale,
    boundary,
    constant,
    ganspace,
    ganspace_table,
)
from mien.engine.checkpoints.file_format import is_safetensors
from mien.engine.checkpoints.reading import read_pickle
from mien.engine.errors import BundleError

GANSPACE_TABLE = "ganspace_configs.csv"


def read_directions(
    path: str | os.PathLike[str], *, rows: tuple[int, int] = (0, N_STYLES), factor: float = 1.0
) -> dict[str, Direction]:
    """Every direction of a file by name: the file's own, with a number for a list, or the names of GANSpace's table,
    which lies beside its components as in the W+ Adapter's folder.

    rows, factor: see `directions.constant`; GANSpace has rows of its own and no factor. Raises BundleError.
    """
    file = Path(path)
    value = _read(file)
    if isinstance(value, Mapping):
        if "comp" not in value:
            raise BundleError(
                f"{file} is a checkpoint with {next(iter(value), 'no key')!r}, not a direction: an array of numbers, a list"
                " of them or GANSpace's ffhq_pca.pt is read"
            )
        table = file.with_name(GANSPACE_TABLE)
        if not table.is_file():
            raise BundleError(f"{file} holds components, whose use {GANSPACE_TABLE} tells: put that file beside it")
        entries = ganspace_table(table.read_text(encoding="utf-8", errors="replace"), str(table))
        return {name: ganspace(value, entry, str(file)) for name, entry in entries.items()}
    if isinstance(value, list):
        found = attribute_scale(value, str(file), rows=rows, factor=factor)
        return {f"{file.stem}_{k}": direction for k, direction in enumerate(found)}
    form = boundary if "boundary" in file.stem else constant
    return {file.stem: form(value, str(file), rows=rows, factor=factor)}


def _read(file: Path) -> Any:
    if not file.is_file():
        raise BundleError(f"there is no file {file}")
    if file.suffix == ".npy":
        try:  # mapped, so that a header which promises more numbers than there are takes no memory
            return np.array(open_memmap(file, mode="r"))
        except Exception as error:  # a damaged header can raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise BundleError(f"{file} cannot be read as plain numbers ({reason}): download it again") from error
    if file.suffix in (".pt", ".pth"):
        content = None if is_safetensors(file) else read_pickle(file)
        if not isinstance(content, Tensor | list | Mapping):
            raise BundleError(f"{file} holds no pickled tensor but something else: save its numbers as .npy")
        return content
    raise BundleError(f"{file} is no direction file: .npy, .pt and .pth are read")
