"""The command line `mien`: its commands, the form of its errors and its exit codes.

Exit codes: 0 done; 2 the user's input is wrong; 3 what was asked for is not available here; 4 the run failed; 130
interrupted. An error is one line on stderr, `mien: error: ...`; a traceback only with --debug.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
import typer.core

from mien.engine.errors import InputError, MienError
from mien.runtime.commands import doctor, edit, edits, models

PLUGINS = "mien.commands"
"""Entry points of this group are further commands: runtime does not know who brings them."""

_UsageError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
INTERRUPTED = 130


class Commands(typer.core.TyperGroup):
    """The commands of this file, then those of installed entry points, which are imported only when called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name, own commands first."""
        own = super().list_commands(ctx)
        return own + sorted(
            point.name for point in importlib.metadata.entry_points(group=PLUGINS) if point.name not in own
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for point in importlib.metadata.entry_points(group=PLUGINS, name=cmd_name):
            command = typer.main.get_command(point.load())
            command.name = cmd_name
            return command
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begins with. Raises InputError with the nearest name."""
        name = args[0]
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        known = self.list_commands(ctx)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ":"
        raise InputError(f"unknown command {name!r}{hint} the commands are {', '.join(known)}")


app = typer.Typer(
    name="mien",
    cls=Commands,
    help="Edits the faces in talking-portrait video with few-step diffusion.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("edit")(edit.edit)
app.add_typer(edits.app, name="edits")
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mien {importlib.metadata.version('mien')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Edits the faces in talking-portrait video with few-step diffusion."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP unless it is ignored (nohup), end a run as Ctrl-C does, so that it cleans up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, interrupt)
    except ValueError:  # not the main thread: leave signals alone
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, never raised."""
    options = list(arguments)
    end = options.index("--") if "--" in options else len(options)
    debug = "--debug" in options[:end]
    command = typer.main.get_command(app)
    try:
        with _terminate_as_interrupt():
            with command.make_context(
                "mien", [o for i, o in enumerate(options) if i >= end or o != "--debug"]
            ) as context:
                command.invoke(context)
            sys.stdout.flush()
        return 0
    except typer.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has what it wanted
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*_words(error, options))


# What brings a package, and those that `mien[cpu]` does not.
_CPU = "'mien[cpu]'"
_PROVIDES = {name: "'mien[export]'" for name in ("torch", "onnx", "onnxscript", "transformers", "safetensors")}
_PROVIDES |= {"triton": "'mien[gpu]'", "scipy": "scipy", "diffusers": "diffusers", "mediapipe": "mediapipe"}


def _words(error: Exception, options: Sequence[str]) -> tuple[str, int]:
    if isinstance(error, MienError):
        return str(error), error.exit_code
    if isinstance(error, _UsageError):
        return _usage(error, options), 2
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "mien":
        package = error.name.split(".")[0]
        return f"{package} is not installed: pip install {_PROVIDES.get(package, _CPU)}", 3
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}", 4
    if isinstance(error, MemoryError):
        return "out of memory: use a smaller picture or fewer threads", 4
    return f"unexpected {type(error).__name__}: {error}: this is a fault of mien, --debug shows where", 4


def _usage(error: Any, options: Sequence[str]) -> str:
    """What is wrong with the command line, with the value that was given where an option has a wrong one."""
    text = str(error.format_message()).rstrip(".")
    for name in getattr(getattr(error, "param", None), "opts", ()):
        for word, following in zip(options, [*options[1:], ""], strict=True):
            value = following if word == name else word.removeprefix(f"{name}=")
            if word == name or value != word:
                text = f"{name} is {value!r}: {text.partition(': ')[2] or text}"
    return text if "did you mean" in text.lower() else f"{text}: see mien --help"


def _fail(message: str, code: int) -> int:
    print("mien: error:", " ".join(message.split()), file=sys.stderr, flush=True)
    return code
