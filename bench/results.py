"""Rows of bench/results/<device>.jsonl: one per run, with what is needed to judge or repeat it."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.engine.config import usable_cores
from mien.runtime.run_report import versions


def machine() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = found.group(1).strip() if found else name
    except OSError:
        pass
    return f"{name} ({usable_cores()} cores)"


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


def append_row(folder: Path, row: Mapping[str, Any]) -> Path:
    """Append a row to the file of this device; the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^A-Za-z0-9]+", "-", machine()).strip("-").lower() + ".jsonl")
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    whole = {"time": moment, "commit": commit(), "device": machine(), "versions": versions(), **row}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(whole) + "\n")
    return path
