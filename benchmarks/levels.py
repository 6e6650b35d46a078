"""What ISR saves in time next to what it saves in multiply-adds: EDAFormer-T at base and at ISR plans, per
runtime and size.

python benchmarks/levels.py [--rounds 20] [--threads 2] [--size 512 --size 1024] [--plan 2,2,1,1-2,2,2]

ONNX Runtime, and OpenVINO in float32 and bfloat16 where it is installed, each on the form that is exported
for it. All plans of a runtime and size are timed in turns. `ratio` is time over the base plan's in the same
round, `macs` the same of multiply-adds: a ratio at or below `macs` means that what is saved is not eaten by
what pooling adds. Weights are random, from a fixed seed. Figures are printed as tables (stderr) and as JSON
(stdout).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.interleave import interleave, openvino_hints, table
from edgeseg.export.program import export_program
from edgeseg.isr.engines import plan_space
from edgeseg.models import build_model
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import Form, IsrPlan, LabelSpace
from export_forms import onnxruntime_call, openvino_call

ARCH, CLASSES, MASK_STRIDE = "edaformer_t", 19, 8
LABELS = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)
OPENVINO = {"openvino float": "f32", "openvino bf16": "bf16"}
RUNTIMES: dict[str, tuple[Form, Callable[[Path, np.ndarray, int], Callable[[], object]]]] = {
    "onnxruntime float": (Form.CPU, onnxruntime_call),
    "openvino float": (
        Form.CPU_OPENVINO,
        lambda *call: openvino_call(*call, "f32"),
    ),
    "openvino bf16": (
        Form.CPU_OPENVINO,
        lambda *call: openvino_call(*call, "bf16"),
    ),
}


def macs(plan: IsrPlan, size: int) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = build_model(ARCH, CLASSES).eval()
        model.set_isr(plan)
        model(torch.empty(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def export_all(
    model: Segmentor, plans: list[IsrPlan], size: int, form: Form, folder: Path
) -> dict[str, Path]:
    programs = {}
    for plan in plans:
        model.set_isr(plan)
        out = folder / f"{form}-{plan}.onnx"
        image = model.image_spec((size, size))
        export_program(
            model, image=image, labels=LABELS, mask_stride=MASK_STRIDE, arch=ARCH, out=out, form=form
        )
        programs[str(plan)] = out
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, action="append", help="side of a square image; may be repeated")
    parser.add_argument(
        "--plan", type=IsrPlan.parse, action="append", help="ISR plan; may be repeated; default: the paper's"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    model = build_model(ARCH, CLASSES).eval()
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for size in arguments.size or (512, 1024):
        plans = [IsrPlan(), *(arguments.plan or plan_space(model, (size, size)).presets())]
        share = {str(plan): round(macs(plan, size) / macs(IsrPlan(), size), 3) for plan in plans}
        pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
        results[str(size)] = {}
        with tempfile.TemporaryDirectory() as folder:
            programs: dict[Form, dict[str, Path]] = {}
            for runtime, (form, call_of) in RUNTIMES.items():
                if runtime.startswith("openvino") and OPENVINO[runtime] not in openvino_hints():
                    continue
                if form not in programs:
                    programs[form] = export_all(model, plans, size, form, Path(folder))
                calls = {
                    plan: call_of(path, pixels, arguments.threads) for plan, path in programs[form].items()
                }
                timed = interleave(calls, arguments.rounds)
                results[str(size)][runtime] = {
                    plan: {**figures, "macs": share[plan]} for plan, figures in timed.items()
                }
                print(
                    table(f"{size}x{size}, {runtime}", results[str(size)][runtime]),
                    file=sys.stderr,
                    flush=True,
                )
    print(json.dumps({"rounds": arguments.rounds, "threads": arguments.threads, "sizes": results}))


if __name__ == "__main__":
    main()
