"""Torch-TensorRT on a machine without a GPU: queries of the device are answered, everything else is real.

`construct` is a child process like `edgeseg.torch_trt.compiler.construct`, with torch-tensorrt-rtx in it:
torch.export, lowering, every converter, the network, and TensorRT-RTX's builder for a compute capability that
is named. An engine cannot be opened without the GPU: the bytes that the builder made stand in for it. What
networks were made is written beside the engine.

Before 2.11 there is no torch-tensorrt-rtx. The torch-tensorrt of those days gets TensorRT-RTX's module in
place of TensorRT's, whose builder asks for a GPU.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

from edgeseg.engines.tensorrt.builder import Order
from edgeseg.torch_trt import compiler
from torch_trt_releases import KNOWN

CAPABILITY, MEMORY_BYTES = (8, 9), 24 << 30
LENT_AS = "10.3.0"
"""What TensorRT-RTX passes for where it stands in for TensorRT: the release of JetPack 6, the oldest that
builds engines.
"""
RECORD = "record.json"


def construct(pipe: Connection, order: Order) -> None:
    """Compile for the answered GPU, and write down the networks and what this release can be told.

    Of a network: its layers by type, the types of its products, inputs and outputs, and the engine's size if
    it was opened.
    """
    networks = install()
    compiler.construct(pipe, order)
    import torch_tensorrt

    convert = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine
    takes = sorted(KNOWN & set(inspect.signature(convert).parameters))
    order.engine.with_name(RECORD).write_text(json.dumps({"networks": networks, "takes": takes}))


def construct_without_argmax(pipe: Connection, order: Order) -> None:
    """As `construct`, with a converter that is not there."""
    install()
    import torch
    from torch_tensorrt.dynamo.conversion import _ConverterRegistry as registry

    del registry.DYNAMO_ATEN_CONVERTERS[torch.ops.aten.argmax.default]
    compiler.construct(pipe, order)


def release() -> str:
    """Of the Torch-TensorRT that is installed, such as "2.13"; "" without one."""
    for package in ("torch-tensorrt-rtx", "torch-tensorrt"):
        try:
            return ".".join(importlib.metadata.version(package).split(".")[:2])
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def install() -> list[dict[str, Any]]:
    """Answer the queries, have torch compute on the CPU, and record every network that is made from here
    on.
    """
    import torch

    compiler.device = lambda: "cpu"
    torch.cuda.get_device_capability = lambda device=None: CAPABILITY
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda device=None: (MEMORY_BYTES, MEMORY_BYTES)
    if int(release().split(".")[1]) < 11:
        _lend_tensorrt_rtx()

    import torch_tensorrt  # noqa: F401, I001 - before tensorrt: it puts TensorRT-RTX in that name's place
    import tensorrt as trt
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    _let_types_be_set(trt)
    made: list[dict[str, Any]] = []
    kind = interpreter.TRTInterpreter
    configure, define = kind._populate_trt_builder_config, kind._construct_trt_network_def

    def for_the_card(self: Any, *arguments: Any) -> Any:
        config = configure(self, *arguments)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM{}{}".format(*CAPABILITY)), 0)
        return config

    def recorded(self: Any) -> None:
        define(self)
        net = self.ctx.net
        layers = [net.get_layer(index) for index in range(net.num_layers)]
        outputs = Counter(
            layer.get_output(0).dtype.name
            for layer in layers
            if layer.type.name in ("CONVOLUTION", "MATRIX_MULTIPLY")
        )
        ports = [
            [(t.dtype.name, list(t.shape)) for t in tensors] for tensors in (_inputs(net), _outputs(net))
        ]
        made.append(
            {
                "layers": Counter(layer.type.name for layer in layers),
                "products": outputs,
                "inputs": ports[0],
                "outputs": ports[1],
            }
        )

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, data: Any) -> Any:
            made[-1]["bytes"] = data.nbytes
            return SimpleNamespace(serialize=lambda: data, get_aliased_input_tensor=lambda output: None)

    kind._populate_trt_builder_config, kind._construct_trt_network_def = for_the_card, recorded
    interpreter.trt = _With(interpreter.trt, Runtime=Runtime)
    return made


def _lend_tensorrt_rtx() -> None:
    """TensorRT-RTX's module under the name of TensorRT's, with empty classes for what it lacks (plugins of
    old kinds).

    What is written in C++ runs engines and compiles none: it wants TensorRT's libraries, and stays out.
    """
    import tensorrt_rtx

    class Lent(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(tensorrt_rtx, name, type(name, (), {}))

    lent = Lent("tensorrt")
    lent.__dict__.update(
        tensorrt=lent, __version__=LENT_AS, __path__=[], __spec__=ModuleSpec("tensorrt", None)
    )
    sys.modules["tensorrt"] = sys.modules["tensorrt.tensorrt"] = lent
    asked, is_file = importlib.metadata.version, os.path.isfile
    importlib.metadata.version = lambda name: LENT_AS if name == "tensorrt" else asked(name)
    os.path.isfile = lambda path: "libtorchtrt" not in str(path) and is_file(path)


def _let_types_be_set(trt: Any) -> None:
    """An output's type, as releases before 2.13 set it and TensorRT-RTX 1.7 no longer does. It must be that
    type already.
    """
    kind = trt.ITensor.dtype.fget

    def settle(tensor: Any, wanted: Any) -> None:
        assert kind(tensor) == wanted

    trt.ITensor.dtype = property(kind, settle)


class _With:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _inputs(net: Any) -> list[Any]:
    return [net.get_input(index) for index in range(net.num_inputs)]


def _outputs(net: Any) -> list[Any]:
    return [net.get_output(index) for index in range(net.num_outputs)]
