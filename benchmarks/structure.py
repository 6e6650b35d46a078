"""The package's structure at any revision: rooms and the imports between them, statements, wide functions.

python benchmarks/structure.py [REVISION ...]       (default: HEAD; reads git, changes nothing)

Statements are counted, not lines, so that revisions with another line length compare.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import tarfile
from collections import Counter
from typing import Any


def sources(revision: str) -> dict[str, ast.Module]:
    """Modules of the package by dotted name, parsed."""
    command = ["git", "archive", revision, "edgeseg"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    found: dict[str, ast.Module] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.name.endswith(".py") and (file := tar.extractfile(member)):
                name = member.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                found[name] = ast.parse(file.read())
    return found


def imports(tree: ast.Module) -> set[str]:
    """Modules and names that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(name: str, modules: dict[str, ast.Module]) -> str | None:
    """The module that a dotted name lies in."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def shelf(module: str, packages: set[str]) -> str:
    """The folder that a module lies in: a package is the shelf of its own __init__."""
    return module if module in packages else module.rpartition(".")[0]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in arguments if one.arg not in ("self", "cls")])


def measure(revision: str) -> dict[str, Any]:
    modules = sources(revision)
    packages = {name.rpartition(".")[0] for name in modules if "." in name}
    on_shelf = Counter(shelf(name, packages) for name in modules)
    arrows: set[tuple[str, str]] = set()
    for name, tree in modules.items():
        targets = {module_of(one, modules) for one in imports(tree) if one.startswith("edgeseg")}
        arrows |= {(name, target) for target in targets if target and target != name}
    rooms = {(shelf(a, packages), shelf(b, packages)) for a, b in arrows}
    wide = [
        (parameters(node), f"{name}.{node.name}")
        for name, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        # a command takes what it declares as options
        and not any(
            "click" in ast.unparse(one) or "option" in ast.unparse(one) for one in node.decorator_list
        )
    ]
    public = next(
        (
            len(node.value.keys)
            for node in ast.walk(modules["edgeseg"])
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        ),
        0,
    )
    return {
        "revision": revision,
        "modules": len(modules),
        "statements": sum(isinstance(node, ast.stmt) for tree in modules.values() for node in ast.walk(tree)),
        "fullest_rooms": on_shelf.most_common(5),
        "arrows_between_modules": len(arrows),
        "arrows_between_rooms": sum(a != b for a, b in rooms),
        "widest_functions": [(name, count) for count, name in sorted(wide, reverse=True)[:5]],
        "public_names": public,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revisions", nargs="*", default=["HEAD"])
    for one in parser.parse_args().revisions:
        print(json.dumps(measure(one), indent=1))
