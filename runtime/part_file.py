"""An output file that is written beside its final name and renamed when complete: OUT is whole, or it is not there."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from mien.engine.errors import MediaError, MienError, RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_output(out: str | os.PathLike[str], source: str | os.PathLike[str] | None, *, overwrite: bool) -> Path:
    """Refuse an OUT that cannot or must not be written, before any work; gives it as a Path. Raises MediaError."""
    path = Path(out)
    if path.is_dir():
        raise MediaError(f"the output {path} is a folder: give the path of a file in it")
    if not path.parent.is_dir():
        raise MediaError(f"the output's folder {path.parent} does not exist: make it first")
    if path.exists():
        if not path.is_file():
            raise MediaError(f"the output {path} is a device or a pipe, not a file: give another name")
        given = None if source is None else local_path(source)
        if given is not None and os.path.exists(given) and os.path.samefile(path, given):
            raise MediaError(f"the output {path} is the input itself: give another name")
        if not overwrite:
            raise MediaError(f"the output {path} exists: give another name, or --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise MediaError(f"the output's folder {path.parent} cannot be written: permission denied")
    return path


def local_path(source: str | os.PathLike[str]) -> str | None:
    """The path that an input's name stands for, file://PATH included; None for what comes from elsewhere."""
    name = os.fspath(source)
    if "://" not in name:
        return name
    scheme, _, path = name.partition("://")
    return path if scheme.lower() == "file" else None


def is_same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    """Whether two names, also of files that are not there yet, lead to one place: by links and `..` too."""
    return os.path.realpath(a) == os.path.realpath(b)


def write_failure(path: Path, error: OSError) -> MienError:
    """The one-line error for a failed write: RunError, and what to do where the disk is full."""
    if error.errno in _FULL:
        return RunError(f"cannot write {path}: {os.strerror(error.errno or 0)}: free some space or write elsewhere")
    return RunError(f"cannot write {path}: {error.strerror or error}")


class PartFile:
    """A binary file beside `path`; `commit()` gives it its name, `abort()` removes it; both may be called twice.

    Has write, seek and tell, so that a muxer can write into it; every byte is written or the first OSError is kept in
    `error` and raised, which a muxer that swallows errors cannot hide. One thread uses it.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self.error: OSError | None = None
        self._overwrite = overwrite
        self._part = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(4)}.part{path.suffix}")
        try:
            self._file = open(self._part, "x+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise MediaError(f"cannot create a file in {path.parent}: {error.strerror or error}") from error

    @property
    def closed(self) -> bool:
        """Whether it was committed or aborted."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Write all of it; a disk that fills up raises OSError. After an abort the muxer's leftovers are swallowed."""
        if self.closed:
            return len(data)
        if self.error is not None:
            raise self.error
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read back what was written, for muxers that rewrite their beginning."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        return offset if self.closed else self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return 0 if self.closed else self._file.tell()

    def commit(self) -> None:
        """Close and rename to the final name."""
        if self._file.closed:
            return
        try:
            self._file.close()
            if self.error is not None:
                raise self.error
            if not self._overwrite and self.path.exists():
                raise MediaError(
                    f"the output {self.path} appeared while it was made: give another name, or --overwrite"
                )
            os.replace(self._part, self.path)
        except OSError as error:
            raise write_failure(self.path, error) from error
        finally:
            self._part.unlink(missing_ok=True)

    def abort(self) -> None:
        """Close and remove; OUT stays as it was."""
        if not self._file.closed:
            self._file.close()
        self._part.unlink(missing_ok=True)
