"""The README's table of models is what `edgeseg models --markdown` prints."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from edgeseg.cli.models import models

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_holds_the_table() -> None:
    shown = CliRunner().invoke(models, ["--markdown"])
    assert shown.exit_code == 0, shown.output
    assert f"\n{shown.stdout}" in README.read_text(), (
        "README.md: replace the table by the output of `edgeseg models --markdown`"
    )
