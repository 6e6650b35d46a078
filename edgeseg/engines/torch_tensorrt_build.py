"""Compiling a program with Torch-TensorRT: what the child process does. `torch_tensorrt` says where the torch module comes from.

One call site serves releases 2.8 to 2.14. Their `convert_exported_program_to_serialized_trt_engine` swallows settings that it
does not know, so what it is given is chosen by the names in its own signature, and what was given is kept beside the engine.

Source: pytorch.org/TensorRT, "dynamo" API; github.com/pytorch/TensorRT, releases 2.8 to 2.14.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from edgeseg.engines.onnx_graph import Graph, read_graph
from edgeseg.engines.tensorrt_build import Order
from edgeseg.engines.tensorrt_graph import cast_first

if TYPE_CHECKING:
    import torch

    from edgeseg.engines.onnx_torch import Rounding

_LIBRARIES: list[Any] = []  # kernels last as long as these
_SHOWN = 400  # characters of a message: torch's may hold a whole graph


def construct(pipe: Connection, order: Order) -> None:
    """The child: write the engine and its facts, or send a list of what speaks against the program.

    On the way, it sends the name of each phase of the build.
    """
    with _quiet():
        try:
            facts = _construct(pipe, order)
        except (ValueError, RuntimeError, OSError, ImportError, AssertionError) as error:
            return pipe.send(_gist(error))
    order.facts.write_text(json.dumps(facts, indent=2))
    return None


def _construct(pipe: Connection, order: Order) -> dict[str, Any]:
    graph = read_graph(cast_first(order.program.onnx_path.read_bytes()), order.program.onnx_path.parent)
    pipe.send("loading Torch-TensorRT")
    import torch
    import torch_tensorrt

    started = time.perf_counter()
    pipe.send("torch.export")
    exported, image = export(graph, order, "cuda" if torch.cuda.is_available() else "cpu")
    _convert_to_bytes()
    pipe.send("TensorRT")
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    given = settings(convert, order)
    order.engine.write_bytes(convert(exported, arg_inputs=(image,), **given))
    import tensorrt  # Torch-TensorRT's own, which may be another package under this name

    return {
        "runtime": order.module,
        "runtime_version": torch_tensorrt.__version__,
        "torch_version": torch.__version__,
        "tensorrt_version": tensorrt.__version__,
        **order.settings,
        "settings": {name: value for name, value in given.items() if name != "timing_cache_path"},
        "operators": len(exported.graph.nodes),
        "build_s": round(time.perf_counter() - started, 2),
    }


def export(graph: Graph, order: Order, device: str) -> tuple[torch.export.ExportedProgram, torch.Tensor]:
    """The program as torch.export gives it, and an image for its input.

    Raises:
        ValueError: the program is not what it is said to be, or has operators without a torch form.
        ImportError: it is INT8, and modelopt is not there.
    """
    import torch

    from edgeseg.engines.onnx_torch import TorchProgram

    quantize = _quantize() if order.program.precision == "int8" else None
    module = TorchProgram(graph, quantize).eval().to(device)
    image = torch.zeros(order.program.image.input_shape, dtype=torch.uint8, device=device)
    with torch.no_grad():
        exported = torch.export.export(module, (image,), strict=False)
    (mask,) = [node.meta["val"] for node in exported.graph.output_node().args[0]]
    sides = tuple(side for side in mask.shape if side != 1)
    if (mask.dtype, sides) != (torch.uint8, tuple(side for side in order.program.mask_shape if side != 1)):
        raise ValueError(f"it is not the program it is said to be: it gives {mask.dtype} {sides}, not {order.program.mask_shape}")
    return exported, image


def _quantize() -> Rounding:
    """The operator that Torch-TensorRT turns into QuantizeLinear and DequantizeLinear. modelopt brings it.

    Lowering evaluates it on weights. modelopt's own kernel would be compiled for that, with nvcc, on the device; ours is not.

    Raises:
        ImportError: modelopt is not installed.
    """
    import torch

    from edgeseg.engines.onnx_torch import round_to_int8

    try:
        import modelopt.torch.quantization  # noqa: F401
    except ImportError as error:
        raise ImportError(f"INT8 with Torch-TensorRT needs nvidia-modelopt ({error}): pip install 'edgeseg[quant]'") from error

    def kernel(x: torch.Tensor, amax: torch.Tensor, bits: int, exponent: int, unsigned: bool, narrow: bool) -> torch.Tensor:
        return round_to_int8(x, amax, narrow)

    def quantize(x: torch.Tensor, amax: torch.Tensor, narrow: bool) -> torch.Tensor:
        rounded: torch.Tensor = torch.ops.tensorrt.quantize_op(x, amax, 8, 0, False, narrow)
        return rounded

    for device in ("CPU", "CUDA"):
        _LIBRARIES.append(torch.library.Library("tensorrt", "IMPL"))  # type: ignore[no-untyped-call]
        _LIBRARIES[-1].impl("quantize_op", kernel, device, allow_override=True)
    return quantize


def _convert_to_bytes() -> None:
    """Give Torch-TensorRT what it lacks: the cast of a class map to uint8. TensorRT casts to it from floats only."""
    import tensorrt
    import torch
    from torch_tensorrt.dynamo.conversion import ConverterPriority, dynamo_tensorrt_converter

    def cast(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
        wide = ctx.net.add_cast(args[0], tensorrt.float32).get_output(0)
        layer = ctx.net.add_cast(wide, tensorrt.uint8)
        layer.name = f"{name} to uint8"
        return layer.get_output(0)

    dynamo_tensorrt_converter(
        torch.ops.aten._to_copy.default,
        capability_validator=lambda node, settings=None: node.kwargs.get("dtype") == torch.uint8,
        priority=ConverterPriority.HIGH,
    )(cast)


def settings(convert: Callable[..., bytes], order: Order) -> dict[str, Any]:
    """What this release of Torch-TensorRT is to be told, of what it can be told.

    Through 2.12 strong typing is a choice, afterwards the only way; a bias added to attention scores is causal unless it is told
    otherwise; inputs and outputs can be named from 2.14 on.
    """
    asked = order.settings
    wanted: Mapping[str, Any] = {
        "use_explicit_typing": True,
        "require_full_compilation": True,
        "min_block_size": 1,
        "attn_bias_is_causal": False,
        "cache_built_engines": False,
        "reuse_cached_engines": False,
        "workspace_size": asked.get("workspace_bytes"),
        "optimization_level": asked.get("optimization_level"),
        "timing_cache_path": None if order.timing_cache is None else str(order.timing_cache),
        "arg_input_binding_names": ("image",),
        "output_binding_names": "mask",
    }
    known = inspect.signature(convert).parameters
    return {name: value for name, value in wanted.items() if name in known and value is not None}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and logs of torch and its companions: what matters comes as an exception."""
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("TORCHTRT_ENABLE_BUILDER_MALLOC_TRIM", "1")  # hosts of a builder need several times the model's size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _gist(error: BaseException) -> list[str]:
    """What an exception and those that led to it say, the first of them first, without whole graphs."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines = [line for line in str(cause).strip().splitlines() if line.strip()] or [type(cause).__name__]
        told.insert(0, lines[0][:_SHOWN])
        cause = cause.__cause__
    return list(dict.fromkeys(told))
