"""Building engines with TensorRT or TensorRT-RTX, whose Python modules have the same names in them.

The network is strongly typed: each operator computes in the type that the program gives it. That is the one
language of precision that TensorRT 10, TensorRT 11 and TensorRT-RTX share. The exception is a network for a
deep-learning accelerator in TensorRT 10 (`dla`).

The builder works in a process of its own, so that one that runs out of memory or crashes ends nothing else.
It is spawned: a script that builds needs the usual `if __name__ == "__main__":`.

Source: docs.nvidia.com/deeplearning/tensorrt, Python API; "Strongly Typed Networks", "Timing Cache".
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.bundle.graph_files import image_readers
from edgeseg.contracts import Progress
from edgeseg.engines.options import WORKSPACE_BYTES
from edgeseg.engines.session import Port, misfit
from edgeseg.engines.tensorrt import dla
from edgeseg.engines.tensorrt.dynamic_ranges import without_quantizers
from edgeseg.engines.tensorrt.log import Log, no_collection
from edgeseg.errors import BuildError, EdgesegError, OutOfRoom
from edgeseg.files import replace_file
from edgeseg.signals import start_spared
from edgeseg.specs import Program


@dataclass(frozen=True)
class Order:
    """Order of an engine; it crosses into another process.

    Attributes:
        module: "tensorrt" or "tensorrt_rtx".
        engine, facts: the files to write: the engine, and as JSON what it was built with.
        settings: of the builder: `compute_capability` ("8.9", TensorRT-RTX only), `dla_core`,
            `optimization_level` (0 to 5), `workspace_bytes`; each may be missing.
        timing_cache: times of kernels on this device, read and written; None: none is kept.
    """

    module: str
    program: Program
    engine: Path
    facts: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Note:
    """Message of a builder's process to the user, beside the phase that it is in."""

    text: str


def build(order: Order, progress: Progress, work: Callable[[Connection, Order], None] | None = None) -> None:
    """Build in a child process, showing the phase that it is in.

    Args:
        work: what the child does; default: `construct`. It sends phases (texts), `Note`s, and a list of what
            speaks against it, or an EdgesegError.
    Raises:
        BuildError: the builder refuses the program, or its process ended early.
        EdgesegError: as the child sends it.
        OSError: no process can be started.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=work or construct, args=(theirs, order), daemon=True)
    refused: list[str] | EdgesegError | None = None
    task = f"{order.module}, phases"
    start_spared(child)
    theirs.close()
    progress.start(task, None)
    try:
        while (said := _receive(ours)) is not None:
            if isinstance(said, (list, EdgesegError)):
                refused = said
            elif isinstance(said, Note):
                progress.message(said.text)
            else:
                progress.advance(task, 0 if said.endswith("%") else 1, phase=said)
        child.join()
    finally:
        child.kill()
        child.join()
        ours.close()
        progress.finish(task)
    program = order.program.onnx_path
    if isinstance(refused, EdgesegError):
        raise refused
    if refused:
        raise BuildError(
            f"{order.module} refuses {program}: {'; '.join(refused)}", hint="edgeseg export RECIPE"
        )
    if child.exitcode:
        how = signal.Signals(-child.exitcode).name if child.exitcode < 0 else f"exit code {child.exitcode}"
        raise (OutOfRoom if child.exitcode == -signal.SIGKILL else BuildError)(
            f"the process that built {program} with {order.module} ended early ({how})",
            hint=(
                "SIGKILL is the system's answer to too little memory: free some, or add swap, and build again"
            ),
        )


def _receive(pipe: Connection) -> Any:
    """Receive what the child says next; None once it has ended."""
    try:
        return pipe.recv()
    except EOFError:
        return None


@no_collection()
def construct(pipe: Connection, order: Order) -> None:
    """The child: write the engine and its facts, or send a list of what the builder says against the program.

    On the way, it sends the name of each phase of the build.
    """
    trt = importlib.import_module(order.module)
    log = Log(trt)
    logger = log.logger
    builder = trt.Builder(logger)
    core = order.settings.get("dla_core")
    typed = core is None or dla.strongly_typed(trt.__version__)
    network = builder.create_network(_strongly_typed(trt) if typed else 0)
    try:
        graph, ranges = _read(order.program, implicit=not typed)
        _parse(trt, network, logger, order.program, graph, for_dla=core is not None)
        config = _config(trt, builder, order, log)
        report = None if core is None else dla.send(trt, builder, config, network, core, ranges)
    except ValueError as error:
        return pipe.send([*map(str, error.args), *log.errors][:8])
    except EdgesegError as error:
        return pipe.send(error)
    if report is not None:
        pipe.send(Note(dla.told(report)))
    config.progress_monitor = monitor(trt, pipe)
    inputs, outputs = (_ports(trt, network, kind) for kind in ("input", "output"))
    started = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return pipe.send(log.errors or ["it gives no reason"])
    facts = {
        "runtime": order.module,
        "runtime_version": trt.__version__,
        **order.settings,
        "strongly_typed": typed,
        "layers": network.num_layers,
        "dla": report,
        "skipped_tactics": log.skipped,
        "build_s": round(time.perf_counter() - started, 2),
        "timing_cache": _keep_times(config, order.timing_cache),
        "engine_header_bytes": getattr(trt.Runtime(logger), "engine_header_size", None),
        "inputs": inputs,
        "outputs": outputs,
    }
    order.engine.write_bytes(engine)
    order.facts.write_text(
        json.dumps({name: value for name, value in facts.items() if value is not None}, indent=2)
    )
    return None


def _strongly_typed(trt: ModuleType) -> int:
    """The flags of a network. From TensorRT 11 on every network is strongly typed, and the flag may go."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _read(program: Program, *, implicit: bool) -> tuple[bytes, Mapping[str, float]]:
    """Read the program as TensorRT takes it; with `implicit`, the INT8 quantizers of one as ranges beside it.
    Raises ValueError, and BuildError where it is laid out for processors.
    """
    try:
        graph = read_for_gpu(program)
        return (
            without_quantizers(graph, program.onnx_path.parent)
            if implicit and program.precision == "int8"
            else (graph, {})
        )
    except OSError as error:
        raise ValueError(str(error)) from error


def read_for_gpu(program: Program) -> bytes:
    """Read the file of a program.

    Raises:
        BuildError: it is laid out for processors.
        ValueError: it is no ONNX model; OSError: it cannot be read.
    """
    graph = program.onnx_path.read_bytes()
    if "Transpose" in image_readers(graph):
        raise BuildError(
            f"{program.onnx_path} is not laid out for a GPU: it transposes its image as bytes, and TensorRT"
            " only casts them",
            hint="export it for GPUs: edgeseg export RECIPE --precision fp16 --force; or write - runtime:"
            " tensorrt under targets in the recipe, and export again",
        )
    return graph


def _parse(
    trt: ModuleType, network: Any, logger: Any, program: Program, graph: bytes, *, for_dla: bool
) -> None:
    """Read the program into the network. Raises ValueError with what speaks against it, one argument each."""
    parser = trt.OnnxParser(network, logger)
    fitting = getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None) if for_dla else None
    if fitting is not None:
        parser.set_flag(fitting)
    if not parser.parse(
        graph, str(program.onnx_path)
    ):  # the path is where weights beside the graph are looked for
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        raise ValueError(
            *(" ".join(f"{one.node_operator()} {one.node_name()}: {one.desc()}".split()) for one in problems)
        )
    inputs, outputs = (_ports(trt, network, kind) for kind in ("input", "output"))
    if problem := misfit(inputs, outputs, program):
        raise ValueError(f"it is not the program it is said to be: {problem}")


def _config(trt: ModuleType, builder: Any, order: Order, log: Log) -> Any:
    """Configure the builder. Raises ValueError with its words where it refuses a setting: it logs an
    error, and goes on.
    """
    config, settings, before = builder.create_builder_config(), order.settings, len(log.errors)
    if capability := settings.get("compute_capability"):
        config.num_compute_capabilities = 1
        known = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
        if not config.set_compute_capability(
            known, 0
        ):  # it would build for the GPU that is here, without a word
            raise ValueError(f"it does not build for compute capability {capability}")
    if workspace := settings.get("workspace_bytes"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, max(workspace, WORKSPACE_BYTES.least))
    if (level := settings.get("optimization_level")) is not None:
        config.builder_optimization_level = level
    if log.errors[before:]:
        told = ", ".join(f"{name} {value}" for name, value in settings.items())
        raise ValueError(f"it does not take these settings: {told}")
    if order.timing_cache is not None:
        times = _known_times(order.timing_cache)
        cache = config.create_timing_cache(times) or config.create_timing_cache(
            b""
        )  # one of another version is not taken
        config.set_timing_cache(cache, False)
    return config


def _known_times(path: Path) -> bytes:
    """Read the timing cache; nothing where there is none, or none that may be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _keep_times(config: Any, path: Path | None) -> dict[str, Any] | None:
    """Write the timing cache back; its size, and its sha256 before the build (None: there was none) and after
    it.

    Where the folder cannot be written, the next build measures anew.
    """
    cache = config.get_timing_cache() if path is not None else None
    if path is None or cache is None:
        return None
    times = _known_times(path)
    content = bytes(cache.serialize())
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    before = hashlib.sha256(times).hexdigest() if times else None
    return {"bytes": len(content), "sha256_before": before, "sha256": hashlib.sha256(content).hexdigest()}


def _ports(trt: ModuleType, network: Any, kind: str) -> list[Port]:
    tensors = [getattr(network, f"get_{kind}")(index) for index in range(getattr(network, f"num_{kind}s"))]
    return [(trt.nptype(tensor.dtype).__name__, tuple(tensor.shape)) for tensor in tensors]


def monitor(trt: ModuleType, pipe: Connection) -> Any:
    """A progress monitor that sends the name of each phase, with the share of it that is done."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            pipe.send(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if (steps := self.steps.get(phase_name, 0)) >= 10:
                pipe.send(f"{phase_name} {100 * (step + 1) // steps} %")
            return True

        def phase_finish(self, phase_name: str) -> None: ...

    return Monitor()
