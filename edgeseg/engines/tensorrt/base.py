"""Base of the three runtimes of TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from edgeseg.contracts import NoProgress, Progress
from edgeseg.devices.machine import Machine, detect
from edgeseg.engines.cudart import Cuda
from edgeseg.specs import GPU_FORMS, Form, Precision


class GpuRuntime:
    """Common part of an `EngineBackend` for NVIDIA GPUs. Its engines are strongly typed networks, so INT8
    programs have half precision between the integers.

    Args:
        progress: told the phases of a build.
        machine: where engines run; None: this one.
        cuda: the CUDA runtime; None: that of this machine, opened when it is first needed.
    """

    on_accelerator = True
    exports: Mapping[Precision, Form] = GPU_FORMS

    def __init__(
        self, progress: Progress | None = None, machine: Machine | None = None, cuda: Cuda | None = None
    ) -> None:
        self._progress, self._given, self._cuda = progress or NoProgress(), machine, cuda

    @cached_property
    def _machine(self) -> Machine:
        return self._given or detect()

    def _runtime(self) -> Cuda:
        """Raises Unsupported without a CUDA runtime."""
        self._cuda = self._cuda or Cuda()
        return self._cuda

    def form_for(self, precision: Precision) -> Form:
        return self.exports[precision]
