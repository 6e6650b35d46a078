"""TensorRT-RTX: engines for NVIDIA's RTX graphics cards, compiled on any machine; none of them has to be
there.

An engine is for one compute capability and one release of TensorRT-RTX, and for nothing else of a machine:
one that was compiled elsewhere is the very engine that would be compiled on the card, has the same key, and
is only checked and timed there. The card's kernels are made when an engine is first opened on it, and kept
(`rtx_engine`).

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT and TensorRT-RTX Engines", "Engine
    Compatibility".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.contracts import NO_OPTIONS, Option
from edgeseg.devices.catalog import load_catalog
from edgeseg.engines.options import CUDA_GRAPH
from edgeseg.engines.tensorrt.base import GpuRuntime
from edgeseg.engines.tensorrt.builder import Order, build
from edgeseg.engines.tensorrt.rtx_engine import open_engine
from edgeseg.engines.tensorrt.session import TensorRtSession
from edgeseg.errors import EngineMismatch, Unsupported, require
from edgeseg.specs import Program

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Cards that an engine can be built for: values of `options["compute_capability"]`."""
OPTIONS = {
    "compute_capability": Option(
        str, "build for these cards; by default for each kind that is here", COMPUTE_CAPABILITIES
    ),
    "cuda_graph": CUDA_GRAPH,
}
ENGINE, FACTS = "engine.rtx", "engine.json"


class TensorRtRtx(GpuRuntime):
    """The backend; a `PortableBackend`. Where options name no `compute_capability`, that of the first card
    here is meant.
    """

    name = "tensorrt_rtx"
    options = OPTIONS

    def version(self) -> str:
        return str(_rtx().__version__)

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """One for each compute capability of the cards here; none where there is no card, whether it is
        installed or not.

        Raises:
            MissingDependency: there is a card, and TensorRT-RTX is not installed.
            Unsupported: none of the cards has the compute capability that is wanted.
        """
        here = self._capabilities()
        if not here:
            return ()
        self.version()
        asked = wanted.get("compute_capability", here[0])
        if asked not in here:
            raise Unsupported(
                f"there is no card of compute capability {asked} here, only of {' and '.join(here)}",
                hint=f"edgeseg build BUNDLE --device sm{asked.replace('.', '')} compiles for another machine",
            )
        chosen = [asked] if "compute_capability" in wanted else here
        return [{**wanted, "compute_capability": capability} for capability in chosen]

    def accelerators(self) -> Sequence[str]:
        return [card(capability) for capability in self._capabilities()]

    def accelerator(self, options: Mapping[str, Any]) -> str:
        return card(capability) if (capability := self._capability(options)) else ""

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """Two files: the engine, and as JSON what it was built with and what a machine needs to open it.

        Raises:
            BuildError: TensorRT-RTX refuses the program, or its process ended early.
            Unsupported: TensorRT-RTX does not build for this compute capability, or none is given and no card
                is here.
        """
        _rtx()
        capability = self._capability(options)
        if capability not in COMPUTE_CAPABILITIES:
            wanted = f"not for {capability}" if capability else "and there is no such card here"
            raise Unsupported(
                f"tensorrt_rtx builds for compute capabilities {', '.join(COMPUTE_CAPABILITIES)}, {wanted}",
                hint="edgeseg build BUNDLE --device rtx4090, or another RTX card",
            )
        order = Order(
            self.name, program, out_dir / ENGINE, out_dir / FACTS, {"compute_capability": capability}
        )
        build(order, self._progress)
        return [order.engine, order.facts]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> TensorRtSession:
        """Open what `compile` wrote, on the first card that it is for.

        Raises:
            EngineMismatch: it is for other cards than those that CUDA sees here, or for another release of
                TensorRT-RTX.
            BundleError: the runtime refuses it.
            Unsupported: no TensorRT-RTX, no CUDA runtime, no GPU, or a driver that is too old.
        """
        rtx, cuda = _rtx(), self._runtime()
        here, wanted = cuda.capabilities(), self._capability(options)
        if wanted not in here:
            seen = (
                " and ".join(card(capability) for capability in dict.fromkeys(here))
                or "a machine without one that CUDA sees"
            )
            raise EngineMismatch(card(wanted) if wanted else "an RTX card", seen, hint="edgeseg build BUNDLE")
        return TensorRtSession(
            program,
            rtx,
            files[0],
            cuda,
            cuda_graph=bool(options.get("cuda_graph", True)),
            device=here.index(wanted),
            opener=partial(open_engine, capability=wanted),
        )

    def _capability(self, options: Mapping[str, Any]) -> str | None:
        """Compute capability that options mean; None where they name none and no card is here."""
        named: str | None = options.get("compute_capability")
        return named or next(iter(self._capabilities()), None)

    def _capabilities(self) -> list[str]:
        """Those of the cards here that engines can be built for, each once, in the system's order."""
        catalog = load_catalog()
        found = dict.fromkeys(catalog.compute_capability(gpu) for gpu in self._machine.gpus)
        return [capability for capability in found if capability in COMPUTE_CAPABILITIES]


def card(capability: str) -> str:
    """Name what an engine is bound to, beside the release of TensorRT-RTX."""
    return f"NVIDIA GPU of compute capability {capability}"


def _rtx() -> ModuleType:
    return require("tensorrt_rtx", extra="rtx", purpose="build and run engines for RTX graphics cards")
