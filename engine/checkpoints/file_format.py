"""What a weight file is, told by its content, and why what is none is refused, in words."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from mien.engine.errors import BundleError

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SAFE_VERSION = "a .safetensors version of it is needed"
_MAX_HEADER = 100_000_000  # the format's own limit


def is_safetensors(file: Path) -> bool:
    """Whether a file is .safetensors; False for a PyTorch pickle. Raises BundleError for anything else."""
    if file.is_dir():
        raise BundleError(f"{file} is a folder: give one weight file ({', '.join(SUFFIXES)})")
    if not file.exists():
        raise BundleError(f"there is no file {file}")
    if not file.is_file():
        raise BundleError(f"{file} is not a regular file: give one weight file ({', '.join(SUFFIXES)})")
    size, head = file.stat().st_size, read_head(file, 512)
    if size == 0:
        raise BundleError(f"{file} is empty: download it again")
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise BundleError(f"{file}: this is a Git LFS pointer, not the weights: download the file itself")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BundleError(
            f"{file}: this is a web page, not the weights: download the file itself, logged in if it asks"
        )
    if text.startswith((b'{"error', b"entry not found", b"invalid credentials", b"access to")):
        answer = head[:80].decode("utf-8", "replace").strip()
        raise BundleError(f"{file}: this is a server's error answer, not the weights: {answer!r}")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(file)
        return False
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return False
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or not 2 <= length <= _MAX_HEADER:
        raise BundleError(
            f"{file} is not a checkpoint: it is neither .safetensors nor a PyTorch file (.ckpt, .pt, .pth, .bin)"
        )
    wanted = 8 + length
    if wanted <= size:
        ends = [entry["data_offsets"][1] for key, entry in header(file).items() if key != "__metadata__"]
        wanted += max(ends, default=0)
    if size < wanted:
        raise truncated(file, f"{size:,} of at least {wanted:,} bytes")
    return True


def header(file: Path) -> dict[str, Any]:
    """The JSON header of a .safetensors file. Raises BundleError."""
    try:
        with file.open("rb") as stream:
            entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for key, entry in entries.items():
            end = 0 if key == "__metadata__" else entry["data_offsets"][1]
            if type(end) is not int or end < 0 or not isinstance(entry, dict):
                raise ValueError(f"the entry {key!r}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BundleError(f"{file} is damaged: its .safetensors header cannot be read: download it again") from error
    return dict(entries)


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise truncated(file, f"{file.stat().st_size:,} bytes, without the archive's end") from error
    except Exception as error:  # a damaged archive can raise anything
        raise BundleError(f"{file} is damaged: its zip archive cannot be read: download it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise BundleError(f"{file} is a TorchScript program: mien does not run code from a checkpoint, {SAFE_VERSION}")
    if not any(name.endswith("data.pkl") for name in names):
        raise BundleError(
            f"{file} is a zip archive, not a PyTorch checkpoint: unpack it and give the weight file in it"
        )


def read_head(file: Path, size: int) -> bytes:
    """The first `size` bytes of a file. Raises BundleError."""
    try:
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise BundleError(f"cannot read {file}: {error.strerror or error}") from None


def truncated(file: Path, have: str) -> BundleError:
    """The error for a file of which only a part arrived."""
    return BundleError(f"{file} is truncated ({have}): download it again")
