"""The promise of `edgeseg recipe check`: every mistake, by file and line, all of them in one run, before any
work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from broken_recipes import MISTAKES, good, put
from edgeseg.cli.main import root
from edgeseg.errors import EdgesegError, RecipeError
from edgeseg.pipeline.recipes import load_recipe
from edgeseg.recipe.load import dump_yaml

NAMES = [f"{index}: {path} = {value!r}"[:70] for index, (path, value, _) in enumerate(MISTAKES)]


def check(folder: Path, data: Any, *overrides: str) -> list[str]:
    """The mistakes that are told of a recipe, without the file's name."""
    file = folder / "recipe.yaml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, overrides)
    return [line.replace(str(file), "F") for line in str(caught.value).splitlines()[1:]]


def test_the_recipe_that_is_broken_below_is_right(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(good()), encoding="utf-8")
    assert load_recipe(file).name == "street"


@pytest.mark.parametrize("path, value, told", MISTAKES, ids=NAMES)
def test_each_mistake_is_told_with_its_line(tmp_path: Path, path: str, value: object, told: str) -> None:
    data = good()
    put(data, path, value)
    lines = dump_yaml(data).splitlines()
    found = check(tmp_path, data)
    line, *_ = [line for line in found if told in line]
    assert len(found) == 1 or "multiple of" in told, found  # which both sides of an image are not
    place, key, _ = line.split(": ", 2)
    assert place.startswith("F:")
    line = lines[int(place.removeprefix("F:")) - 1]
    assert any(f"{part}:" in line or f'"{part}":' in line or part.isdigit() for part in key.split(".")), (
        key,
        line,
    )


def test_all_of_them_at_once(tmp_path: Path) -> None:
    """As many as one recipe can hold: of two mistakes at one place, or of which one hides what the other is
    about, the first.
    """
    data, wanted, taken = good(), [], set[str]()
    for path, value, told in MISTAKES:
        places = {one.partition("=")[0] for one in path.split("+")}
        blocks = {"data.format", "model.arch", "quant", "quant.qat", "isr", "train"}
        if places & blocks or any(
            one.startswith(other) or other.startswith(one) for one in places for other in taken
        ):
            continue
        if path == "quant.keep_float" or any(
            word in told for word in ("gives ", "fewer than", "multiple of accumulate")
        ):
            continue  # about a model, or a value, that another mistake leaves unsettled
        put(data, path, value)
        wanted.append(told)
        taken |= places
    found = "\n".join(check(tmp_path, data))
    missing = [told for told in wanted if told not in found]
    assert len(wanted) > 40
    assert missing == []


def test_an_override_is_checked_as_the_file_is(tmp_path: Path) -> None:
    found = check(
        tmp_path,
        good(),
        "model.arch=edaformr_nano",
        "targets=[{runtime: tensorflow}]",
        "train.betas=[1, 0.5]",
        "quant.calibration.images=nowhere",
    )
    assert [line.split(": ")[1] for line in found] == [
        "model.arch",
        "targets.0.runtime",
        "train.betas.0",
        "quant.calibration.images",
    ] or len(found) == 4
    assert all(line.startswith("--set ") for line in found)


@pytest.mark.parametrize(
    "command",
    [
        ["recipe", "check"],
        ["train", "--data-root", "."],
        ["isr", "--data-root", "."],
        ["quantize", "--data-root", "."],
        ["export"],
        ["calib", "sweep", "--data-root", "."],
        ["sensitivity", "--data-root", "."],
        ["data", "check", "--data-root", "."],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_tells_them_before_any_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = good()
    for path, value in (
        ("model.arch", "edaformr_nano"),
        ("train.ohem_keep", 0),
        ("quant.calibration.images", "nowhere"),
    ):
        put(data, path, value)
    Path("mine.yaml").write_text(dump_yaml(data), encoding="utf-8")
    words = 2 if len(command) > 1 and not command[1].startswith("-") else 1
    result = CliRunner().invoke(root, [*command[:words], "mine.yaml", *command[words:]])
    assert isinstance(result.exception, RecipeError), result.exception
    told = str(result.exception)
    assert told.startswith("3 mistakes in mine.yaml")
    for part in (
        "model.arch: there is no model 'edaformr_nano'; did you mean edaformer_nano?",
        "ohem_keep",
        "nowhere",
    ):
        assert part in told
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "command", [["recipe", "check"], ["export"], ["calib", "check", "--data-root", "."]], ids=str
)
def test_a_name_that_no_file_can_have_is_told(command: list[str]) -> None:
    words = 2 if command[0] != "export" else 1
    result = CliRunner().invoke(root, [*command[:words], "x" * 300, *command[words:]])
    assert isinstance(result.exception, EdgesegError), result.exception


def test_a_set_that_is_to_be_made_may_be_named_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = good()
    put(data, "quant.calibration.images", "mine/set.yaml")
    Path("mine.yaml").write_text(dump_yaml(data), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"there is no calibration set mine/set\.yaml.*edgeseg calib make"):
        load_recipe("mine.yaml")
    made = CliRunner().invoke(
        root, ["calib", "make", "mine.yaml", "--data-root", ".", "--n", "2", "-o", "mine/set.yaml"]
    )
    assert made.exit_code == 0, made.exception
    assert load_recipe("mine.yaml").quant is not None


def test_without_torch_what_needs_it_is_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = good()
    put(data, "quant.keep_float", ["decoder.classifeir"])
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(data), encoding="utf-8")
    monkeypatch.setattr("edgeseg.pipeline.recipes._has_torch", lambda: False)
    result = CliRunner().invoke(root, ["recipe", "check", str(file)])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].startswith("not checked: quant.keep_float: ")
    document = json.loads(CliRunner().invoke(root, ["recipe", "check", str(file), "--json"]).stdout)
    assert len(document["recipes"][0]["unchecked"]) == 1


_WITHOUT_TORCH = """
import sys

sys.modules |= dict.fromkeys(("torch", "onnx", "modelopt"))  # as if they were not installed
from edgeseg.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def test_a_machine_without_torch_tells_the_same_mistakes(tmp_path: Path) -> None:
    """All that are in the catalogue, but for the names of layers."""
    merged: list[Path] = []
    for index, (path, value, _) in enumerate(MISTAKES):
        if path != "quant.keep_float":
            data = good()
            put(data, path, value)
            merged.append(tmp_path / f"{index}.yaml")
            merged[-1].write_text(dump_yaml(data), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, "recipe", "check", *map(str, merged)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert [path for path in merged if f" in {path}" not in done.stderr] == []
