"""TensorRT: engines for the NVIDIA GPU of this device, by the Python package that JetPack ships, or PyPI's.
No torch.

An engine is for one GPU and one release of TensorRT. It is built where it runs, in a child process, with half
of the memory that is free then. Times of kernels are kept between builds, in the user's cache folder, one
file for each device. With `dla_core`, a deep-learning accelerator computes what it can (`dla`), and the GPU
the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.contracts import NO_OPTIONS, Option
from edgeseg.devices.probe import Fingerprint, fingerprint
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.options import CUDA_GRAPH, OPTIMIZATION_LEVEL, WORKSPACE_BYTES
from edgeseg.engines.tensorrt import dla
from edgeseg.engines.tensorrt.base import GpuRuntime
from edgeseg.engines.tensorrt.builder import Order, build
from edgeseg.engines.tensorrt.session import TensorRtSession, open_engine
from edgeseg.errors import BuildError, Unsupported
from edgeseg.specs import Program

ENGINE, FACTS = "engine.trt", "engine.json"
OPTIONS = {
    "cuda_graph": CUDA_GRAPH,
    "dla_core": Option(int, "also try this accelerator (DLA) of a Jetson module; it takes FP16 and INT8"),
    "optimization_level": OPTIMIZATION_LEVEL,
    "workspace_bytes": WORKSPACE_BYTES,
}
_BUILDER = ("dla_core", "optimization_level", "workspace_bytes")
"""Options that the builder reads."""


class TensorRt(GpuRuntime):
    """The backend for the GPU and, with `dla_core`, a deep-learning accelerator of this device."""

    name = "tensorrt"
    options = OPTIONS

    def version(self) -> str:
        return str(_trt().__version__)

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """The GPU, where there is one; none elsewhere. With `dla_core`, that accelerator too, where the
        device has it.
        """
        if not self._machine.accelerator:
            return []
        version = self.version()
        on_gpu = {name: value for name, value in wanted.items() if name != "dla_core"}
        if "dla_core" not in wanted:
            return [on_gpu]
        dla.check_core(wanted["dla_core"], self._machine, version)
        return [on_gpu, {name: value for name, value in wanted.items() if name != "cuda_graph"}]

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """Two files: the engine, and as JSON what it was built with.

        Raises:
            BuildError: TensorRT refuses the program, DLA does not compute its precision, or the builder's
                process ended early.
            Unsupported: no TensorRT, no CUDA runtime, or no GPU.
        """
        if "dla_core" in options and (problem := dla.refusal(program.precision)):
            raise BuildError(
                problem,
                hint="name tensorrt in the recipe's targets, and export again: it brings an fp16 program",
            )
        here = fingerprint(self.name, self.version(), self._machine, on_accelerator=True)
        order = order_here(here, self._runtime, program, out_dir, options)
        build(order, self._progress)
        return [order.engine, order.facts]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> TensorRtSession:
        """Open what `compile` wrote. Raises BundleError where TensorRT refuses it, Unsupported without a CUDA
        runtime.
        """
        core = options.get("dla_core")
        recorded = bool(options.get("cuda_graph", True)) and core is None
        opener = partial(open_engine, dla_core=core)
        return TensorRtSession(program, _trt(), files[0], self._runtime(), cuda_graph=recorded, opener=opener)


def order_here(
    here: Fingerprint, cuda: Callable[[], Cuda], program: Program, out_dir: Path, options: Mapping[str, Any]
) -> Order:
    """Order what to build for the GPU of this machine, with half of its free memory unless `options` says how
    much.

    Args:
        here: this machine, with the runtime that builds.
        cuda: opens the CUDA runtime; asked only where there is a GPU.
    Raises:
        Unsupported: there is no GPU, or no CUDA runtime.
    """
    if not here.accelerator:
        raise Unsupported(
            f"{here.runtime} builds on the GPU that it builds for, and here is none",
            hint="edgeseg devices --here",
        )
    settings = {name: options[name] for name in _BUILDER if name in options}
    settings.setdefault("workspace_bytes", cuda().free_bytes() // 2)
    timing_cache = cache_folder() / f"{here.key}.timing"
    return Order(here.runtime, program, out_dir / ENGINE, out_dir / FACTS, settings, timing_cache)


def cache_folder() -> Path:
    """Folder of the times of kernels: `$XDG_CACHE_HOME/edgeseg/tensorrt`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg" / "tensorrt"


def _trt() -> ModuleType:
    try:
        import tensorrt
    except ImportError as error:
        raise Unsupported(
            "the package 'tensorrt' is needed to build and run engines on the GPU, and it is not installed",
            hint=(
                "edgeseg doctor says how to install it here; a Jetson has it: python3 -m venv"
                " --system-site-packages"
            ),
        ) from error
    module: ModuleType = tensorrt
    return module
