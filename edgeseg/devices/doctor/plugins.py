"""The rows that other packages add to edgeseg's tables, and which of them cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgeseg.devices.doctor.findings import Finding
from edgeseg.registry import Table


def added(tables: Iterable[Table[object]]) -> Iterator[Finding]:
    """Import every plug-in of some tables; one finding each, none where no package adds anything."""
    for table in tables:
        for plugin in table.installed():
            problem = table.problem(plugin)
            yield Finding(
                "plug-ins",
                f"{table.what} {plugin.name}",
                not problem,
                problem or f"{plugin.value}, of the package {plugin.distribution}",
                f"repair that package, or remove it: pip uninstall {plugin.distribution}" if problem else "",
            )
