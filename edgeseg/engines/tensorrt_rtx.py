"""TensorRT-RTX: engines for NVIDIA's RTX graphics cards, compiled on any machine; none of them has to be there.

An engine is for one compute capability and one release of TensorRT-RTX, and runs on Linux and on Windows. The card's driver makes
its kernels when the engine is first opened there.

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT and TensorRT-RTX Engines", "Engine Compatibility".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.contracts import NoProgress, Progress
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.tensorrt_build import Order, build
from edgeseg.engines.tensorrt_session import TensorRtSession
from edgeseg.errors import Unsupported, require
from edgeseg.specs import DEFAULT_FORM, HALF_FORM, Precision, Program

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What an engine can be built for: values of `options["compute_capability"]`."""
ENGINE, FACTS = "engine.rtx", "engine.json"


class TensorRtRtx:
    """The backend. Option: `compute_capability` (one of `COMPUTE_CAPABILITIES`, required)."""

    name = "tensorrt_rtx"
    on_accelerator = True

    def __init__(self, progress: Progress | None = None, cuda: Cuda | None = None) -> None:
        self._progress, self._cuda = progress or NoProgress(), cuda

    def form_for(self, precision: Precision) -> str:
        """INT8: with half precision between the integers; the network is strongly typed."""
        return HALF_FORM if precision == "int8" else DEFAULT_FORM

    def version(self) -> str:
        return str(_rtx().__version__)

    def variants(self) -> Sequence[Mapping[str, Any]]:
        """None, whether it is installed or not: its engines are for other machines."""
        return ()

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """Two files: the engine, and as JSON what it was built with and what a machine needs to open it.

        Raises:
            BuildError: TensorRT-RTX refuses the program, or its process ended early.
            Unsupported: TensorRT-RTX does not build for this compute capability.
        """
        _rtx()
        capability = options.get("compute_capability")
        if capability not in COMPUTE_CAPABILITIES:
            raise Unsupported(
                f"tensorrt_rtx builds for compute capabilities {', '.join(COMPUTE_CAPABILITIES)}, not {capability}",
                hint="edgeseg build BUNDLE --device rtx4090, or another RTX card",
            )
        order = Order(self.name, program, out_dir / ENGINE, out_dir / FACTS, {"compute_capability": capability})
        build(order, self._progress)
        return [order.engine, order.facts]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> TensorRtSession:
        """Open what `compile` wrote, on the card. Raises BundleError where the runtime refuses it, Unsupported without CUDA."""
        return TensorRtSession(program, _rtx(), files[0], self._cuda or Cuda(), cuda_graph=bool(options.get("cuda_graph", True)))


def _rtx() -> ModuleType:
    return require("tensorrt_rtx", extra="rtx", purpose="build engines for RTX graphics cards")
