"""Every error mien raises on purpose.

MienError                  anything below; carries the process exit code of the command line
├── InputError             the user's input is wrong                               (exit 2)
│   ├── MediaError         a file or stream that cannot be read or written as asked
│   ├── EditError          an unknown edit, a strength outside its range, a bad option
│   └── BundleError        a bundle that is missing, corrupt or of the wrong form
├── ShapeError             an array whose shape or dtype breaks a contract         (exit 4)
├── UnavailableError       what was asked for is not available on this machine     (exit 3)
└── RunError               the run failed on the way: disk full, codec error       (exit 4)

A message is one line: what was wrong, the value, what is accepted, what to do.
"""

from __future__ import annotations


class MienError(Exception):
    """Base of every error mien raises on purpose."""

    exit_code = 4


class InputError(MienError, ValueError):
    """The user's input is wrong."""

    exit_code = 2


class MediaError(InputError):
    """A file or stream that cannot be read or written as asked."""


class EditError(InputError):
    """An unknown edit, a strength outside its range, a bad option."""


class BundleError(InputError):
    """A bundle that is missing, corrupt or of the wrong form."""


class ShapeError(MienError, ValueError):
    """An array whose shape or dtype breaks a contract."""


class UnavailableError(MienError, RuntimeError):
    """What was asked for is not available on this machine."""

    exit_code = 3


class RunError(MienError, RuntimeError):
    """The run failed on the way."""
