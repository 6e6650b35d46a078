"""What ISR saves in time next to what it saves in multiply-adds, in float and in INT8: EDAFormer-T with the
shipped weights.

python benchmarks/isr_precisions.py [--rounds 20] [--threads 2] [--size 512 --size 1024] [--plan
2,2,1,1-2,2,2]...
    [--runtime onnxruntime --runtime openvino]

For each size one run: every plan in both precisions, and on each runtime, taking turns on as many CPUs as
there are threads. `ratio` is the time over that of the base plan of the same runtime and precision in the
same round, `macs` the same of multiply-adds; `over_float` is the time over that of the first runtime's float
base plan. Masks leave at stride 8; programs are those that `edgeseg export` writes, INT8 with attention,
calibrated on a drawn scene: that does not change the time. Figures are printed as tables (stderr) and as JSON
(stdout).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.interleave import interleave, table
from edgeseg.checkpoints.models import Trained, load_trained
from edgeseg.export.program import export_program
from edgeseg.isr.engines import PlanEngines
from edgeseg.recipe.load import load_recipe
from edgeseg.specs import Form, ImageU8, IsrPlan
from int8 import CHECKPOINT, RECIPE, Candidate, dialect_of, engine, int8_program, scenes

MASK_STRIDE, BASE, OPTIMAL = 8, "1,1,1,1-1,1,1", "2,2,1,1-2,2,2"


def candidates(
    trained: Trained, runtimes: list[str], images: list[ImageU8], folder: Path, threads: int
) -> Iterator[tuple[str, Candidate]]:
    """Runtime and precision -> what runs the model at the plan in force."""
    folder.mkdir()
    facts: dict[str, Any] = {
        "labels": trained.labels,
        "mask_stride": MASK_STRIDE,
        "arch": trained.arch,
        "image": trained.image,
    }
    canonical = int8_program(trained, trained.model.isr_plan, MASK_STRIDE, images, folder)
    for runtime in runtimes:
        program = export_program(trained.model, **facts, out=folder / f"{runtime}.onnx", form=Form(runtime))
        if runtime == "onnxruntime":
            yield f"{runtime} float", engine(program, folder, threads)
            yield f"{runtime} INT8", engine(dialect_of(canonical, folder), folder, threads)
        else:
            yield f"{runtime} f32", Candidate(program.onnx_path, "f32")
            yield f"{runtime} INT8, f32", Candidate(canonical.onnx_path, "f32")


def measure(
    size: int, plans: list[str], runtimes: list[str], rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    recipe = load_recipe(
        RECIPE, overrides=(f"export.size_hw=[{size},{size}]", f"export.mask_stride={MASK_STRIDE}")
    )
    trained = load_trained(recipe, CHECKPOINT)
    *images, held_out = scenes(None, (size, size), 2)
    pixels = np.ascontiguousarray(held_out[np.newaxis])
    macs_of = PlanEngines(trained, recipe.export, "onnxruntime").macs
    macs = {plan: macs_of(IsrPlan.parse(plan)) for plan in plans}
    with tempfile.TemporaryDirectory() as name:
        calls, over, share = {}, {}, {}
        for plan in plans:
            at_plan = trained.at(IsrPlan.parse(plan))
            for kind, candidate in candidates(at_plan, runtimes, images, Path(name) / plan, threads):
                row = f"{kind}, {plan}"
                calls[row] = candidate.open(pixels, threads)
                over[row], share[row] = f"{kind}, {BASE}", macs[plan] / macs[BASE]
        timed = interleave(calls, rounds, over)
    first = next(iter(timed.values()))["median_ms"]
    return {
        row: {**figures, "over_float": round(figures["median_ms"] / first, 3), "macs": round(share[row], 3)}
        for row, figures in timed.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, action="append", help="side of a square image; may be repeated")
    parser.add_argument("--plan", action="append", help="ISR plan beside the base plan; may be repeated")
    parser.add_argument(
        "--runtime", action="append", choices=("onnxruntime", "openvino"), help="default: onnxruntime"
    )
    arguments = parser.parse_args()
    threads = arguments.threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    results = {}
    for size in arguments.size or (512, 1024):
        plans = [BASE, *(arguments.plan or [OPTIMAL])]
        rows = measure(size, plans, arguments.runtime or ["onnxruntime"], arguments.rounds, threads)
        print(table(f"{size}x{size}", rows), file=sys.stderr, flush=True)
        for row, figures in rows.items():
            if not row.endswith(BASE):
                changes = {"time": "ratio", "processor time": "cpu_ratio", "multiply-adds": "macs"}
                saved = ", ".join(
                    f"{what} {100 * (figures[key] - 1):+.1f} %" for what, key in changes.items()
                )
                print(f"{size}x{size} {row}: {saved}", file=sys.stderr, flush=True)
        results[f"{size}x{size}"] = rows
    print(json.dumps({"rounds": arguments.rounds, "threads": threads, "sizes": results}))


if __name__ == "__main__":
    main()
