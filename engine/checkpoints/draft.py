"""A bundle while it is assembled: its files in a folder beside their final place, and what is known of each."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mien.engine.bundle import MANIFEST, PACKAGED
from mien.engine.checkpoints.card import Provenance
from mien.engine.checkpoints.reading import hash_file, write_safetensors
from mien.engine.checkpoints.sources import NOT_STATED, Settings, check_name
from mien.engine.errors import BundleError, RunError

Tell = Callable[[str], None]


@dataclass(slots=True)
class Draft:
    """folder: where files are written. tell: told what is being done, in words. files: path inside -> content or file.
    networks: manifest entries. notes: what was left out, in words.
    """

    folder: Path
    settings: Settings
    tell: Tell
    networks: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes | Path] = field(default_factory=dict)
    provenance: list[Provenance] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _hashes: dict[Path, str] = field(default_factory=dict)

    def write(self, file: str, state: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
        """A weight file and the networks that read it."""
        self.tell(f"writing {file}")
        write_safetensors(self.folder / file, state)
        self.files[file] = self.folder / file
        self.networks |= entries

    def came_from(self, part: str, files: Sequence[Path], *, with_unet: bool = False) -> None:
        """Note a part's files and licence. with_unet: it came in the UNet's repository or file, and so under its licence."""
        told = self.settings.licences
        licence = told.get(part) or (told.get("unet") if with_unet else None)
        for file in files:
            if file not in self._hashes:
                self.tell(f"hashing {file.name}")
                self._hashes[file] = hash_file(file)
        named = tuple((str(Path(file.parent.name, file.name)), self._hashes[file]) for file in files)
        self.provenance.append(Provenance(part, named, licence or NOT_STATED))


def check_target(name: str, folder: Path, *, overwrite: bool) -> Path:
    """Where a bundle of that name will lie in a folder of bundles. Raises BundleError where it may not."""
    check_name(name)
    if (PACKAGED / name).is_dir():
        raise BundleError(f"the name {name!r} is that of a bundle inside mien, which would hide this one: take another")
    target = folder / name
    if target.exists() and not overwrite:
        raise BundleError(f"{target} exists: give another name, or --overwrite")
    if target.exists() and not (target / MANIFEST).is_file():
        raise BundleError(f"{target} is not a bundle, so it is not replaced: give another name")
    return target


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` when the block ends, and vanishes when it raises. Raises RunError."""
    # two levels, so that nobody who looks for */bundle.json finds it before it is complete
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    fresh, old = beside / "new", beside / "old"
    try:
        try:
            fresh.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"cannot make a folder in {target.parent}: {error.strerror or error}") from error
        yield fresh
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(fresh, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
