"""A finding of the doctor: one fact, and where something is missing, what to type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        area: "python", "machine", "packages", "device", "runtimes", "video", "storage", "traps" or
            "plug-ins".
        name: what was looked for.
        ok: it is there and works.
        found: version or fact; what is wrong where `ok` is false.
        hint: what to type to get it; empty where it is there.
        required: without it edgeseg does not run at all.
    """

    area: str
    name: str
    ok: bool
    found: str
    hint: str = ""
    required: bool = False
