"""edgeseg doctor."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeseg.devices.finding import Finding


@click.command()
@render.json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show what this machine can do, and what to type for the rest.

    Exits with 4 where something is missing that edgeseg cannot run without; missing extras are not a failure.
    """
    from edgeseg.devices.checkup import checkup

    findings = checkup()
    broken = any(finding.required and not finding.ok for finding in findings)

    def human() -> RenderableType:
        rows = [(f.area, f.name, _state(f), f.found, f.hint) for f in findings]
        return render.table("", ("", "", "", "found", "to get it"), rows)

    render.result({"ok": not broken, "findings": [asdict(finding) for finding in findings]}, as_json, human)
    ctx.exit(4 if broken else 0)


def _state(finding: Finding) -> str:
    """A trap is there, and should not be; what else is not well is missing."""
    return "ok" if finding.ok else "trap" if finding.area == "traps" else "missing"
