"""Torch-TensorRT: a torch.export program compiled into a TensorRT engine, on the NVIDIA GPU that it is for.

torch compiles; it is not there when the engine runs, which is opened as TensorRT's own are.

The torch program is made from the bundle's ONNX program, operator by operator (`torch_trt`). What is compiled
is then the very program whose parity with the model was proved, at every ISR level and in every precision; a
bundle needs no second copy of its weights; and a device needs torch and Torch-TensorRT, but no model code and
no training side. The other ways were worse: torch.export's own .pt2 is written by one release of torch and
read by that or a later one, while a Jetson with JetPack 6 has 2.8 and models are trained with 2.13, and its
archive holds a pickle (the sample inputs); and a checkpoint must be deployed and quantized anew on the
device, with modelopt, into something that nobody has compared with anything.

The program is compiled whole, in a child process: a single operator without a converter is a BuildError,
never a piece left to torch. Networks are strongly typed: half precision is what the program says is half.
INT8 goes through `torch.ops.tensorrt.quantize_op`, an operator of modelopt, which INT8 programs therefore
need on the device that builds.

Source: pytorch.org/TensorRT; github.com/pytorch/TensorRT,
    py/torch_tensorrt/dynamo/conversion/impl/quantize.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeseg.contracts import NO_OPTIONS
from edgeseg.devices.probe import fingerprint
from edgeseg.engines.options import CUDA_GRAPH, OPTIMIZATION_LEVEL, WORKSPACE_BYTES
from edgeseg.engines.tensorrt.base import GpuRuntime
from edgeseg.engines.tensorrt.builder import build
from edgeseg.engines.tensorrt.python import TensorRt, order_here
from edgeseg.engines.tensorrt.session import TensorRtSession
from edgeseg.errors import MissingDependency
from edgeseg.specs import Program

_PURPOSE = "compile engines with Torch-TensorRT"
_COMPILER = "edgeseg.torch_trt.compiler"
"""Module that the child process runs. It imports torch: a room above this one, named as the table names
runtimes.
"""
OPTIONS = {
    "cuda_graph": CUDA_GRAPH,
    "optimization_level": OPTIMIZATION_LEVEL,
    "workspace_bytes": WORKSPACE_BYTES,
}


class TorchTensorRt(GpuRuntime):
    """The backend that compiles through torch."""

    name = "torch_tensorrt"
    options = OPTIONS

    def version(self) -> str:
        """Versions of Torch-TensorRT and of the TensorRT that opens its engines: each must be the same."""
        try:
            own = version("torch-tensorrt")  # importing it takes seconds, and fails where there is no driver
        except PackageNotFoundError as error:
            raise MissingDependency("torch_tensorrt", extra="tensorrt", purpose=_PURPOSE) from error
        return f"{own} on TensorRT {TensorRt().version()}"

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """One where there is a GPU; none elsewhere."""
        if not self._machine.accelerator:
            return []
        self.version()
        return [wanted]

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """Two files: the engine, and as JSON what it was built with.

        Raises:
            BuildError: Torch-TensorRT refuses the program, or its process ended early.
            Unsupported: no Torch-TensorRT, no TensorRT, no CUDA runtime, no GPU or none that torch sees; for
                INT8: no modelopt.
        """
        here = fingerprint(self.name, self.version(), self._machine, on_accelerator=True)
        order = order_here(here, self._runtime, program, out_dir, _own(options))
        build(order, self._progress, importlib.import_module(_COMPILER).construct)
        return [order.engine, order.facts]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> TensorRtSession:
        """Open what `compile` wrote. Raises BundleError where TensorRT refuses it, Unsupported without a CUDA
        runtime.
        """
        return TensorRt(machine=self._machine, cuda=self._runtime()).load(program, files, _own(options))


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what TensorRT alone takes."""
    return {name: options[name] for name in OPTIONS if name in options}
