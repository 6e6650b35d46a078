"""What reverting layers costs in time: engines of the float model, of INT8, and of INT8 with layers reverted,
timed in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg.checkpoints.models import Quantized
from edgeseg.contracts import Progress, Session
from edgeseg.devices.machine import detect
from edgeseg.engines import table
from edgeseg.engines.choose.latency import measure_together
from edgeseg.export.program import export_program
from edgeseg.images import resize_image
from edgeseg.int8.sensitivity import LayerSwitch
from edgeseg.int8_study.context import Setting
from edgeseg.specs import Form, ImageU8, Program


def engine_times(
    setting: Setting,
    variants: Mapping[str, tuple[str, ...] | None],
    runtime: str,
    threads: int | None,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Build an engine of each variant in a temporary folder, and time them in turns on one image.

    Args:
        variants: name -> the layers that are float in it, all others INT8; None: the float program. Speed-ups
            refer to the first.
        runtime: a row of the engine table.
        threads: default: the physical cores that this process may use.
        rounds: times that each engine is timed.
    Returns:
        {"runtime", "runtime_version", "device", "threads", "engines": {variant: Latency as JSON}}
    Raises:
        BuildError: a variant cannot be exported or compiled.
        Unsupported: there is no such runtime, or it takes no INT8 programs.
    """
    machine = detect()
    options = {"threads": threads or machine.cores}
    backend, device = table.backend(runtime, machine), table.fingerprint(runtime, machine)
    image = resize_image(setting.subset.load(0)[0], setting.image.size_hw)
    with TemporaryDirectory(prefix="edgeseg-sensitivity-") as folder, ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, floats in variants.items():
            progress.message(f"building the engine of {name}")
            place = Path(folder) / name
            place.mkdir()
            program = _program(
                setting, floats, backend.form_for("float" if floats is None else "int8"), place
            )
            files = backend.compile(program, place, options)
            sessions[name] = stack.enter_context(backend.load(program, files, options))
        progress.message(f"timing {len(sessions)} engines, {rounds} rounds")
        latencies = measure_together(
            {name: _call(session, image) for name, session in sessions.items()}, rounds
        )
    return {
        "runtime": device.runtime,
        "runtime_version": device.runtime_version,
        "device": str(device),
        **options,
        "engines": {name: latency.to_json() for name, latency in latencies.items()},
    }


def _call(session: Session, image: ImageU8) -> Callable[[], object]:
    return lambda: session.infer(image)


def _program(setting: Setting, floats: tuple[str, ...] | None, form: Form | None, folder: Path) -> Program:
    """One variant in the form that its runtime wants."""
    from edgeseg.export.graph.forms import write_form
    from edgeseg.export.onnx_qdq import export_qdq

    trained, export = setting.trained, setting.recipe.export
    if floats is None:
        return export_program(
            trained.model,
            image=trained.image,
            labels=trained.labels,
            mask_stride=export.mask_stride,
            arch=trained.arch,
            opset=export.opset,
            out=folder / "float.onnx",
            form=form or Form.PLAIN,
        )
    switch = LayerSwitch(setting.model)
    quantized = Quantized(
        model=setting.model,
        hints=setting.hints,
        image=setting.image,
        labels=trained.labels,
        arch=trained.arch,
        plan=trained.model.isr_plan,
        settings=setting.quant,
        sha256=trained.sha256,
        facts={},
    )
    with switch.only(name for name in switch.names if name not in floats):
        canonical = export_qdq(
            quantized,
            mask_stride=export.mask_stride,
            opset=export.opset,
            out=folder / f"{Form.QDQ}.onnx",
        )
    return write_form(canonical, form or Form.QDQ, folder)
