"""What INT8 costs, through ONNX Runtime's engine: float, every calibration method, and what training adds;
mIoU and each class.

    python benchmarks/quant_accuracy.py --data-root DIR [--recipe NAME] [--checkpoint FILE] [--qat FILE]

`--qat` is a quantized checkpoint that `edgeseg quantize` trained for the same recipe. All read the same
validation split, and each engine passes its parity ladder before it is measured. The folder is kept with
--work: what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgeseg.checkpoints.models import load_trained
from edgeseg.contracts import NoProgress
from edgeseg.pipeline.quantize_engines import Bench, timings
from edgeseg.pipeline.quantize_model import calibrated
from edgeseg.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("max", "percentile", "mse", "entropy")


class Told(NoProgress):
    """Messages on stderr."""

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--recipe", default="edaformer_t_camvid_int8")
    parser.add_argument(
        "--checkpoint", type=Path, default=ROOT / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
    )
    parser.add_argument("--qat", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(json.dumps(measure(args, work), indent=2))


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in args.methods:
        recipe = load_recipe(args.recipe, (f"quant.calibration.method={method}",))
        assert recipe.quant is not None
        folder = work / method
        trained = load_trained(recipe, args.checkpoint)
        int8 = calibrated(recipe, recipe.quant, trained, args.data_root, folder, Told())
        found |= engines(args, recipe, folder, method, int8.path, "float" not in found)
    if args.qat:
        recipe = load_recipe(args.recipe)
        found |= engines(args, recipe, work / "qat", "qat", args.qat, "float" not in found)
    return {"recipe": args.recipe, "threads": args.threads, "accuracy": found}


def engines(
    args: argparse.Namespace, recipe: Any, folder: Path, name: str, int8: Path, with_float: bool
) -> dict[str, Any]:
    """Figures of one quantized checkpoint; with those of its float twin where nobody measured it yet."""
    bench = Bench(
        recipe, args.checkpoint, args.data_root, folder, args.threads, Told(), runtimes=("onnxruntime",)
    )
    bundle, (built,) = bench.bundle([int8])
    found = {"float": bench.accuracy(bundle, "float")} if with_float else {}
    found[name] = {**bench.accuracy(bundle, "int8"), "engines": timings(built)}
    print(name, json.dumps({key: one["miou"] for key, one in found.items()}), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
