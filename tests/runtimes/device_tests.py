"""The tests that need neither torch nor any room above the device side; by what they import, and what their
helpers import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
FOLDERS = ("unit", "conformance")
_ABSENT = (
    "torch",
    "torchvision",
    "modelopt",
    "safetensors",
    "tensorboard",
    "matplotlib",
    "playwright",
    "importlinter",
)


@cache
def _device_side() -> frozenset[str]:
    """Rooms that the linter holds free of torch, and the command line, which imports the others late."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (
        one for one in contracts if one["type"] == "forbidden" and "torch" in one["forbidden_modules"]
    )
    return frozenset({*contract["source_modules"], "edgeseg.cli", "edgeseg.journal"})


@cache
def _imported(file: Path) -> frozenset[str]:
    """Modules that a file imports, wherever in it; of `from a import b`, both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _needs(file: Path, seen: frozenset[Path] = frozenset()) -> Iterator[str]:
    """What a test file, or one of its helpers, imports that the device side has not."""
    for name in _imported(file):
        top, *rest = name.split(".")
        helper = TESTS / "support" / f"{top}.py"
        if top == "edgeseg":
            inner = (ROOT / "/".join(name.split("."))).with_suffix(".py").exists() or (
                ROOT / "/".join(name.split("."))
            ).is_dir()
            rooms = {".".join(("edgeseg", *rest[:depth])) for depth in range(1, len(rest) + 1)}
            if rest and inner and name != "edgeseg.data" and not rooms & _device_side():
                yield name
        elif top in _ABSENT:
            yield top
        elif helper.exists() and helper not in seen:
            yield from _needs(helper, seen | {helper})


def device_tests() -> list[Path]:
    """Test files, relative to the repository."""
    files = sorted(file for folder in FOLDERS for file in (TESTS / folder).rglob("test_*.py"))
    return [file.relative_to(ROOT) for file in files if not any(True for _ in _needs(file))]


if __name__ == "__main__":
    print(*device_tests(), sep="\n")
