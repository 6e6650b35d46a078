"""EDAFormer-T at 512x512: torch, a plain ONNX export in ONNX Runtime, and our engine, one after another in
one run.

python benchmarks/engine.py [--rounds 30] [--threads 2] [--size 512] [--plan 2,2,1,1-2,2,2]

The plain export is what `torch.onnx.export(model)` gives: float image in, logits out, fully optimised by ONNX
Runtime. Torch and our program do more than it does: they take the uint8 image, normalise it, and end at the
class map. Weights are random, from a fixed seed: they do not change the time. Figures are printed as a table
(stderr) and as JSON (stdout).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from common.interleave import interleave, table
from edgeseg.engines import table as engines
from edgeseg.export.program import export_program
from edgeseg.models import build_model
from edgeseg.models.reference import TorchReference, normalise
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import ImageSpec, IsrPlan, LabelSpace

CLASSES = 19
MASK_STRIDE = 8
PLANS = ("1,1,1,1-1,1,1", "2,2,1,1-2,2,2")


def plain_session(model: Segmentor, size: int, path: Path, threads: int) -> ort.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, size, size),), str(path), dynamo=False, opset_version=17)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # as our engine, so that only the graphs differ
    return ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def measure(plan: IsrPlan, size: int, threads: int, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    model = build_model("edaformer_t", CLASSES).eval()
    model.set_isr(plan)
    image = ImageSpec((size, size))
    labels = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)
    reference = TorchReference(model, image, MASK_STRIDE)
    plain = plain_session(model, size, folder / "plain.onnx", threads)
    program = export_program(
        model,
        image=image,
        labels=labels,
        mask_stride=MASK_STRIDE,
        arch="edaformer_t",
        out=folder / "model.onnx",
    )
    backend = engines.backend("onnxruntime")
    options: dict[str, Any] = {"threads": threads}
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    floats = np.ascontiguousarray(normalise(torch.from_numpy(pixels)[None], image).numpy())
    feed = {plain.get_inputs()[0].name: floats}
    with backend.load(program, backend.compile(program, folder, options), options) as session:
        calls = {
            "torch eager": lambda: reference.infer(pixels),
            "plain export, onnxruntime": lambda: plain.run(None, feed),
            "edgeseg, onnxruntime": lambda: session.infer(pixels),
        }
        return interleave(calls, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--plan", action="append", help="ISR plan; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for plan in arguments.plan or PLANS:
        with tempfile.TemporaryDirectory() as folder:
            results[plan] = measure(
                IsrPlan.parse(plan), arguments.size, arguments.threads, arguments.rounds, Path(folder)
            )
        print(table(f"plan {plan}", results[plan]), file=sys.stderr)
    setting = {key: value for key, value in vars(arguments).items() if key != "plan"}
    versions = {"torch": torch.__version__, "onnxruntime": ort.__version__}
    print(json.dumps({**setting, "versions": versions, "plans": results}))


if __name__ == "__main__":
    main()
