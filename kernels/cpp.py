"""The C++ paths, if they are installed: `native` is the module mien._native, or None, and `missing` says why."""

from __future__ import annotations

from types import ModuleType

native: ModuleType | None
missing: str | None
try:
    from mien import _native as native

    missing = None
except ImportError as error:
    native, missing = None, str(error)
