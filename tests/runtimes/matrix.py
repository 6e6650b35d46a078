"""Every form on the lowest and the newest runtimes that pyproject.toml allows, on several versions of Python:
a table.

    python tests/runtimes/matrix.py --uv UV --folder FOLDER [--python 3.10 3.13]

Each environment is made by uv, with edgeseg, the extras of the device side and no torch: once with the lowest
releases that the requirements allow, once with the newest. There, every form is opened, run and held to its
golden frames, and the device side's own tests are run on the lowest of the first Python and the newest of the
last. Exits with 1 where something is refused or wrong that the environment which made the bundles can do, and
where ONNX Runtime, whose engines are the default, cannot do it at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_tests import ROOT, device_tests

HERE = Path(__file__).parent
EXTRAS = "video,openvino,web,mqtt"
TESTING = ["hypothesis>=6.100", "onnx>=1.17", "pillow>=10.3", "pytest>=8.3", "pytest-xdist>=3.6"]
LOWEST, NEWEST = "lowest-direct", "highest"
SHOWN = ("python", "onnxruntime", "openvino", "numpy", "pydantic")

Row = Mapping[str, Any]
Form = tuple[str, str, str]
"""Runtime, precision, form."""


@dataclass
class Column:
    """An environment, and what came of each form of each bundle in it.

    Attributes:
        here: versions of Python and packages.
        rows: of `open_all.py`.
        failed: why nothing or not all could be tried.
    """

    title: str
    here: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    failed: list[str] = field(default_factory=list)

    def by_place(self) -> dict[tuple[Any, ...], Row]:
        return {
            (row["bundle"], row["level"], row["precision"], row["form"], row["runtime"]): row
            for row in self.rows
        }


def of_form(column: Column, form: Form) -> list[Row]:
    return [row for row in column.rows if (row["runtime"], row["precision"], row["form"]) == form]


def cell(rows: Sequence[Row]) -> str:
    """How many of a form's programs run and agree, and how well the worst of them does."""
    good = [row for row in rows if row["state"] == "ok"]
    if len(good) == len(rows):
        return f"ok {min(row['agreement'] for row in good):.3f}" if good else "-"
    others = " ".join(dict.fromkeys(str(row["state"]) for row in rows if row["state"] != "ok"))
    return f"{len(good)} of {len(rows)}, {others}"


def told(row: Row) -> str:
    """What is the matter."""
    return (
        f"{row['state']}:"
        f" {row.get('reason') or format(row['agreement'], '.1%') + ' of a golden frame agrees'}"
    )


def table(columns: Sequence[Column]) -> str:
    """Versions, then one line a form."""
    forms: list[Form] = list(
        dict.fromkeys(
            (row["runtime"], row["precision"], row["form"]) for column in columns for row in column.rows
        )
    )
    lines = [["", *(column.title for column in columns)]]
    lines += [[name, *(column.here.get(name, "-") for column in columns)] for name in SHOWN]
    lines += [[" ".join(form), *(cell(of_form(column, form)) for column in columns)] for form in forms]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def mistakes(measure: Column, columns: Sequence[Column]) -> list[str]:
    """What must not be, one a line.

    Args:
        measure: the environment that made the bundles: what it can do, each must.
    """
    found = [f"{column.title}: {text}" for column in (measure, *columns) for text in column.failed]
    known = measure.by_place()
    for column in (measure, *columns):
        for place, row in column.by_place().items():
            # Where OpenVINO's own rewriting moves a network's answers too far, golden frames keep the engine
            # out everywhere.
            as_in_measure = (
                row["runtime"] != "onnxruntime" and row["state"] == known.get(place, row)["state"] != "broken"
            )
            if row["state"] not in ("ok", "saturates") and not as_in_measure:
                found.append(f"{column.title}: {' '.join(map(str, place))}: {told(row)}")
    return found


def python_of(name: str, uv: str) -> str | None:
    """An interpreter by its path, its name on PATH or its version, also where pyenv keeps it; None where
    there is none.
    """
    asked = subprocess.run(
        [uv, "python", "find", "--no-python-downloads", name], capture_output=True, text=True
    )
    if asked.returncode == 0:
        return asked.stdout.strip()
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(kept.glob(f"{name.removeprefix('python')}.*/bin/python"))
    return str(found[-1]) if found else None


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )


def last_lines(done: subprocess.CompletedProcess[str], count: int = 12) -> str:
    return "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-count:])


def open_all(column: Column, python: str | Path, bundles: Path, **environment: str) -> None:
    done = run(python, HERE / "open_all.py", bundles, **environment)
    if done.returncode:
        column.failed.append(f"open_all.py: {last_lines(done)}")
        return
    document = json.loads(done.stdout)
    column.here, column.rows = document["here"], document["rows"]


def environment(uv: str, python: str, resolution: str, folder: Path) -> str | None:
    """Make an environment. Returns why it could not be made."""
    shutil.rmtree(folder, ignore_errors=True)
    make = run(uv, "venv", "--quiet", "--python", python, folder)
    # From the folder: only so are its requirements what "direct" means. Where the lowest has no wheel, the
    # next one counts.
    binary = ("--only-binary", ":all:", "--no-binary", "edgeseg", "--resolution", resolution)
    pip = (uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *binary)
    # uv would take a folder for unchanged while its pyproject.toml is.
    done = make if make.returncode else run(*pip, "--refresh-package", "edgeseg", f"{ROOT}[{EXTRAS}]")
    return last_lines(done) if done.returncode else None


def test(column: Column, uv: str, folder: Path, jobs: int) -> None:
    """Run the device side's own tests in an environment."""
    python = folder / "bin" / "python"
    done = run(uv, "pip", "install", "--quiet", "--python", python, "--only-binary", ":all:", *TESTING)
    if not done.returncode:
        cache = ("-p", "no:cacheprovider", "-n", str(jobs), "--dist", "loadfile")
        done = run(python, "-m", "pytest", "-q", *cache, *device_tests(), PYTHONDONTWRITEBYTECODE="1")
    print(
        f"{column.title}: device side's tests: {(done.stdout.strip().splitlines() or ['-'])[-1]}", flush=True
    )
    if done.returncode:
        column.failed.append(f"device side's tests: {last_lines(done, 30)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--uv", default="uv", help="the uv that makes the environments")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for bundles and environments; they are made anew"
    )
    parser.add_argument(
        "--python", nargs="+", default=["3.10", "3.13"], help="versions or interpreters, oldest first"
    )
    parser.add_argument("--jobs", type=int, default=2, help="test files at a time")
    parser.add_argument("--no-tests", action="store_true", help="open the forms only")
    given = parser.parse_args()
    began, folder = time.monotonic(), given.folder.resolve()
    found = {name: python_of(name, given.uv) for name in given.python}
    for name in (name for name, python in found.items() if python is None):
        print(
            f"Python {name} is not here, and is left out; others: make test-runtimes RUNTIMES_PYTHONS='3.11"
            " /path/to/python'"
        )
    pythons = {name: python for name, python in found.items() if python} or {"this Python": sys.executable}
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    made = run(sys.executable, HERE / "bundles.py", folder / "bundles", PYTHONPATH=str(ROOT))
    if made.returncode:
        print(last_lines(made, 40))
        return 1
    measure = Column("made with")
    open_all(measure, sys.executable, folder / "bundles", PYTHONPATH=str(ROOT))
    columns = []
    for name, python in pythons.items():
        for resolution in (LOWEST, NEWEST):
            column = Column(f"{name} {'lowest' if resolution == LOWEST else 'newest'}")
            home = folder / column.title.replace(" ", "-").replace("/", "_")
            columns.append(column)
            if why := environment(given.uv, python, resolution, home):
                column.failed.append(why)
                continue
            open_all(column, home / "bin" / "python", folder / "bundles")
            if not given.no_tests and (name, resolution) in (
                (next(iter(pythons)), LOWEST),
                (list(pythons)[-1], NEWEST),
            ):
                test(column, given.uv, home, given.jobs)
    print(table([measure, *columns]))
    for row in measure.rows:
        if row["state"] != "ok":
            place = f"{row['runtime']} {row['precision']} {row['form']} of {row['bundle']}"
            print(f"{place}: {told(row)}; edgeseg build refuses such an engine by the golden frames")
    wrong = mistakes(measure, columns)
    print(*(wrong or ["every form runs in every environment"]), sep="\n")
    print(f"{len(columns)} environments, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
