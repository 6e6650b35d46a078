"""Torch-TensorRT on a machine without a GPU: three queries of the device are answered, everything else is real.

`construct` is a child process like `edgeseg.engines.torch_tensorrt_build.construct`, with torch-tensorrt-rtx in it: torch.export,
lowering, every converter, the network, and TensorRT-RTX's builder for a compute capability that is named. An engine cannot be
opened without the GPU: the bytes that the builder made stand in for it. What networks were made is written beside the engine.
"""

from __future__ import annotations

import json
from collections import Counter
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from edgeseg.engines import torch_tensorrt_build
from edgeseg.engines.tensorrt_build import Order

CAPABILITY, MEMORY_BYTES = (8, 9), 24 << 30
NETWORKS = "networks.json"


def construct(pipe: Connection, order: Order) -> None:
    """Compile for the answered GPU, and write down the networks: their layers by type, the types of tensors, whether built."""
    networks = install()
    torch_tensorrt_build.construct(pipe, order)
    order.engine.with_name(NETWORKS).write_text(json.dumps(networks))


def install() -> list[dict[str, Any]]:
    """Answer the queries, have torch compute on the CPU, and record every network that is made from here on."""
    import torch

    torch_tensorrt_build.device = lambda: "cpu"

    torch.cuda.get_device_capability = lambda device=None: CAPABILITY
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda device=None: (MEMORY_BYTES, MEMORY_BYTES)

    import torch_tensorrt  # noqa: F401, I001 - before tensorrt: it puts TensorRT-RTX in that name's place
    import tensorrt as trt
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

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
            layer.get_output(0).dtype.name for layer in layers if layer.type.name in ("CONVOLUTION", "MATRIX_MULTIPLY")
        )
        ports = [[(t.dtype.name, list(t.shape)) for t in tensors] for tensors in (_inputs(net), _outputs(net))]
        made.append(
            {"layers": Counter(layer.type.name for layer in layers), "products": outputs, "inputs": ports[0], "outputs": ports[1]}
        )

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, data: Any) -> Any:
            made[-1]["bytes"] = data.nbytes
            return SimpleNamespace(serialize=lambda: data)

    kind._populate_trt_builder_config, kind._construct_trt_network_def = for_the_card, recorded
    interpreter.trt = _With(interpreter.trt, Runtime=Runtime)
    return made


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
