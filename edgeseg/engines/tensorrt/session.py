"""A session on a serialized TensorRT or TensorRT-RTX engine: numpy in, numpy out, no torch.

Image and mask pass through page-locked memory that is allocated once. Upload, inference and download are
queued as one piece of work, which is recorded as a CUDA graph after its first run and launched in one call
from then on.

Source: docs.nvidia.com/deeplearning/tensorrt, Python API, IExecutionContext; "CUDA Graphs" in its best
    practices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from edgeseg.engines.cudart import Cuda, Handle
from edgeseg.engines.session import Port, ProgramSession, misfit
from edgeseg.engines.tensorrt.log import Log, no_collection
from edgeseg.errors import BundleError, Unsupported
from edgeseg.specs import ImageU8, MaskU8, Program

_REBUILD = "edgeseg build BUNDLE --force"
Resource = TypeVar("Resource")


@dataclass
class OpenEngine:
    """An engine of TensorRT or TensorRT-RTX that is open. It holds the only reference to the context, which
    goes first.

    Attributes:
        context, engine: the module's own.
        warmed: called once, after the first image; keeps alive what the context needs beside the engine.
        recordable: whether the context's work on a stream may be recorded as a CUDA graph.
    """

    context: Any
    engine: Any
    warmed: Callable[[], None] = lambda: None
    recordable: Callable[[Any, Handle], bool] = lambda context, stream: True


@no_collection()
def open_engine(trt: ModuleType, path: Path, dla_core: int | None = None) -> OpenEngine:
    """Open a serialized engine. Raises BundleError with what the runtime says.

    Args:
        dla_core: of an engine for a deep-learning accelerator: the core that it is to run on.
    """
    log = Log(trt)
    runtime = trt.Runtime(log.logger)
    if dla_core is not None:
        runtime.DLA_core = dla_core  # the engine does not say, and core 0 would be taken
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context() if engine is not None else None
    if context is None:
        raise cannot_open(trt, path, log)
    return OpenEngine(context, engine)


def cannot_open(trt: ModuleType, path: Path, log: Log) -> BundleError:
    """Wrap what a runtime says that opens no engine."""
    told = "; ".join(log.errors) or "it gives no reason"
    return BundleError(f"{trt.__name__} {trt.__version__} cannot open {path}: {told}", hint=_REBUILD)


class TensorRtSession(ProgramSession):
    """An `edgeseg.contracts.Session`.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: the serialized engine.
        cuda_graph: launch recorded work instead of queueing it anew for every image.
        device: the GPU, by CUDA's number; None: the current one.
        opener: opens the engine.
    Raises:
        BundleError: the engine is not one of its program, or cannot be opened: built by another version, too
            little memory.
        Unsupported: NVIDIA's driver does not fit, or there is no GPU.
    """

    def __init__(
        self,
        program: Program,
        trt: ModuleType,
        engine: Path,
        cuda: Cuda,
        *,
        cuda_graph: bool = True,
        device: int | None = None,
        opener: Callable[[ModuleType, Path], OpenEngine] = open_engine,
    ) -> None:
        super().__init__(program)
        self._cuda, self._device, self._wants_graph = cuda, device, cuda_graph
        self._graph: Handle | None = None
        self._cold = True
        self._use_device()
        with ExitStack() as made:
            self._opened = opener(trt, engine)
            (in_name, in_port), (out_name, out_port) = _ports(trt, self._opened.engine)
            if problem := misfit([in_port], [out_port], program):
                raise BundleError(f"{engine} is not an engine of its program: {problem}", hint=_REBUILD)
            self._stream = _held(made, cuda.destroy_stream, cuda.stream())
            self._sent, self._received = (
                _held(made, cuda.free_pinned, cuda.pinned(int(np.prod(shape))))
                for _, shape in (in_port, out_port)
            )
            self._inbox, self._outbox = (
                _held(made, cuda.free, cuda.device_buffer(array.nbytes))
                for array in (self._sent, self._received)
            )
            for name, buffer in ((in_name, self._inbox), (out_name, self._outbox)):
                if not self._opened.context.set_tensor_address(name, buffer):
                    raise BundleError(f"{engine} takes no memory for {name}", hint=_REBUILD)
            self._pixels = self._sent.reshape(in_port[1])
            self._made = made.pop_all()

    def _run(self, pixels: ImageU8) -> MaskU8:
        self._use_device()
        np.copyto(self._pixels, pixels)
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
            self._cuda.wait(self._stream)
        else:
            self._enqueue()
            self._cuda.wait(self._stream)
            if self._cold:  # after a first run: what the engine prepares once must not be recorded
                self._cold = False
                self._opened.warmed()
                if self._wants_graph and self._opened.recordable(self._opened.context, self._stream):
                    self._record()
        mask: MaskU8 = self._received.copy()
        return mask

    def _record(self) -> None:
        """Record the work. An engine whose work CUDA does not let be recorded goes on being queued, as with
        trtexec.
        """
        with suppress(BundleError):
            self._graph = _held(
                self._made, self._cuda.destroy_graph, self._cuda.record(self._enqueue, self._stream)
            )

    def _use_device(self) -> None:
        """CUDA's current device belongs to a thread, and a session may be opened by another than the one that
        runs it.
        """
        if self._device is not None:
            self._cuda.use(self._device)

    def _enqueue(self) -> None:
        self._cuda.upload(self._inbox, self._sent, self._stream)
        if not self._opened.context.execute_async_v3(self._stream):
            raise BundleError(
                "TensorRT failed on an image", hint="edgeseg bundle verify BUNDLE --run; edgeseg doctor"
            )
        self._cuda.download(self._received, self._outbox, self._stream)

    def _release(self) -> None:
        # The context before the engine and all that it was opened with, and these after the work that reads
        # them. On a device that fell off nothing can be freed; it was told, and this must not take the place
        # of that.
        with suppress(BundleError, Unsupported):
            self._use_device()
            self._cuda.wait(self._stream)
        with suppress(BundleError, Unsupported):
            self._made.close()
        self._opened.context = None
        del self._opened


def _held(made: ExitStack, free: Callable[[Resource], None], resource: Resource) -> Resource:
    """Keep what was made, to be freed with the rest."""
    made.callback(free, resource)
    return resource


def _ports(trt: ModuleType, engine: Any) -> tuple[tuple[str, Port], tuple[str, Port]]:
    """Name and port of the one input and of the one output."""
    found: dict[Any, list[tuple[str, Port]]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        found[engine.get_tensor_mode(name)].append((name, (kind, tuple(engine.get_tensor_shape(name)))))
    ins, outs = found.values()
    if len(ins) != 1 or len(outs) != 1:
        raise BundleError(
            f"the engine has {len(ins)} inputs and {len(outs)} outputs, a program has one of each",
            hint=_REBUILD,
        )
    return ins[0], outs[0]
