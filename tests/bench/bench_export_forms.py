"""What each export-time rewrite is worth: EDAFormer-T as written, then with one rewrite more at a time, then the
forms that export offers; per runtime.

python tests/bench/bench_export_forms.py [--rounds 30] [--threads 2] [--size 512] [--plan 2,2,1,1-2,2,2] [--mask-stride 8]

ONNX Runtime, and OpenVINO in float32 and bfloat16 where it is installed. Every program takes the uint8 image and ends at the
class map. Figures are printed as tables (stderr) and as JSON (stdout).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from interleave import interleave, table

from edgeseg.export.program import Form, export_program
from edgeseg.export.rewrites import HIDDEN_MULTIPLE, MapFFN, pad_hidden
from edgeseg.export.simplify_edaformer import (
    BranchDecoder,
    SingleHeadAttention,
    efa_blocks,
    fold_attention_scale,
    fold_key_bias,
)
from edgeseg.models import build_model
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import ImageSpec, IsrPlan, LabelSpace

CLASSES = 19
PLANS = ("1,1,1,1-1,1,1", "2,2,1,1-2,2,2")


def fold(model: Segmentor) -> None:
    for block in efa_blocks(model):
        if block.attn.key_norm is None:
            fold_key_bias(block.attn)
            fold_attention_scale(block.attn)


def pad(model: Segmentor) -> None:
    for block in efa_blocks(model):
        pad_hidden(block.ffn, HIDDEN_MULTIPLE)


def maps(model: Segmentor) -> None:
    for block in efa_blocks(model):
        block.add_module("ffn", MapFFN(block.ffn))


def branches(model: Segmentor) -> None:
    model.add_module("decoder", BranchDecoder(model.decoder))


def single_head(model: Segmentor) -> None:
    for block in efa_blocks(model):
        if block.attn.heads == 1:
            block.add_module("attn", SingleHeadAttention(block.attn))


REWRITES = (fold, pad, maps, branches, single_head)


def export_all(plan: IsrPlan, size: int, mask_stride: int, folder: Path) -> dict[str, Path]:
    """Programs by name: as written, with one rewrite more at a time, and in each form."""
    torch.manual_seed(0)
    model = build_model("edaformer_t", CLASSES).eval()
    model.set_isr(plan)
    labels = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)

    def export(name: str, model: Segmentor, form: Form) -> None:
        path = folder / f"{len(programs)}.onnx"
        export_program(
            model,
            image=ImageSpec((size, size)),
            labels=labels,
            mask_stride=mask_stride,
            arch="edaformer_t",
            out=path,
            form=form,
        )
        programs[name] = path

    programs: dict[str, Path] = {}
    rewritten = copy.deepcopy(model)
    export("as written", rewritten, "plain")
    with torch.no_grad():
        for rewrite in REWRITES:
            rewrite(rewritten)
            export(f"+ {rewrite.__name__}", rewritten, "plain")
    export("form onnxruntime", model, "onnxruntime")
    export("form openvino", model, "openvino")
    return programs


def onnxruntime_call(path: Path, pixels: np.ndarray, threads: int) -> Callable[[], object]:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # processor time then means work
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": pixels})


def openvino_call(path: Path, pixels: np.ndarray, threads: int, precision: str) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer({0: pixels})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--mask-stride", type=int, default=8)
    parser.add_argument("--plan", action="append", help="ISR plan; may be repeated")
    arguments = parser.parse_args()
    threads: int = arguments.threads
    pixels = np.random.default_rng(0).integers(0, 256, (1, arguments.size, arguments.size, 3), np.uint8)
    runtimes: dict[str, Callable[[Path], Callable[[], object]]] = {
        "onnxruntime float": lambda path: onnxruntime_call(path, pixels, threads)
    }
    if importlib.util.find_spec("openvino"):
        runtimes["openvino float"] = lambda path: openvino_call(path, pixels, threads, "f32")
        runtimes["openvino bf16"] = lambda path: openvino_call(path, pixels, threads, "bf16")
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for plan in arguments.plan or PLANS:
        with tempfile.TemporaryDirectory() as folder:
            programs = export_all(IsrPlan.parse(plan), arguments.size, arguments.mask_stride, Path(folder))
            results[plan] = {}
            for runtime, call_of in runtimes.items():
                calls = {name: call_of(path) for name, path in programs.items()}
                results[plan][runtime] = interleave(calls, arguments.rounds)
                print(table(f"{plan}, {runtime}", results[plan][runtime]), file=sys.stderr)
    print(json.dumps({**{k: v for k, v in vars(arguments).items() if k != "plan"}, "plans": results}))


if __name__ == "__main__":
    main()
