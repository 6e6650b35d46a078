"""What the stride of the mask costs in accuracy and saves in time, through one engine a stride, on a
validation set.

    python benchmarks/mask_stride.py RECIPE CHECKPOINT DATA_ROOT [--limit N] [--threads 2] [--isr
    2,2,1,1-2,2,2]

Latency: rounds over all strides in turn, after warm-up, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from edgeseg.checkpoints.models import load_trained
from edgeseg.data.datasets import open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.engines import table
from edgeseg.export.program import export_program
from edgeseg.images import resize_image
from edgeseg.recipe.load import find_recipe, load_recipe
from edgeseg.specs import IsrPlan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--isr", type=IsrPlan.parse)
    args = parser.parse_args()
    recipe = load_recipe(find_recipe(args.recipe))
    trained = load_trained(recipe, args.checkpoint)
    if args.isr:
        trained.model.set_isr(args.isr)
    dataset = open_dataset(recipe.data, "val", args.data_root)
    indices = range(len(dataset))[: args.limit]
    image = resize_image(dataset.load(0)[0], trained.image.size_hw)
    backend = table.backend("onnxruntime")
    options = {"threads": args.threads}
    sessions, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for stride in (1, 2, 4, 8):
            program = export_program(
                trained.model,
                image=trained.image,
                labels=trained.labels,
                mask_stride=stride,
                arch=trained.arch,
                out=Path(folder) / f"stride{stride}.onnx",
            )
            target = Path(folder) / f"engine{stride}"
            target.mkdir()
            sessions[stride] = backend.load(program, backend.compile(program, target, options), options)
    times: dict[int, list[float]] = {stride: [] for stride in sessions}
    for round_ in range(args.rounds + 5):
        for stride, session in sessions.items():
            started = time.perf_counter()
            session.infer(image)
            if round_ >= 5:
                times[stride].append(1000 * (time.perf_counter() - started))
    for stride, session in sessions.items():
        confusion = evaluate(session.segment, dataset, indices)
        median = statistics.median(times[stride])
        rows[stride] = {
            "miou": round(confusion.miou(), 5),
            "median_ms": round(median, 2),
            "p90_ms": round(statistics.quantiles(times[stride], n=10)[-1], 2),
            "time_over_stride_1": round(
                statistics.median(a / b for a, b in zip(times[stride], times[1], strict=True)), 3
            ),
        }
    setting = {
        "recipe": recipe.name,
        "isr": str(trained.model.isr_plan),
        "images": len(indices),
        "threads": args.threads,
    }
    print(json.dumps({**setting, "strides": rows}, indent=2))


if __name__ == "__main__":
    main()
