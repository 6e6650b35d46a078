"""Packages that add rows to edgeseg's tables, as pip would leave them in a folder of Python's path."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    groups: Mapping[str, Mapping[str, str]],
    code: str,
) -> None:
    """Write a package of one module, and put it on the path until the test ends.

    Args:
        folder: a fresh one is made below it.
        groups: entry-point group -> name -> "module:attribute".
        code: of the module.
    """
    site = folder / f"site-{name}"
    site.mkdir()
    facts = site / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items())
            for group, rows in groups.items()
        )
    )
    (site / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, name, raising=False)
