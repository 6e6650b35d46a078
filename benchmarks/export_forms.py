"""What each export-time rewrite is worth: EDAFormer-T as written, then with one rewrite more at a time, then
the forms that export offers; per runtime. With --pooling, other ways to pool the keys instead, all exact,
inside the form that is exported for each runtime.

python benchmarks/export_forms.py [--rounds 30] [--threads 2] [--size 512] [--plan 2,2,1,1-2,2,2]
[--mask-stride 8]
    [--pooling]

ONNX Runtime, and OpenVINO in float32 and bfloat16 where it is installed. Every program takes the uint8 image
and ends at the class map. Figures are printed as tables (stderr) and as JSON (stdout).
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
from unittest import mock

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor

from common.interleave import interleave, openvino_hints, table
from edgeseg.export.program import export_program
from edgeseg.models import build_model
from edgeseg.models.eft import EmbeddingFreeAttention
from edgeseg.models.layers import to_nchw, to_nhwc
from edgeseg.models.segmentor import Segmentor
from edgeseg.rewrite.rewrites import HIDDEN_MULTIPLE, MapFFN, pad_hidden
from edgeseg.rewrite.simplify_edaformer import (
    BranchDecoder,
    SingleHeadAttention,
    efa_blocks,
    fold_attention_scale,
    fold_key_bias,
)
from edgeseg.specs import Form, ImageSpec, IsrPlan, LabelSpace

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


def normed(attention: EmbeddingFreeAttention, keys: Tensor) -> Tensor:
    """What follows the key convolution, in the decoder."""
    return keys if attention.key_norm is None else attention.key_act(attention.key_norm(keys))


def convolved(attention: EmbeddingFreeAttention, pooled: Tensor) -> Tensor:
    """The key convolution as a matrix product: (B, h, w, C) -> (B, h w, C)."""
    keys = F.linear(pooled, attention.key_conv.weight[:, :, 0, 0], attention.key_conv.bias)
    return normed(attention, keys.reshape(1, -1, keys.shape[-1]))


def row_means(x: Tensor, window: int) -> Tensor:
    """(1, H, W, C) -> (H / window, W, C) by a mean over rows, which lie behind each other in memory."""
    _, height, width, channels = map(int, x.shape)
    return (
        x.reshape(height // window, window, width * channels)
        .mean(1)
        .reshape(height // window, width, channels)
    )


def pool_then_product(attention: EmbeddingFreeAttention, x: Tensor) -> Tensor:
    window = attention.ratio * attention.multiplier
    return convolved(attention, to_nhwc(F.avg_pool2d(to_nchw(x), window)) if window > 1 else x)


def mean_of_blocks(attention: EmbeddingFreeAttention, x: Tensor) -> Tensor:
    window = attention.ratio * attention.multiplier
    _, height, width, channels = map(int, x.shape)
    return convolved(
        attention, x.reshape(1, height // window, window, width // window, window, channels).mean((2, 4))
    )


def mean_of_rows_then_columns(attention: EmbeddingFreeAttention, x: Tensor) -> Tensor:
    window, channels = attention.ratio * attention.multiplier, int(x.shape[3])
    return convolved(
        attention, row_means(x, window).reshape(1, -1, window, channels).mean(2) if window > 1 else x
    )


def mean_of_rows_then_product(attention: EmbeddingFreeAttention, x: Tensor) -> Tensor:
    window = attention.ratio * attention.multiplier
    columns = torch.kron(torch.eye(int(x.shape[2]) // window), torch.full((1, window), 1 / window))
    return convolved(attention, columns @ row_means(x, window) if window > 1 else x)


def strided_convolution(attention: EmbeddingFreeAttention, x: Tensor) -> Tensor:
    """Pooling inside the key convolution, where that is not far more work."""
    window = attention.ratio * attention.multiplier
    if window > 4:
        return pool_then_product(attention, x)
    weight = (attention.key_conv.weight / window**2).expand(-1, -1, window, window)
    keys = to_nhwc(F.conv2d(to_nchw(x), weight, attention.key_conv.bias, window))
    return normed(attention, keys.reshape(1, -1, keys.shape[-1]))


POOLING = (
    pool_then_product,
    mean_of_blocks,
    mean_of_rows_then_columns,
    mean_of_rows_then_product,
    strided_convolution,
)


def export_pooling(plan: IsrPlan, size: int, mask_stride: int, folder: Path, form: Form) -> dict[str, Path]:
    """Programs by how they pool: as exported, then each of `POOLING`."""
    ways = {"as exported": EmbeddingFreeAttention.keys, **{way.__name__: way for way in POOLING}}
    programs = {}
    for name, keys in ways.items():
        with mock.patch.object(EmbeddingFreeAttention, "keys", keys):
            programs[name] = export(
                random_model(plan), size, mask_stride, folder / f"{form}-{name}.onnx", form
            )
    return programs


def export_all(plan: IsrPlan, size: int, mask_stride: int, folder: Path) -> dict[str, Path]:
    """Programs by name: as written, with one rewrite more at a time, and in each form."""
    programs: dict[str, Path] = {}

    def add(name: str, model: Segmentor, form: Form) -> None:
        programs[name] = export(model, size, mask_stride, folder / f"{len(programs)}.onnx", form)

    model = random_model(plan)
    rewritten = copy.deepcopy(model)
    add("as written", rewritten, Form.PLAIN)
    with torch.no_grad():
        for rewrite in REWRITES:
            rewrite(rewritten)
            add(f"+ {rewrite.__name__}", rewritten, Form.PLAIN)
    add("form onnxruntime", model, Form.CPU)
    add("form openvino", model, Form.CPU_OPENVINO)
    return programs


def random_model(plan: IsrPlan) -> Segmentor:
    torch.manual_seed(0)
    model = build_model("edaformer_t", CLASSES).eval()
    model.set_isr(plan)
    return model


def export(model: Segmentor, size: int, mask_stride: int, out: Path, form: Form) -> Path:
    labels = LabelSpace(tuple(f"class{i}" for i in range(CLASSES)), ((0, 0, 0),) * CLASSES)
    image = ImageSpec((size, size))
    export_program(
        model, image=image, labels=labels, mask_stride=mask_stride, arch="edaformer_t", out=out, form=form
    )
    return out


def onnxruntime_call(path: Path, pixels: np.ndarray, threads: int) -> Callable[[], object]:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # processor time then means work
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"image": pixels})


def openvino_call(path: Path, pixels: np.ndarray, threads: int, precision: str) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer({0: pixels})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--mask-stride", type=int, default=8)
    parser.add_argument("--plan", action="append", help="ISR plan; may be repeated")
    parser.add_argument("--pooling", action="store_true", help="compare ways to pool the keys")
    arguments = parser.parse_args()
    threads: int = arguments.threads
    pixels = np.random.default_rng(0).integers(0, 256, (1, arguments.size, arguments.size, 3), np.uint8)
    runtimes: dict[str, Callable[[Path], Callable[[], object]]] = {
        "onnxruntime float": lambda path: onnxruntime_call(path, pixels, threads)
    }
    if importlib.util.find_spec("openvino"):
        runtimes["openvino float"] = lambda path: openvino_call(path, pixels, threads, "f32")
        if "bf16" in openvino_hints():
            runtimes["openvino bf16"] = lambda path: openvino_call(path, pixels, threads, "bf16")
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for plan in arguments.plan or PLANS:
        with tempfile.TemporaryDirectory() as folder:
            setting = (IsrPlan.parse(plan), arguments.size, arguments.mask_stride, Path(folder))
            programs = {} if arguments.pooling else export_all(*setting)
            results[plan] = {}
            for runtime, call_of in runtimes.items():
                if arguments.pooling:
                    programs = export_pooling(
                        *setting, Form.CPU_OPENVINO if runtime.startswith("openvino") else Form.CPU
                    )
                calls = {name: call_of(path) for name, path in programs.items()}
                results[plan][runtime] = interleave(calls, arguments.rounds)
                print(table(f"{plan}, {runtime}", results[plan][runtime]), file=sys.stderr)
    print(json.dumps({**{k: v for k, v in vars(arguments).items() if k != "plan"}, "plans": results}))


if __name__ == "__main__":
    main()
