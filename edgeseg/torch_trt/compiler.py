"""Compiling a program with Torch-TensorRT: what the child process does. `torch_tensorrt` says where the torch
module comes from.

One call site serves releases 2.8 to 2.14. Their `convert_exported_program_to_serialized_trt_engine` makes one
network of a whole program, or fails; up to 2.11 it fails by a line in the log and an unbound name. It
swallows settings that it does not know, so what it is given is chosen by the names in its own signature, and
what was given is kept beside the engine.

Source: pytorch.org/TensorRT, "dynamo" API; github.com/pytorch/TensorRT,
    py/torch_tensorrt/dynamo/_compiler.py, 2.8 to 2.14.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeseg.engines.onnx_files.graph import Graph, read_graph
from edgeseg.engines.tensorrt.builder import Order, monitor, read_for_gpu
from edgeseg.errors import EdgesegError, MissingDependency, OutOfRoom, Unsupported

if TYPE_CHECKING:
    import torch

    from edgeseg.torch_trt.program import Rounding

_INT8_PURPOSE = "compile INT8 programs with Torch-TensorRT"
_LIBRARIES: list[Any] = []  # kernels last as long as these
_SHOWN, _MOST = 400, 8  # characters of a message, which may hold a whole graph; and messages
_TOO_LITTLE_MEMORY = re.compile(
    r"out ?of ?memory|MemoryError|insufficient (\w+ )?memory|memory \(.*\) could not be allocated|cannot"
    r" allocate|bad_alloc",
    re.IGNORECASE,
)


def construct(pipe: Connection, order: Order) -> None:
    """The child: write the engine and its facts, or send a list of what speaks against the program, or an
    EdgesegError.

    On the way, it sends the name of each phase of the build.
    """
    with _quiet() as heard:
        try:
            facts = _construct(pipe, order)
        except (EdgesegError, ValueError, RuntimeError, OSError, AssertionError, MemoryError) as error:
            return pipe.send(_refusal(error, heard, order))
    order.facts.write_text(json.dumps(facts, indent=2))
    return None


def _construct(pipe: Connection, order: Order) -> dict[str, Any]:
    graph = read_graph(read_for_gpu(order.program), order.program.onnx_path.parent)
    pipe.send("loading Torch-TensorRT")
    torch_tensorrt, tensorrt = load()
    import torch

    started = time.perf_counter()
    pipe.send("torch.export")
    exported, image = export(graph, order, device())
    _convert_to_bytes()
    _show_phases(pipe, tensorrt)
    pipe.send("TensorRT")
    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    given = settings(convert, order)
    try:
        engine = convert(exported, arg_inputs=(image,), **given)
    except Exception as error:  # a converter may fail in any way
        raise RuntimeError("Torch-TensorRT makes no engine of it") from error
    order.engine.write_bytes(engine)
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


def load() -> tuple[ModuleType, ModuleType]:
    """Torch-TensorRT, and the TensorRT that it uses, which may be another package under this name.

    Raises:
        Unsupported: one of them, or torch, cannot be imported: a library or the driver is missing, or too
            old.
    """
    try:
        import torch_tensorrt, tensorrt  # noqa: E401, I001 - in this order: the first may put its own in the second's place
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        raise Unsupported(
            f"Torch-TensorRT cannot be loaded: {'; '.join(_gist(error))}", hint="edgeseg doctor"
        ) from error
    return torch_tensorrt, tensorrt


def device() -> str:
    """Device where torch computes while it compiles. Raises Unsupported where it sees no GPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    raise Unsupported(
        f"torch {torch.__version__}, built {built}, sees no GPU: it is another build, or NVIDIA's driver is"
        " missing or too old",
        hint="edgeseg doctor",
    )


def export(graph: Graph, order: Order, device: str) -> tuple[torch.export.ExportedProgram, torch.Tensor]:
    """The program as torch.export gives it, and an image for its input.

    Raises:
        ValueError: the program is not what it is said to be, or has operators without a torch form.
        Unsupported: it is INT8, and modelopt is not there, or cannot be imported.
    """
    import torch

    from edgeseg.torch_trt.program import TorchProgram

    quantize = _quantize() if order.program.precision == "int8" else None
    module = TorchProgram(graph, quantize).eval().to(device)
    image = torch.zeros(order.program.image.input_shape, dtype=torch.uint8, device=device)
    with torch.no_grad():
        exported = torch.export.export(module, (image,), strict=False)
    (mask,) = [node.meta["val"] for node in exported.graph.output_node().args[0]]
    sides = tuple(side for side in mask.shape if side != 1)
    if (mask.dtype, sides) != (torch.uint8, tuple(side for side in order.program.mask_shape if side != 1)):
        raise ValueError(
            f"it is not the program it is said to be: it gives {mask.dtype} {sides}, not"
            f" {order.program.mask_shape}"
        )
    return exported, image


def _quantize() -> Rounding:
    """The operator that Torch-TensorRT turns into QuantizeLinear and DequantizeLinear. modelopt brings it.

    Lowering evaluates it on weights. modelopt's own kernel would be compiled for that, with nvcc, on the
    device; ours is not.

    Raises:
        MissingDependency: modelopt is not installed.
        Unsupported: it cannot be imported.
    """
    import torch

    from edgeseg.torch_trt.program import round_to_int8

    try:
        import modelopt.torch.quantization  # noqa: F401
    except (
        ModuleNotFoundError
    ) as error:  # of modelopt itself, or of something that it needs without saying so
        raise MissingDependency(
            str(error.name).split(".")[0], extra="tensorrt", purpose=_INT8_PURPOSE
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported(
            f"modelopt cannot be loaded: {'; '.join(_gist(error))}", hint="edgeseg doctor"
        ) from error

    def kernel(
        x: torch.Tensor, amax: torch.Tensor, bits: int, exponent: int, unsigned: bool, narrow: bool
    ) -> torch.Tensor:
        return round_to_int8(x, amax, narrow)

    def quantize(x: torch.Tensor, amax: torch.Tensor, narrow: bool) -> torch.Tensor:
        rounded: torch.Tensor = torch.ops.tensorrt.quantize_op(x, amax, 8, 0, False, narrow)
        return rounded

    for device in ("CPU", "CUDA"):
        _LIBRARIES.append(torch.library.Library("tensorrt", "IMPL"))  # type: ignore[no-untyped-call]
        _LIBRARIES[-1].impl("quantize_op", kernel, device, allow_override=True)
    return quantize


def _convert_to_bytes() -> None:
    """Give Torch-TensorRT what it lacks: the cast of a class map to uint8. TensorRT casts to it from floats
    only.
    """
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


def _show_phases(pipe: Connection, trt: ModuleType) -> None:
    """Have TensorRT tell how far it is, as where it builds from ONNX. Torch-TensorRT has no public way to ask
    for it.
    """
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    configure = getattr(interpreter.TRTInterpreter, "_populate_trt_builder_config", None)
    if configure is None:
        return

    def configured(self: Any, *arguments: Any, **more: Any) -> Any:
        config = configure(self, *arguments, **more)
        config.progress_monitor = monitor(trt, pipe)
        return config

    interpreter.TRTInterpreter._populate_trt_builder_config = configured


def settings(convert: Callable[..., bytes], order: Order) -> dict[str, Any]:
    """Choose the settings for this release of Torch-TensorRT, of those that it knows.

    Through 2.12 strong typing is a choice (not the default before 2.10), afterwards the only way; from 2.11
    on a bias added to attention scores is causal unless it is told otherwise; inputs and outputs can be named
    from 2.14 on.
    """
    asked = order.settings
    wanted: Mapping[str, Any] = {
        "use_explicit_typing": True,
        "attn_bias_is_causal": False,
        "workspace_size": asked.get("workspace_bytes"),
        "optimization_level": asked.get("optimization_level"),
        "timing_cache_path": _timing_cache(order),
        "arg_input_binding_names": ("image",),
        "output_binding_names": "mask",
    }
    known = inspect.signature(convert).parameters
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def _timing_cache(order: Order) -> str | None:
    """File where times of kernels are kept: beside the engine, for this build alone, where the user's folder
    cannot be written. Torch-TensorRT makes no engine that it cannot keep times of."""
    if order.timing_cache is None:
        return None
    folder = order.timing_cache.parent
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    return str(order.timing_cache if writable else order.engine.with_suffix(".timing"))


class _Listener(logging.Handler):
    """Keeps the errors that are logged: TensorRT's own, and what releases up to 2.11 do not raise."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.heard.extend(_gist(error) if error else _first_line(record.getMessage()))


@contextlib.contextmanager
def _quiet() -> Iterator[Sequence[str]]:
    """Without the warnings and logs of torch and its companions; the errors among them are what it gives."""
    listener, root = _Listener(), logging.getLogger()
    root.addHandler(listener)
    logging.disable(logging.WARNING)
    os.environ.setdefault(
        "TORCHTRT_ENABLE_BUILDER_MALLOC_TRIM", "1"
    )  # hosts of a builder need several times the model's size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield listener.heard
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(listener)


def _refusal(error: Exception, heard: Sequence[str], order: Order) -> EdgesegError | list[str]:
    """Return what to send for an exception, given the errors that were logged: what was first, first."""
    if isinstance(error, EdgesegError):
        return error
    unsaid = (
        isinstance(error.__cause__, NameError) and heard
    )  # up to 2.11: it goes on after an error, without an engine
    reasons = list(dict.fromkeys([*([] if unsaid else _gist(error)), *heard]))[:_MOST]
    if any(map(_TOO_LITTLE_MEMORY.search, reasons)):
        return OutOfRoom(
            f"{order.module} has too little memory to build {order.program.onnx_path}: {'; '.join(reasons)}",
            hint=(
                "end what else is on the GPU; or give kernels less: --option"
                f" {order.module}.workspace_bytes={256 << 20}"
            ),
        )
    return reasons


def _gist(error: BaseException) -> list[str]:
    """List what an exception and those that led to it say, the first of them first, without whole graphs."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        told = [*(_first_line(str(cause)) or [type(cause).__name__]), *told]
        cause = cause.__cause__
    return list(dict.fromkeys(told))


def _first_line(text: str) -> list[str]:
    """The first line with something in it, shortened; none where there is none."""
    return [line.strip()[:_SHOWN] for line in text.splitlines() if line.strip()][:1]
