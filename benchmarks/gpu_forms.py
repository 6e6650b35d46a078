"""What TensorRT-RTX makes of a model in each layout that it could be exported in: kernels, traffic, memory,
engine. Needs no GPU.

python benchmarks/gpu_forms.py [--model edaformer_t]... [--size 384x512] [--upsample lda_aqu] [--capability
8.9]

The builder lists an engine's kernels in its log, with the tensors that each reads and writes. `fused` counts
the attentions that became one kernel; `moves`, kernels that only move, cast or join; `traffic`, the bytes
that all kernels read and write, weights aside; `memory`, the bytes of activations. How fast the kernels are,
only a card shows. Weights are random.

Tables go to stderr, as Markdown; JSON to stdout.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import onnx
import torch

from edgeseg.export.graph.cleanup import clean
from edgeseg.export.graph.editor import GraphEditor
from edgeseg.export.graph.half import to_half
from edgeseg.export.graph.layout import cast_image_first
from edgeseg.export.graph.tile_attention import attention_in_pieces
from edgeseg.export.program import trace_program
from edgeseg.models import build_model
from edgeseg.models.segmentor import Segmentor
from edgeseg.rewrite import form, simplify_edaformer
from edgeseg.rewrite.rewrites import Choices
from edgeseg.specs import Form

MODELS = ("edaformer_t", "vwformer_mit_b0", "segformer_b0", "repsep_mit_b0", "segformer_mobilenet_v2")
GPU: Mapping[str, bool] = {"map_ffn": True, "join_queries": False}
LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "form tensorrt": GPU,
    "attention in pieces": {**GPU, "pieces": True},
    "FFN on tokens": {**GPU, "map_ffn": False},
    "widths unpadded": {**GPU, "multiple": 1},
    "widths of 64": {**GPU, "multiple": 64},
    "LDA-AQU over tiles": {**GPU, "tile_lda_aqu": True},
    "queries joined": {**GPU, "join_queries": True},
    "no transposed convolution": {**GPU, "transposed": False},
    "form onnxruntime": {"map_ffn": True, "tile_lda_aqu": True, "pieces": True},
}
"""What `simplify` is told; "multiple": of hidden widths; "pieces": attention in pieces."""
BYTES = {"Half": 2, "Float": 4, "UInt8": 1, "Int8": 1, "Int32": 4, "Int64": 8, "Bool": 1}
MOVES = re.compile(r"__myl_(Tran|Resh|Move|Conc|Slic|Cast|Repl|Pad|Split)+_myl")
COLUMNS = (
    "layout",
    "precision",
    "kernels",
    "fused",
    "moves",
    "traffic MB",
    "memory MB",
    "engine MB",
    "build s",
)


@contextmanager
def laid_out(told: Mapping[str, Any]) -> Iterator[None]:
    """Deploy the form "tensorrt" in another layout."""
    rewrites = {
        **form._REWRITES,
        Form.GPU: Choices(**{name: told[name] for name in told if name not in ("pieces", "multiple")}),
    }
    with (
        mock.patch.object(form, "_REWRITES", rewrites),
        mock.patch.object(
            simplify_edaformer, "HIDDEN_MULTIPLE", told.get("multiple", simplify_edaformer.HIDDEN_MULTIPLE)
        ),
    ):
        yield


def graph_of(model: Segmentor, size_hw: tuple[int, int], told: Mapping[str, Any]) -> onnx.ModelProto:
    with laid_out(told):
        graph = clean(trace_program(form.deploy(model, model.image_spec(size_hw, "HWC"), Form.GPU), 1, 17))
    cast_image_first(editor := GraphEditor(graph))
    if told.get("pieces"):
        attention_in_pieces(editor)
    return editor.finish()


def built(graph: onnx.ModelProto, capability: str) -> dict[str, float]:
    """Build an engine, and read what the builder says of it."""
    import tensorrt_rtx as rtx

    lines: list[str] = []

    class Logger(rtx.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            lines.extend(message.split("\n"))

    builder = rtx.Builder(logger := Logger())
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        raise SystemExit(parser.get_error(0).desc())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
    started = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    build_s = time.perf_counter() - started
    kernels = [
        line
        for line in lines
        if line.startswith("Name: ") and not re.search("LayerType: (signal|wait),", line)
    ]
    kernels = [kernel for kernel in kernels if "LayerType:" in kernel]  # and not an input or an output
    (memory,) = (int(line.split()[3]) for line in lines if line.startswith("Total Activation Memory:"))
    return {
        "kernels": len(kernels),
        "fused": sum("_gemm_mha" in kernel for kernel in kernels),
        "moves": sum(MOVES.match(kernel.removeprefix("Name: ")) is not None for kernel in kernels),
        "traffic_bytes": sum(map(traffic, kernels)),
        "activation_bytes": memory,
        "engine_bytes": engine.nbytes,
        "build_s": build_s,
    }


def traffic(kernel: str) -> int:
    """Bytes of a kernel's inputs and outputs."""
    moved = re.sub(r"Constants: \[.*?\], Outputs", "Outputs", kernel.split(", TacticName")[0])
    tensors = re.findall(r"Dimensions: \[([\d,]+)\].*?Datatype: (\w+)", moved)
    return sum(BYTES[kind] * math.prod(map(int, sides.split(","))) for sides, kind in tensors)


def shown(name: str, value: str | float) -> str:
    """A figure as the table has it."""
    if isinstance(value, str):
        return value
    return (
        f"{value / 1e6:.1f}"
        if name.endswith("_bytes")
        else f"{value:.1f}"
        if name == "build_s"
        else str(value)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--size", default="384x512", help="height x width")
    parser.add_argument("--upsample", default="bilinear", choices=("bilinear", "lda_aqu"))
    parser.add_argument("--capability", default="8.9", help="compute capability of the card")
    arguments = parser.parse_args()
    if importlib.util.find_spec("tensorrt_rtx") is None:
        print("TensorRT-RTX is not here: pip install 'edgeseg[rtx]'", file=sys.stderr)
        return
    height, width = map(int, arguments.size.split("x"))
    options = {} if arguments.upsample == "bilinear" else {"upsample": arguments.upsample}
    results: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.model or MODELS:
        torch.manual_seed(0)
        model = build_model(name, 11, **options).eval()
        print(
            f"\n{name} {arguments.upsample}, {width}x{height}\n\n| {' | '.join(COLUMNS)} |", file=sys.stderr
        )
        print("|---|---|" + "---:|" * (len(COLUMNS) - 2), file=sys.stderr)
        results[name] = []
        for layout, told in LAYOUTS.items():
            graph = graph_of(model, (height, width), told)
            for precision, laid in (("float", graph), ("fp16", to_half(graph))):
                row = {"layout": layout, "precision": precision, **built(laid, arguments.capability)}
                results[name].append(row)
                print(
                    f"| {' | '.join(shown(*figure) for figure in row.items())} |", file=sys.stderr, flush=True
                )
    print(json.dumps({**{k: v for k, v in vars(arguments).items() if k != "model"}, "models": results}))


if __name__ == "__main__":
    main()
