"""edgeseg doctor."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

from edgeseg.cli import render

if TYPE_CHECKING:
    from edgeseg.devices.doctor.findings import Finding


@click.command()
@render.json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show what this machine can do, and what to type for the rest.

    Exits with 4 where something is missing that edgeseg cannot run without; missing extras are not a failure.
    """
    from edgeseg.devices.doctor.checks import check
    from edgeseg.devices.doctor.plugins import added
    from edgeseg.devices.power import METERS
    from edgeseg.engines.table import ENGINES
    from edgeseg.recipe.architectures import MODELS
    from edgeseg.recipe.schema import DATA_FORMATS
    from edgeseg.stream.sinks.table import SINKS
    from edgeseg.stream.sources.table import SOURCES

    findings = [*check(), *added([ENGINES, SOURCES, SINKS, MODELS, DATA_FORMATS, METERS])]
    broken = any(finding.required and not finding.ok for finding in findings)

    def human() -> str:
        # Lines, not a table: a table folds commands, which nobody can copy then.
        width = max(len(finding.name) for finding in findings)
        lines = []
        for area, some in groupby(findings, key=lambda finding: finding.area):
            lines.append(f"\n{area}")
            for finding in some:
                lines.append(f"  {_state(finding):7}  {finding.name:{width}}  {finding.found}")
                lines += [f"           {finding.hint}"] if finding.hint else []
        return "\n".join(lines).lstrip("\n")

    render.result({"ok": not broken, "findings": [asdict(finding) for finding in findings]}, as_json, human)
    ctx.exit(4 if broken else 0)


def _state(finding: Finding) -> str:
    """A trap is there, and should not be; what else is not well is missing."""
    return "ok" if finding.ok else "trap" if finding.area == "traps" else "missing"
