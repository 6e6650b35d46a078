"""Rows that installed packages add to a table, good and broken ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeseg.engines import options
from edgeseg.engines.table import ENGINES, backend
from edgeseg.errors import Unsupported
from edgeseg.recipe.rules import known_runtimes
from edgeseg.registry import Table
from plugins import install


@pytest.fixture
def table() -> Table[object]:
    return Table("edgeseg.engines", "runtime", {"ours": "pathlib:Path"}, taken=("reserved",))


def test_a_plug_in_is_a_row_of_the_table(
    table: Table[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", {"edgeseg.engines": {"swift": "acme:Swift"}}, "class Swift: ...")
    assert table.names() == ["ours", "swift"]
    assert "acme" not in sys.modules, "a row is imported when it is used"
    assert table.load("swift").__name__ == "Swift"  # type: ignore[attr-defined]
    assert [table.problem(plugin) for plugin in table.installed()] == [""]


@pytest.mark.parametrize("name", ["ours", "reserved"])
def test_a_plug_in_takes_no_name_of_ours(
    table: Table[object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", {"edgeseg.engines": {name: "acme:Swift"}}, "class Swift: ...")
    assert table.names() == ["ours"]
    assert table.load("ours") is Path
    (plugin,) = table.installed()
    assert table.problem(plugin) == "not used: edgeseg has a runtime of this name"


def test_the_first_of_two_packages_has_the_name(
    table: Table[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("zeta", "acme"):
        row = {"edgeseg.engines": {"swift": f"{package}:Swift"}}
        install(tmp_path, monkeypatch, package, row, "class Swift: ...")
    assert table.plugins()["swift"].distribution == "acme"
    told = {plugin.distribution: table.problem(plugin) for plugin in table.installed()}
    assert told == {"acme": "", "zeta": "not used: acme has a runtime of this name"}


@pytest.mark.parametrize("code", ["import nothing_like_it", "class Other: ...", "1 / 0", "def"])
def test_a_broken_plug_in_is_told_by_name_where_it_is_used(
    table: Table[object], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", {"edgeseg.engines": {"swift": "acme:Swift"}}, code)
    assert table.load("ours") is Path
    with pytest.raises(
        Unsupported, match="the runtime 'swift' of the package acme cannot be imported"
    ) as caught:
        table.load("swift")
    assert caught.value.hint.endswith("pip uninstall acme")
    assert table.problem(table.plugins()["swift"]) == str(caught.value)


def test_a_broken_runtime_leaves_the_others_their_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "acme", {"edgeseg.engines": {"swift": "acme:Swift"}}, "1 / 0")
    assert "swift" in ENGINES.names() and "swift" in known_runtimes()
    assert set(options.declared()) == set(ENGINES.rows)
    with pytest.raises(Unsupported, match="package acme"):
        backend("swift")
