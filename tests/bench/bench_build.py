"""What `edgeseg build` costs and finds: EDAFormer-T in every engine that this machine can run, built, kept, and timed in turns.

python tests/bench/bench_build.py [--bundle B] [--plan 2,2,1,1-2,2,2]... [--data-root DIR] [--threads 2] [--repeat 1]

Shown: the time of a first build, with compiling, golden frames and the clock; that of a second one, which keeps all; and for each
engine its size, how long it took to compile and to open, milliseconds, and speed-up over ONNX Runtime in float. Without a bundle
one is exported from the shipped checkpoint, 512x384, with a program laid out for every runtime; with --data-root, of CamVid,
in INT8 as well (by calibration alone, no training). A given bundle is left as it is.
`--repeat` builds anew so often; speed-ups that differ between the repeats tell what a difference means on this machine.
Tables go to stderr, JSON to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgeseg.bundle import Bundle, copy_bundle, open_bundle
from edgeseg.contracts import NoProgress
from edgeseg.manifest import CandidateEntry
from edgeseg.pipeline.build import build_bundle
from edgeseg.pipeline.export import export_bundle
from edgeseg.pipeline.quantize_model import calibrated
from edgeseg.recipe.load import find_recipe, load_recipe
from edgeseg.specs import IsrPlan
from edgeseg.trained import load_trained

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
CHANGES = ["targets=[{runtime: onnxruntime}, {runtime: openvino}]", "gate.min_mask_agreement=0"]
INT8 = ["quant.qat=null", "quant.min_coverage=0"]
COLUMNS = {"median_ms": "ms", "p90_ms": "p90", "speedup": "speed-up", "bytes": "MB", "compile_ms": "build s", "load_ms": "open s"}
_UNITS = {"bytes": 1e-6, "compile_ms": 1e-3, "load_ms": 1e-3}


def shipped(path: Path, plans: list[str], data_root: Path | None) -> Bundle:
    """The shipped checkpoint at each plan, in the form for each runtime; every engine passes the gate, whatever it agrees on."""
    name = "edaformer_t_camvid" if data_root is None else "edaformer_t_camvid_int8"
    recipe = load_recipe(find_recipe(name), [*CHANGES, *(() if data_root is None else INT8)])
    quantized = []
    if recipe.quant is not None and data_root is not None:
        folder = path.with_suffix(".quant")
        folder.mkdir()
        trained = load_trained(recipe, CHECKPOINT)
        quantized = [calibrated(recipe, recipe.quant, trained, data_root, folder, NoProgress()).path]
    levels = [IsrPlan.parse(plan) for plan in plans]
    return export_bundle(recipe, CHECKPOINT, path, quantized=quantized, levels=levels, data_root=data_root)[0]


def timed_build(bundle: Bundle, threads: int | None, force: bool) -> tuple[float, list[tuple[CandidateEntry, ...]]]:
    """Seconds, and the candidates of each level."""
    started_s = time.perf_counter()
    made = build_bundle(bundle, threads=threads, force=force)
    return time.perf_counter() - started_s, [one.choice.candidates for one in made]


def row(candidate: CandidateEntry) -> str:
    figures = {name: candidate.measurements.get(name) for name in COLUMNS}
    cells = "".join("        -" if v is None else f"{v * _UNITS.get(name, 1):>9.2f}" for name, v in figures.items())
    agreement = min(candidate.measurements.get("mask_agreement", {"": float("nan")}).values())
    said = candidate.verdict if candidate.verdict != "not built" else f"not built: {candidate.reason}"
    return f"{candidate.runtime + ' ' + candidate.kind:<24}{cells}{100 * agreement:>10.2f}  {said}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--plan", action="append", default=[], help="ISR plan of a level; may be repeated")
    parser.add_argument("--data-root", type=Path, help="of CamVid: calibrate on it, and take golden frames from it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.edgeseg"
        if options.bundle:
            bundle = copy_bundle(open_bundle(options.bundle), path)
        else:
            bundle = shipped(path, options.plan, options.data_root)
        document: dict[str, Any] = {"levels": [level.isr for level in bundle.manifest.levels], "builds": []}
        for _ in range(options.repeat):
            build_s, levels = timed_build(bundle, options.threads, force=True)
            kept_s, _kept = timed_build(open_bundle(path), options.threads, force=False)
            print(f"build {build_s:.1f} s, second build {kept_s:.2f} s", file=sys.stderr)
            for level, candidates in zip(document["levels"], levels, strict=True):
                head = "".join(f"{name:>9}" for name in COLUMNS.values())
                print(f"{level:<24}{head}{'agree %':>10}", *map(row, candidates), sep="\n", file=sys.stderr)
            rows = [[candidate.model_dump(mode="json") for candidate in candidates] for candidates in levels]
            document["builds"].append({"build_s": build_s, "kept_s": kept_s, "candidates": rows})
    print(json.dumps(document))


if __name__ == "__main__":
    main()
