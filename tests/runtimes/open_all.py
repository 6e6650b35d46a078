"""Open and run every form of every bundle in a folder with the runtimes that are installed here: python
open_all.py FOLDER

Prints one JSON document. Runs without torch and onnx, in an environment that holds edgeseg and nothing of
this folder.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.bundle import Bundle, open_bundle
from edgeseg.devices.integers import integers_here
from edgeseg.engines.table import backend
from edgeseg.errors import EdgesegError
from edgeseg.metrics import mask_agreement
from edgeseg.specs import GPU_FORMS, Precision, Program

PACKAGES = ("onnxruntime", "openvino", "numpy", "pydantic", "click", "opencv-python-headless", "av")
RUNTIMES = ("onnxruntime", "openvino")
OPTIONS = {"threads": 2}
ROUNDED = 0.2
"""How much more half precision may move a mask that weights by rule make, whose classes are all about as
likely.
"""


def programs(bundle: Bundle) -> Iterator[tuple[int, Precision, str]]:
    for number, level in enumerate(bundle.manifest.levels):
        for precision, program in level.programs.items():
            yield from (
                (number, precision, form) for form in (bundle.program(number, precision).form, *program.forms)
            )


def readers(precision: Precision, form: str) -> list[str]:
    """The runtimes that a form is for, on a processor. Forms for GPUs are opened by ONNX Runtime alone, which
    casts.
    """
    if form in GPU_FORMS.values():
        return ["onnxruntime"]
    own = [name for name in RUNTIMES if form == backend(name).exports.get(precision)]
    return own or ["onnxruntime"]


def infer(runtime: str, program: Program, images: list[Any]) -> list[Any]:
    """The masks, by an engine as edgeseg builds and opens it; for a GPU's form, by the runtime as it is."""
    if program.form in GPU_FORMS.values():
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = (
            3  # it warns of every constant that it has no kernel in half precision to fold with
        )
        session = onnxruntime.InferenceSession(
            str(program.onnx_path), settings, providers=["CPUExecutionProvider"]
        )
        name, hwc = session.get_inputs()[0].name, program.image.layout == "HWC"
        batches = (np.ascontiguousarray(image if hwc else image.transpose(2, 0, 1))[None] for image in images)
        return [session.run(None, {name: batch})[0].reshape(program.mask_shape) for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        engine = backend(runtime)
        with engine.load(program, engine.compile(program, Path(folder), OPTIONS), OPTIONS) as session:
            return [session.infer(image) for image in images]


def check(bundle: Bundle, level: int, precision: Precision, form: str, runtime: str) -> dict[str, Any]:
    """One row. "ok" runs and agrees, "refused" gives a reason, "wrong" runs and does not agree, "broken" is a
    traceback.
    """
    row: dict[str, Any] = {
        "bundle": bundle.path.stem,
        "level": level,
        "precision": precision,
        "form": form,
        "runtime": runtime,
    }
    frames, wanted = list(bundle.golden(level, precision)), bundle.recipe().gate.min_mask_agreement
    try:
        masks = infer(runtime, bundle.program(level, precision, form), [frame.image_rgb for frame in frames])
    except EdgesegError as error:
        return {**row, "state": "refused", "reason": f"{error} ({error.hint})"}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what this is looking for
        traceback.print_exc()
        return {**row, "state": "broken", "reason": f"{type(error).__name__}: {error}"}
    agreement = min(mask_agreement(mask, frame.mask) for mask, frame in zip(masks, frames, strict=True))
    row |= {"state": "ok", "agreement": round(agreement, 4)}
    if agreement < wanted - (ROUNDED if form in GPU_FORMS.values() else 0):
        row["state"] = "saturates" if form in integers_here().wrong else "wrong"
    return row


def main(folder: Path) -> None:
    rows = [
        check(bundle, level, precision, form, runtime)
        for bundle in map(open_bundle, sorted(folder.glob("*.edgeseg")))
        for level, precision, form in programs(bundle)
        for runtime in readers(precision, form)
    ]
    found = {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}
    print(json.dumps({"here": found, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
