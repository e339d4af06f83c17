"""What `mien doctor` looks at: packages, the native module, encoders, GPUs, backends, and a bundle that really runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mien.engine.backend import backend, names, select
from mien.engine.bundle import Bundle
from mien.engine.config import EngineConfig, usable_cores
from mien.engine.errors import MienError
from mien.engine.types import Array

NOT_USABLE = 3

State = Literal["ok", "none", "warning", "error"]

_NEEDED = ("numpy", "av", "onnxruntime", "typer", "rich")
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
_OPTIONAL = ("torch", "onnx", "triton", "tensorrt", "onnxruntime-gpu")
_PROBE_SIZE = 64
_PROBE_FRAME = (640, 480)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. state: ok, none (absent, not needed), warning, error (editing on the CPU does not work)."""

    name: str
    state: State
    value: str
    fix: str = ""


def diagnose(bundle: str) -> list[Finding]:
    """Look at everything."""
    return [*_platform(), *_packages(), *_native(), *_encoders(), *_gpus(), *_backends(), *_bundle(bundle)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _platform() -> Iterator[Finding]:
    yield Finding("mien", "ok", _version("mien") or "not installed as a package")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("cores", "ok", f"{usable_cores()} usable")


def _packages() -> Iterator[Finding]:
    for package in _NEEDED:
        found = _version(package)
        fix = "" if found else "pip install 'mien[cpu]'"
        yield Finding(package, "ok" if found else "error", found or "not installed", fix)
    opencv = [f"{found} ({package})" for package in _OPENCV if (found := _version(package))]
    if len(opencv) > 1:
        fix = f"pip uninstall {' '.join(_OPENCV)}; pip install opencv-python-headless"
        yield Finding("opencv", "warning", f"{' and '.join(opencv)} overwrite each other", fix)
    elif opencv:
        yield Finding("opencv", "ok", opencv[0])
    else:
        yield Finding("opencv", "error", "not installed", "pip install 'mien[cpu]'")
    for package in _OPTIONAL:
        found = _version(package)
        yield Finding(package, "ok" if found else "none", found or "not installed, not needed on the CPU")
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        fix = "pip uninstall onnxruntime onnxruntime-gpu; pip install onnxruntime"
        yield Finding("onnxruntime twice", "warning", "onnxruntime and onnxruntime-gpu overwrite each other", fix)


def _native() -> Iterator[Finding]:
    try:
        importlib.import_module("mien._native")
    except ImportError as error:
        why = "absent" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {error}"
        fix = "install a C++20 compiler, then install mien again: pip install --force-reinstall --no-deps mien"
        yield Finding("native module", "warning", f"{why}; the numpy path is used, which is slower", fix)
    else:
        yield Finding("native module", "ok", "loaded")


def _encoders() -> Iterator[Finding]:
    try:
        from av.codec import Codec, codecs_available

        from mien.runtime.encoders import ENCODERS
    except ImportError as error:
        yield Finding("encoders", "error", f"PyAV cannot be loaded: {error}", "pip install --force-reinstall av")
        return
    have = []
    for codec, name in ENCODERS.items():
        if name in codecs_available and Codec(name, "w").is_encoder:
            have.append(f"{name} ({codec})")
    state: State = "ok" if any(text.startswith("libx264 ") for text in have) else "error"
    fix = "" if state == "ok" else "pip install --force-reinstall av"
    yield Finding("encoders", state, ", ".join(have) or "none", fix)
    yield from _nvenc()


def _nvenc() -> Iterator[Finding]:
    from mien.runtime.encoders import NVENC, Encoding, nvenc_encoder, why_no_nvenc

    for codec, name in NVENC.items():
        why = why_no_nvenc(nvenc_encoder(Encoding(codec), "yuv420p"), *_PROBE_FRAME)
        if why is None:
            yield Finding(name, "ok", f"{codec} on the GPU")
        else:
            yield Finding(name, "none", f"does not open ({why}), not needed: the CPU encodes")


def _gpus() -> Iterator[Finding]:
    command = shutil.which("nvidia-smi")
    if command is None:
        yield Finding("GPU", "none", "no NVIDIA driver found, not needed on the CPU")
        return
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run([command, *query], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("GPU", "warning", f"nvidia-smi failed: {error}", "reinstall the NVIDIA driver")
        return
    for line in answer.strip().splitlines():
        yield Finding("GPU", "ok", line.strip())


def _backends() -> Iterator[Finding]:
    for name in names():
        why = backend(name).unavailable()
        value, _, fix = (why or "usable").partition(": ")
        yield Finding(f"backend {name}", "ok" if why is None else "none", value, fix)


def _bundle(name: str) -> Iterator[Finding]:
    try:
        opened = Bundle.open(name)
        size = opened.verify()
    except MienError as error:
        yield Finding("bundle", "error", str(error), "install mien again, or name a bundle that mien models list shows")
        return
    about = f"{opened.name} {opened.manifest.version}, {len(opened.networks)} networks, {len(opened.edits)} edits"
    yield Finding("bundle", "ok", f"{about}, {size / 1e6:.1f} MB verified, {opened.folder}")
    config = EngineConfig()
    try:
        chosen = select(config)
        for network in opened.networks:
            _run_once(opened, network, config, chosen.backend.name)
    except MienError as error:
        yield Finding("networks", "error", str(error), "install mien again")
        return
    yield Finding("networks", "ok", f"all {len(opened.networks)} load and run on {chosen.backend.name}")


def _run_once(bundle: Bundle, name: str, config: EngineConfig, runner: str) -> None:
    spec = bundle.networks[name]
    network = bundle.load(name, runner, config)
    named = {
        dim: 1 if dim == "B" else _PROBE_SIZE for shape in spec.shapes.values() for dim in shape if isinstance(dim, str)
    }
    arrays: dict[str, Array] = {
        key: np.zeros([dim if isinstance(dim, int) else named[dim] for dim in spec.shapes[key]], want.dtype)
        for key, want in spec.inputs.items()
    }
    network(**arrays)
