"""Rows of bench/results/<device>.jsonl: one per case and run, with what is needed to judge or repeat it."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mien.bench.device_state import processor
from mien.engine.errors import InputError
from mien.runtime.versions import MEASURED, versions

Row = dict[str, Any]
Key = tuple[str, ...]


def machine() -> str:
    """The processor's name and how many of its cores this process may use."""
    return processor()


@cache
def commit() -> str | None:
    """The commit of the working tree this runs from, with "+" where it has changes; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def slug(device: str) -> str:
    """A device's name as a file's."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()


def append_row(folder: Path, row: Mapping[str, Any], device: str | None = None) -> Path:
    """Append a row to the file of a device, this machine's processor if not given; the file."""
    device = device or machine()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(device)}.jsonl"
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    whole = {"time": moment, "commit": commit(), "device": device, "versions": versions(MEASURED), **row}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
    return path


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, or of all .jsonl files of a folder, oldest first in each. Raises InputError."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no results: give a .jsonl file of mien bench, or a folder of them")
    rows = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}: give a .jsonl file of mien bench") from None
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise InputError(f"{file}:{number} is no row of results, which is an object of JSON: remove the line")
            rows.append(row)
    return rows


def key_of(row: Mapping[str, Any]) -> Key | None:
    """What a row measured, the same in every run of it; None for a row that names no case."""
    case = row.get("case")
    if not isinstance(case, Mapping):
        return None
    return (str(row["bench"]), *(f"{name} {value}" for name, value in case.items()))


def newest(rows: Iterable[Row]) -> dict[Key, Row]:
    """The last row of each case, in the order in which the cases first come."""
    found: dict[Key, Row] = {}
    for row in rows:
        if (key := key_of(row)) is not None:
            found[key] = row
    return found
