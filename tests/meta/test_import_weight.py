"""What an import costs: `--help` is nearly free, and the device side runs where torch, onnx and modelopt are
not installed.
"""

from __future__ import annotations

import pytest

from torch_free import TORCH_FREE, python

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "modelopt",
    "numpy",
    "pydantic",
    "yaml",
    "cv2",
    "rich",
    "PIL",
    "scipy",
)

DEVICE_SIDE = (
    "edgeseg",
    "edgeseg.errors",
    "edgeseg.specs",
    "edgeseg.contracts",
    "edgeseg.metrics",
    "edgeseg.images",
    "edgeseg.synthetic.scene",
    "edgeseg.recipe.schema",
    "edgeseg.recipe.load",
    "edgeseg.bundle",
    "edgeseg.engines.table",
    "edgeseg.engines.onnxruntime.backend",
    "edgeseg.engines.openvino",
    "edgeseg.engines.tensorrt.rtx",
    "edgeseg.engines.choose.for_card",
    "edgeseg.devices.probe",
    "edgeseg.devices.doctor.checks",
    "edgeseg.devices.catalog",
    "edgeseg.engines.choose.build",
    "edgeseg.stream.sources.table",
    "edgeseg.stream.sinks.table",
    "edgeseg.stream.run.runner",
    "edgeseg.stream.config",
    "edgeseg.stream.watch.service",
    "edgeseg.stream.web.server",
    "edgeseg.devices.power",
    "edgeseg.data.datasets",
    "edgeseg.pipeline.export",
    "edgeseg.pipeline.evaluate",
    "edgeseg.pipeline.build",
    "edgeseg.pipeline.demo",
    "edgeseg.testing",
    "edgeseg.cli.run",
    "edgeseg.cli.build",
    "edgeseg.cli.bundle",
    "edgeseg.cli.recipe",
    "edgeseg.cli.doctor",
    "edgeseg.cli.devices",
    "edgeseg.cli.demo",
)


@pytest.mark.parametrize("line", [["--help"], ["--version"], ["no-such-command"]])
def test_the_bare_command_imports_nothing_heavy(line: list[str]) -> None:
    done = python(
        f"import sys; from edgeseg.cli.main import run; run({line!r});"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded: []")


def test_device_side_imports_without_torch() -> None:
    done = python(
        f"{TORCH_FREE}\nimport importlib\n"
        f"for module in {DEVICE_SIDE!r}:\n"
        "    try: importlib.import_module(module)\n"
        "    except ImportError as error: print(f'{module}: {error}')"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_hook_bites() -> None:
    done = python(f"{TORCH_FREE}\nimport torch")
    assert done.returncode != 0
    assert "No module named 'torch' here" in done.stderr


def test_torch_free_commands_show_their_help() -> None:
    commands = ("run", "build", "bundle", "recipe", "doctor", "demo")
    done = python(
        f"{TORCH_FREE}\nfrom edgeseg.cli.main import run\nfor name in {commands!r}: assert run([name,"
        " '--help']) == 0"
    )
    assert done.returncode == 0, done.stderr
    assert [name for name in commands if f"Usage: edgeseg {name}" not in done.stdout] == []


def test_no_help_imports_torch() -> None:
    done = python(
        "import sys\nfrom edgeseg.cli.main import COMMANDS, run\n"
        "for name in COMMANDS:\n"
        "    assert run([name, '--help']) == 0\n"
        "    assert 'torch' not in sys.modules, name"
    )
    assert done.returncode == 0, done.stderr
