"""What runs networks: the protocols, the lookup of backends by file name, and the check before every call."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mien.engine import backends
from mien.engine.config import EngineConfig
from mien.engine.errors import BundleError, InputError, ShapeError, UnavailableError
from mien.engine.manifest import FREE, Dim, NetworkFormat, NetworkSpec
from mien.engine.types import Array, TensorSpec

Run = Callable[[dict[str, Array]], Mapping[str, Array]]
_VERIFIED: dict[Path, tuple[str | int, ...]] = {}  # file -> hash and stamp of when it was right

AUTO_ORDER: Mapping[str, tuple[str, ...]] = {"cpu": ("onnxruntime", "torch"), "cuda": ("torch",)}
"""What "auto" tries, in this order, by kind of device."""

_LATER: Mapping[str, str] = {"tensorrt": "TensorRT engines are not part of this version of mien"}


class Network(Protocol):
    """A loaded network. Calls may come from several threads at once; nothing is kept between them."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What it takes, by name."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What it answers, by name."""

    def __call__(self, **arrays: Array) -> Mapping[str, Array]:
        """Run it. Raises ShapeError for a missing, unknown or misshapen input."""


class Backend(Protocol):
    """One way of running networks: one file in engine/backends, whose `BACKEND` is found by the file's name."""

    @property
    def name(self) -> str:
        """The file's name."""

    @property
    def formats(self) -> tuple[NetworkFormat, ...]:
        """The formats of network files it reads."""

    def unavailable(self) -> str | None:
        """None, or why it cannot be used here, with the command that would change that."""

    def load(self, artifact: Artifact, spec: NetworkSpec, config: EngineConfig) -> Network:
        """Load a network. Raises UnavailableError, or BundleError for a file it cannot read or that breaks the spec."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that must have a given hash. int8: that of the same network quantised, for a backend that runs it."""

    path: Path
    sha256: str
    int8: Artifact | None = None

    def read(self) -> bytes:
        """The file's bytes, once their hash is the expected one: what was verified is what is used."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise self._unreadable(error) from None
        self._compare(hashlib.sha256(data).hexdigest())
        return data

    def verify(self) -> None:
        """Hash the file without holding it, once for as long as its stamp (inode, size, times) stays: several networks may
        read parts of one large file. Raises BundleError.
        """
        try:
            with open(self.path, "rb") as file:
                of = os.fstat(file.fileno())
                stamp = (self.sha256, of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns)
                if _VERIFIED.get(self.path) != stamp:
                    self._compare(hashlib.file_digest(file, "sha256").hexdigest())
                    _VERIFIED[self.path] = stamp
        except OSError as error:
            raise self._unreadable(error) from None

    def _compare(self, found: str) -> None:
        if found != self.sha256:
            raise BundleError(
                f"{self.path} is corrupt: its sha256 is {found}, the bundle says {self.sha256}:"
                " install the bundle again"
            )

    def _unreadable(self, error: OSError) -> BundleError:
        return BundleError(f"cannot read {self.path}: {error.strerror}: install the bundle again")


@dataclass(frozen=True, slots=True)
class Selection:
    """The backend that was chosen. reason: why, in words; for "auto" also what was passed over."""

    backend: Backend
    reason: str


def names() -> tuple[str, ...]:
    """Every backend's name, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(backends.__path__)))


def backend(name: str) -> Backend:
    """The backend of that name, usable or not. Raises InputError for a name nobody has."""
    known = names()
    if name in _LATER and name not in known:
        raise UnavailableError(f"backend {name!r} cannot be used: {_LATER[name]}: use one of {', '.join(known)}")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise InputError(f"unknown backend {name!r}{hint} use auto or one of {', '.join(known)}")
    found: Backend = importlib.import_module(f"{backends.__name__}.{name}").BACKEND
    return found


def select(config: EngineConfig, file_format: NetworkFormat = "onnx") -> Selection:
    """The backend a config asks for, for network files of a format. Raises UnavailableError saying what would fix it."""
    if config.backend != "auto":
        chosen = backend(config.backend)
        if (why := chosen.unavailable()) is not None:
            raise UnavailableError(f"backend {chosen.name!r} cannot be used: {why}")
        return Selection(chosen, "asked for")
    passed: list[str] = []
    for name in AUTO_ORDER[config.device.split(":")[0]]:
        candidate = backend(name)
        reads = file_format in candidate.formats
        why = candidate.unavailable() if reads else f"it does not read {file_format} files"
        if why is None:
            return Selection(candidate, "; ".join(["auto", *passed]))
        passed.append(f"{name}: {why}")
    raise UnavailableError(f"no backend can be used on {config.device}: {'; '.join(passed)}")


class CheckedNetwork:
    """A network whose every call is checked against its spec, both ways."""

    def __init__(self, spec: NetworkSpec, run: Run) -> None:
        self.spec = spec
        self._run = run

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What it takes, by name."""
        return self.spec.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What it answers, by name."""
        return self.spec.outputs

    def __call__(self, **arrays: Array) -> Mapping[str, Array]:
        """Run it. Raises ShapeError naming the input, what it is and what is expected."""
        sizes = bind(self.spec, arrays)
        answers = self._run(arrays)
        for key, want in self.outputs.items():
            shape = output_shape(self.spec, key, sizes)
            got = answers[key]
            fits = len(got.shape) == len(shape) and all(w in (None, g) for w, g in zip(shape, got.shape, strict=True))
            if not fits or got.dtype != want.dtype:
                raise ShapeError(
                    f"{self.spec.name}: output {key!r} is {got.shape} {got.dtype}, the bundle says {shape} {want.dtype}"
                )
        return answers

    def __repr__(self) -> str:
        return f"{self.spec.name}({', '.join(f'{k} {_words(self.spec.shapes[k])}' for k in self.inputs)})"


def bind(spec: NetworkSpec, arrays: Mapping[str, Any]) -> dict[str, int]:
    """Check inputs against a spec; the value of every named dimension. Raises ShapeError."""
    for key in arrays:
        if key not in spec.inputs:
            raise ShapeError(f"{spec.name}: unknown input {key!r}, expected {', '.join(spec.inputs)}")
    sizes: dict[str, int] = {}
    for key, want in spec.inputs.items():
        if key not in arrays:
            raise ShapeError(f"{spec.name}: input {key!r} is missing, expected {_words(spec.shapes[key])} {want.dtype}")
        array = arrays[key]
        shape = getattr(array, "shape", None)
        if shape is None or not want.accepts(array):
            what = type(array).__name__ if shape is None else f"{tuple(shape)} {array.dtype}"
            raise ShapeError(f"{spec.name}: input {key!r} is {what}, expected {_words(spec.shapes[key])} {want.dtype}")
        for dim, got in zip(spec.shapes[key], shape, strict=True):
            if isinstance(dim, str):
                name, _, divisor = dim.partition("/")
                whole = got * int(divisor or 1)
                if sizes.setdefault(name, whole) != whole:
                    raise ShapeError(
                        f"{spec.name}: input {key!r} is {tuple(shape)}, expected {_words(spec.shapes[key])}"
                        f" with {name} = {sizes[name]} as in the inputs before it"
                    )
    return sizes


def output_shape(spec: NetworkSpec, key: str, sizes: Mapping[str, int]) -> tuple[int | None, ...]:
    """The shape of an output, given the named dimensions of the inputs; None for a free one. Raises ShapeError where one
    does not divide.
    """
    return tuple(dim if isinstance(dim, int) else _size(spec, dim, sizes) for dim in spec.shapes[key])


def _size(spec: NetworkSpec, dim: str, sizes: Mapping[str, int]) -> int | None:
    if dim == FREE:
        return None
    name, _, divisor = dim.partition("/")
    value, by = sizes[name], int(divisor or 1)
    if value % by:
        raise ShapeError(f"{spec.name}: {name} is {value}, expected a multiple of {by}")
    return value // by


def _words(shape: tuple[Dim, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
