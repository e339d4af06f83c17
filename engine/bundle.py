"""Bundles: a folder with bundle.json, networks and edit directions, verified by hash before use; and their writer."""

from __future__ import annotations

import copy
import difflib
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mien.engine.backend import Artifact, Backend, Network
from mien.engine.backend import backend as find_backend
from mien.engine.config import EngineConfig, default_cache_folder
from mien.engine.errors import BundleError, EditError
from mien.engine.manifest import (
    FORMAT_VERSION,
    AttributeEdit,
    BankLayer,
    LandmarkShift,
    Manifest,
    NetworkSpec,
    ScheduleSpec,
    parse_manifest,
)
from mien.engine.tokens import Tokenizer
from mien.engine.types import Array

__all__ = ["AttributeEdit", "BankLayer", "Bundle", "LandmarkShift", "Manifest", "NetworkSpec", "ScheduleSpec"]

MANIFEST = "bundle.json"
TOKENIZER = "tokenizer/"  # where the files of a bundle's tokenizer lie
PACKAGED = Path(__file__).parent / "bundles"


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """An opened bundle.

    sha256: of bundle.json, and so of every file it names: the bundle's version for reports and keys.
    directions: key -> (N, D) float32, as the W+ codes are, what an edit adds to the W+ code at strength 1.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    directions: Mapping[str, Array]

    @classmethod
    def open(cls, name_or_path: str | Path, *, cache_folder: Path | None = None) -> Bundle:
        """Open a bundle by name (packaged, then the user's cache folder) or by its folder.

        The manifest is checked here, and every file it names must exist; each is verified by hash when it is read, or
        all at once by `verify`. Raises BundleError.
        """
        folder = _find(name_or_path, cache_folder or default_cache_folder())
        try:
            raw = (folder / MANIFEST).read_bytes()
            text = raw.decode("utf-8")
        except OSError as error:
            raise BundleError(f"cannot read {folder / MANIFEST}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BundleError(f"{folder / MANIFEST} is not UTF-8 text") from None
        manifest = parse_manifest(text, str(folder / MANIFEST))
        for path in _hashes(manifest):
            _inside(folder, path)
        directions: dict[str, Array] = {}
        if manifest.directions_file is not None:
            artifact = Artifact(folder / manifest.directions_file, manifest.files[manifest.directions_file])
            directions = _read_directions(artifact)
        for edit in manifest.edits.values():
            if edit.direction is not None and edit.direction not in directions:
                have = ", ".join(directions) or "none"
                raise BundleError(
                    f"{folder}: edit {edit.name!r} names the direction {edit.direction!r}, the bundle has {have}"
                )
        return cls(folder, manifest, hashlib.sha256(raw).hexdigest(), directions)

    @property
    def name(self) -> str:
        """The name its manifest gives."""
        return self.manifest.name

    @property
    def networks(self) -> Mapping[str, NetworkSpec]:
        """Its networks, by name."""
        return self.manifest.networks

    @property
    def edits(self) -> Mapping[str, AttributeEdit]:
        """Its attribute edits, by name."""
        return self.manifest.edits

    def edit(self, name: str) -> AttributeEdit:
        """One edit. Raises EditError with the nearest name and the list."""
        if name in self.edits:
            return self.edits[name]
        near = difflib.get_close_matches(name, self.edits, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise EditError(f"unknown edit {name!r}{hint} the bundle {self.name!r} has {', '.join(self.edits) or 'none'}")

    def tokenizer(self) -> Tokenizer:
        """Of its prompts. Raises BundleError for a bundle without text, UnavailableError without transformers."""
        files = {path: sha256 for path, sha256 in self.manifest.files.items() if path.startswith(TOKENIZER)}
        if not files:
            raise BundleError(f"the bundle {self.name!r} has no tokenizer, so it reads no prompts")
        content = {p.removeprefix(TOKENIZER): Artifact(self.folder / p, sha256).read() for p, sha256 in files.items()}
        return Tokenizer(content, f"{self.folder}/{TOKENIZER.rstrip('/')}")

    def load(self, network: str, backend: Backend | str, config: EngineConfig) -> Network:
        """Load one network on a backend, its file verified by hash. Raises BundleError or UnavailableError."""
        if network not in self.networks:
            raise BundleError(
                f"bundle {self.name!r} has no network {network!r}, it has {', '.join(self.networks) or 'none'}"
            )
        spec = self.networks[network]
        runner = find_backend(backend) if isinstance(backend, str) else backend
        int8 = Artifact(self.folder / spec.int8.file, spec.int8.sha256) if spec.int8 is not None else None
        return runner.load(Artifact(self.folder / spec.file, spec.sha256, int8), spec, config)

    def verify(self) -> int:
        """Verify every file by hash; the number of bytes verified. Raises BundleError at the first that differs."""
        return sum(len(Artifact(self.folder / path, sha256).read()) for path, sha256 in _hashes(self.manifest).items())

    def __repr__(self) -> str:
        parts = f"networks={len(self.networks)}, edits={list(self.edits)}, sha256={self.sha256[:12]}"
        return f"Bundle({self.name!r} {self.manifest.version}, {parts})"

    @classmethod
    def write(cls, folder: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> Bundle:
        """Write a bundle and open it.

        manifest: what bundle.json will hold, without `format`, `files` and the networks' `sha256`, which are filled in
        here; the order of inputs and outputs is kept, it is the order of the torch module's arguments. files: path
        inside the folder -> content, or a file to copy unless it lies there already. bundle.json is written last and atomically.
        """
        hashes: dict[str, str] = {}
        for path, content in files.items():
            if content == folder / _relative(folder, path):  # too large for the memory, maybe
                with open(folder / path, "rb") as written:
                    hashes[path] = hashlib.file_digest(written, "sha256").hexdigest()
                continue
            data = content if isinstance(content, bytes) else content.read_bytes()
            hashes[path] = hashlib.sha256(data).hexdigest()
            _replace(folder / _relative(folder, path), data)
        whole = {"format": FORMAT_VERSION, **manifest, "networks": {}, "files": dict(hashes)}
        for name, network in manifest["networks"].items():
            whole["networks"][name] = entry = copy.deepcopy(network)
            for part in (entry, entry.get("int8", entry)):
                file = part["file"]
                if file not in hashes:
                    raise BundleError(f"network {name!r} names {file!r}, which is not among the files to write")
                part["sha256"] = hashes[file]
                whole["files"].pop(file, None)
        text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        _replace(folder / MANIFEST, text.encode("utf-8"))
        return cls.open(folder)


def available(cache_folder: Path | None = None) -> dict[str, Path]:
    """Every bundle that can be opened by name, name -> folder; a packaged one hides one of the cache folder."""
    found: dict[str, Path] = {}
    for root in (PACKAGED, (cache_folder or default_cache_folder()) / "bundles"):
        for file in sorted(root.glob(f"*/{MANIFEST}")):
            found.setdefault(file.parent.name, file.parent)
    return found


def pack_directions(directions: Mapping[str, Array]) -> bytes:
    """The content of a directions file."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value, dtype=np.float32) for key, value in directions.items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_directions(artifact: Artifact) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(artifact.read()), allow_pickle=False) as archive:
            directions = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{artifact.path} is not a directions file: {error}") from None
    shape = next((value.shape for value in directions.values()), ())
    for key, value in directions.items():
        if value.ndim != 2 or value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            have = f"{value.shape} {value.dtype}"
            raise BundleError(
                f"{artifact.path}: direction {key!r} is {have}; directions are finite float32 (N, D), all of one shape"
            )
    return directions


def _find(name_or_path: str | Path, cache_folder: Path) -> Path:
    text = str(name_or_path)
    known = available(cache_folder)
    if isinstance(name_or_path, str) and text in known:
        return known[text]
    folder = Path(text).expanduser()
    if (folder / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        raise BundleError(f"the folder {text} is not a bundle: it has no {MANIFEST}")
    near = difflib.get_close_matches(text, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ":"
    have = ", ".join(known) or "none"
    raise BundleError(f"unknown bundle {text!r}{hint} give a bundle's folder or one of: {have}")


def _hashes(manifest: Manifest) -> dict[str, str]:
    networks = manifest.networks.values()
    int8 = {network.int8.file: network.int8.sha256 for network in networks if network.int8 is not None}
    return dict(manifest.files) | {network.file: network.sha256 for network in networks} | int8


def _relative(folder: Path, path: str) -> PurePosixPath:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path or path == MANIFEST:
        raise BundleError(f"{folder}: the file name {path!r} is refused: a bundle's files lie inside its folder")
    return parts


def _inside(folder: Path, path: str) -> None:
    file = folder / _relative(folder, path)
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{folder}: the file {path!r} is a link to outside the bundle, which is refused")
    if not file.is_file():
        raise BundleError(f"{folder}: the file {path!r} that {MANIFEST} names is missing: install the bundle again")


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
