"""`mien doctor`: what is installed, what can be used, and what would repair the rest."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from mien.runtime.doctor import NOT_USABLE, diagnose

_MARKS = {"ok": "ok  ", "none": "-   ", "warning": "WARN", "error": "FAIL"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    bundle: Annotated[str, typer.Option(help="The bundle to verify.")] = "tiny",
) -> None:
    """Say what is installed and usable; exit 0 if faces can be edited on the CPU, 3 if not."""
    findings = diagnose(bundle)
    works = not any(finding.state == "error" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"works": works, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            typer.echo(f"{_MARKS[finding.state]}  {finding.name:<{width}}  {finding.value}")
            if finding.fix:
                typer.echo(f"{'':4}  {'':{width}}  to repair: {finding.fix}")
        typer.echo("faces can be edited on the CPU" if works else "faces cannot be edited here: see FAIL above")
    if not works:
        raise typer.Exit(NOT_USABLE)
