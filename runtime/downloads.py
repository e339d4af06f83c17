"""Files fetched by plain HTTPS: resumed where they broke off, and held to the hash that the first download had.

A folder of downloads keeps `lock.json`: every file's sha256, and what is needed to resume those that lie there as FILE.part.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mien.engine.errors import BundleError, UnavailableError
from mien.runtime.part_file import write_failure

LOCK = "lock.json"
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
_ELSEWHERE = (401, 403, 404, 410)  # Hugging Face answers 401 for a repository that is gone

Show = Callable[[str, int, int | None], None]


class _Broken(Exception):
    """The connection broke off; what arrived is kept."""


class _Changed(Exception):
    """What arrived before is not the beginning of what the server has now."""


@dataclass(slots=True)
class Downloads:
    """The downloads of one folder. show: told a file's name, its bytes so far and its bytes in all."""

    folder: Path
    show: Show = lambda name, done, total: None
    _lock: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the lock. Raises BundleError where it is damaged."""
        file = self.folder / LOCK
        try:
            value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            parts = {
                key: {name: dict(entry) for name, entry in value.get(key, {}).items()} for key in ("files", "partial")
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise BundleError(
                f"{file} cannot be read ({error}): delete it, and the files beside it are trusted anew"
            ) from None
        self._lock = parts

    def fetch(self, name: str, urls: Sequence[str]) -> Path:
        """A file by its path in the folder, out of the first of the addresses that has it. Nothing is fetched twice.

        Raises UnavailableError without a connection or an address that has it, BundleError for a file of another hash
        than the first time, RunError where it cannot be written.
        """
        target = self.folder / name
        known = self._lock["files"].get(name, {}).get("sha256")
        if target.exists():
            found = _sha256(target)
            if known not in (None, found):
                raise BundleError(
                    f"{target} is damaged: its sha256 is {found}, it was {known}: delete it and run the command again"
                )
            self._remember(name, found)
            return target
        part = target.with_name(target.name + ".part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(part.parent, error) from error
        url = self._fetch_any(name, part, urls)
        found = _sha256(part)
        if known not in (None, found):
            part.unlink()
            raise BundleError(
                f"{url} is not the file it was: its sha256 is {found}, the first time it was {known}; if the publisher may"
                f" have changed it, delete {name} from {self.folder / LOCK} and run the command again"
            )
        self._remember(name, found)
        os.replace(part, target)
        return target

    def _fetch_any(self, name: str, part: Path, urls: Sequence[str]) -> str:
        failed = ""
        for url in urls:
            try:
                self._fetch_one(name, part, url)
            except urllib.error.HTTPError as error:
                error.close()
                failed = f"{url} answers {error.code} {error.reason}"
                if error.code in _ELSEWHERE:
                    continue
                raise UnavailableError(f"{failed}: try again later; what is here stays in {self.folder}") from None
            return url
        raise UnavailableError(f"{failed}: the file is gone or asks for a login: see mien models import")

    def _fetch_one(self, name: str, part: Path, url: str) -> None:
        """Go on after every break as long as more arrives, and begin anew at most once."""
        is_anew = False
        while True:
            before = _size(part)
            try:
                self._transfer(name, part, url)
                return
            except _Changed as error:
                if is_anew:
                    raise self._no_network(url, error) from None
                part.unlink(missing_ok=True)
                is_anew = True
            except _Broken as error:
                if _size(part) <= before:
                    raise self._no_network(url, error) from None

    def _transfer(self, name: str, part: Path, url: str) -> None:
        """One request, from where the part file ends."""
        start, partial = _size(part), self._lock["partial"].get(name, {})
        headers = {"User-Agent": "mien", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag := partial.get("etag"):
                headers["If-Range"] = etag
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:
                raise
            error.close()
            if (error.headers.get("Content-Range") or "").rpartition("/")[2] != str(start):
                raise _Changed("the file has another length than before") from None
            return
        except (OSError, http.client.HTTPException) as error:
            raise self._no_network(url, error) from None
        with response:
            resumed, total = _extent(response, start)
            if resumed and partial.get("total") not in (None, total):
                raise _Changed("the file has another length than before")
            self._lock["partial"][name] = {"etag": _strong(response.headers.get("ETag")), "total": total}
            self._write_lock()
            done = self._receive(name, response, part, start if resumed else 0, total)
        if total is not None and done != total:
            raise _Broken(f"the connection broke off after {done:,} of {total:,} bytes")

    def _receive(self, name: str, response: Any, part: Path, done: int, total: int | None) -> int:
        """Write what arrives behind the first `done` bytes; how many there are then."""
        try:
            with open(part, "ab" if done else "wb") as file:
                self.show(name, done, total)
                while data := _read(response):
                    file.write(data)
                    done += len(data)
                    self.show(name, done, total)
        except OSError as error:
            raise write_failure(part, error) from error
        return done

    def _remember(self, name: str, sha256: str) -> None:
        if self._lock["files"].get(name) != {"sha256": sha256} or name in self._lock["partial"]:
            self._lock["files"][name] = {"sha256": sha256}
            self._lock["partial"].pop(name, None)
            self._write_lock()

    def _write_lock(self) -> None:
        file = self.folder / LOCK
        temporary = file.with_name(f".{LOCK}.new")
        try:
            temporary.write_text(json.dumps(self._lock, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(temporary, file)
        except OSError as error:
            raise write_failure(file, error) from error

    def _no_network(self, url: str, error: Exception) -> UnavailableError:
        words = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        return UnavailableError(
            f"cannot fetch from {urlsplit(url).netloc} ({words}): pulling needs the network; what arrived stays in"
            f" {self.folder}, run the command again to go on"
        )


def _extent(response: Any, start: int) -> tuple[bool, int | None]:
    """Whether the answer goes on at `start`, and the whole file's size where it is told."""
    if response.status != 206:
        length = response.headers.get("Content-Length") or ""
        return False, int(length) if length.isdigit() else None
    span, _, total = (response.headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
    if span.partition("-")[0] != str(start):
        raise _Changed(f"the server answers the range {span!r} where {start}- was asked for")
    return True, int(total) if total.isdigit() else None


def _strong(etag: str | None) -> str | None:
    """An ETag that a range may be held to."""
    return None if etag is None or etag.startswith("W/") else etag


def _read(response: Any) -> bytes:
    try:
        data: bytes = response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None
    return data


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
