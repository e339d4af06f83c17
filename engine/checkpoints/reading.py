"""Reading weight files that others published, without running anything they hold; writing .safetensors.

The format is recognised by the content, not by the name. A pickle is read with torch's restricted unpickler
(weights_only=True), which makes tensors and plain containers and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mien.engine.checkpoints.file_format import SAFE_VERSION, header, is_safetensors, read_head, truncated
from mien.engine.errors import BundleError, RunError

_WRAPPERS = ("state_dict", "model_state_dict", "params_ema")
_MOST_ENTRIES = (
    100_000  # of all dicts together, as often as each is met; the largest published checkpoints have some thousands
)


class _Inert:
    """Stands for what published training checkpoints name beside their weights. It ignores whatever it is given."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# Lightning names its callback in v1-5-pruned.ckpt, trainers leave scalars, states of random numbers and paths; none of it
# is imported or called.
_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "_codecs.encode",
    "argparse.Namespace",
)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor of a weight file by its key, flat, on the CPU, memory-mapped where the format allows it.

    A `state_dict` is unwrapped (tensors beside it are kept), other nested dicts are joined with dots, a `module.` that
    every key begins with is dropped. Raises BundleError.
    """
    weights = flatten(read_nested(path), str(path))
    if not weights:
        raise BundleError(f"{path} holds no weights: no tensor was found in it")
    return weights


def read_nested(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a weight file as it is: tensors, and in a pickle also nested dicts and plain values.

    Raises BundleError.
    """
    file = Path(path)
    if is_safetensors(file):
        try:
            with safe_open(file, framework="pt", device="cpu") as tensors:
                return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(file, error) from error
    content = read_pickle(file)
    if isinstance(content, Mapping):
        return {str(key): value for key, value in content.items()}
    raise BundleError(f"{file} is not a checkpoint: it holds a {type(content).__name__}, a dict of tensors is accepted")


def read_pickle(file: Path) -> Any:
    """What a PyTorch file holds, of any form, made without running anything in it. Raises BundleError."""
    # torch cannot map what torch before 1.6 wrote, and goes by the name .safetensors where it is given one
    mapped = read_head(file, 2) == b"PK" and file.suffix != ".safetensors"
    try:
        with (
            file.open("rb") as stream,
            warnings.catch_warnings(),
            torch.serialization.safe_globals([(_Inert, name) for name in _INERT]),
        ):
            warnings.simplefilter("ignore")  # torch's remarks on the pickle protocol, which say nothing of the weights
            return torch.load(file if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise truncated(file, f"{file.stat().st_size:,} bytes") from error
        found = re.search(r"(?:GLOBAL|function) ([\w.]*\w)|Unsupported (operand \d+)", str(error))
        reason = f" ({found[1] or found[2]})" if found else ""
        raise BundleError(
            f"{file} holds more than weights{reason}: mien does not run code from a checkpoint, {SAFE_VERSION}"
        ) from error
    except EOFError as error:
        raise truncated(file, f"{file.stat().st_size:,} bytes") from error
    except Exception as error:  # a damaged pickle can raise anything
        if "unexpected EOF" in str(error):
            raise truncated(file, f"{file.stat().st_size:,} bytes") from error
        raise _damaged(file, error) from error


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The free-text metadata of a .safetensors file; empty for the other formats. Raises BundleError."""
    file = Path(path)
    if not is_safetensors(file):
        return {}
    return {key: str(value) for key, value in (header(file).get("__metadata__") or {}).items()}


def flatten(nested: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Every tensor of nested dicts by one flat key, as `read_weights` describes. source: what messages call them.

    Raises BundleError for a key twice, dicts without end and tensors that are not plain numbers.
    """
    try:
        return _flatten(nested, source)
    except RecursionError:
        raise BundleError(f"{source}: its dicts are nested without end: download it again") from None


def hash_file(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file as hexadecimal digits, read in pieces. Raises BundleError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from None


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a .safetensors file beside its final name and rename it when it is complete. Raises RunError."""
    file = Path(path)
    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        whole[key] = value = tensor.detach().cpu().contiguous()
        if value.numel() and value.data_ptr() in seen:  # tied weights: the format refuses shared memory
            whole[key] = value.clone()
        seen.add(value.data_ptr())
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name + ".")
        os.close(handle)
        save_file(whole, temporary, {"format": "pt", **(metadata or {})})
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        advice = ": free some space or write elsewhere" if full else ""
        raise RunError(f"cannot write {file}: {_first_line(error)}{advice}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _flatten(nested: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    for name in _WRAPPERS:
        inner = nested.get(name)
        if isinstance(inner, Mapping):
            beside = ((key, value) for key, value in nested.items() if isinstance(value, Tensor))
            return _united(itertools.chain(beside, _flatten(inner, source).items()), source)
    flat = _united(_leaves(nested, "", itertools.count(1), source), source)
    if flat and all(key.startswith("module.") for key in flat):
        return {key.removeprefix("module."): tensor for key, tensor in flat.items()}
    return flat


def _united(tensors: Iterable[tuple[str, Tensor]], source: str) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, tensor in tensors:
        if key in flat:
            raise BundleError(f"{source} holds the key {key!r} twice")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            kind = f"{tensor.dtype}, {tensor.layout}, on the device {tensor.device}"
            raise BundleError(f"{source}: {key!r} is not an array of plain numbers ({kind}): {SAFE_VERSION}")
        flat[key] = tensor.detach()
    return flat


def _leaves(
    nested: Mapping[Any, Any], prefix: str, entries: Iterator[int], source: str
) -> Iterator[tuple[str, Tensor]]:
    """entries: counts those met, as dicts that lie in each other twice and twice again are met 2^n times."""
    for key, value in nested.items():
        if next(entries) > _MOST_ENTRIES:
            raise BundleError(f"{source} holds more than {_MOST_ENTRIES:,} entries: it is no published checkpoint")
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.", entries, source)


def _damaged(file: Path, error: Exception) -> BundleError:
    return BundleError(f"{file} is damaged ({_first_line(error)}): download it again")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
