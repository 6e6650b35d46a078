"""TensorRT-RTX: engines for NVIDIA's RTX graphics cards, compiled on any machine; none of them has to be there.

An engine is for one compute capability and one release of TensorRT-RTX, and runs on Linux and on Windows. The card's driver makes
its kernels when the engine is first opened there. This version compiles only: `load` raises Unsupported.

The network is strongly typed: each operator computes in the type that the program gives it, in a float program float32.

The builder works in a process of its own, so that one that runs out of memory or crashes ends nothing else. It is spawned: a
script that builds needs the usual `if __name__ == "__main__":`.

Source: docs.nvidia.com/deeplearning/tensorrt-rtx, "CPU-Only AOT and TensorRT-RTX Engines", "Engine Compatibility".
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.contracts import NoProgress, Progress, Session
from edgeseg.engines.session import misfit
from edgeseg.engines.tensorrt_graph import cast_first
from edgeseg.errors import BuildError, Unsupported, require
from edgeseg.specs import Precision, Program, canonical_form

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What an engine can be built for: values of `options["compute_capability"]`."""
ENGINE, FACTS = "engine.rtx", "engine.json"
_TASK = "TensorRT-RTX"


class TensorRtRtx:
    """The backend. Option: `compute_capability` (one of `COMPUTE_CAPABILITIES`, required)."""

    name = "tensorrt_rtx"

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or NoProgress()

    def form_for(self, precision: Precision) -> str:
        return canonical_form(precision)

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
        self._run(program, out_dir, capability)
        return [out_dir / ENGINE, out_dir / FACTS]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> Session:
        raise Unsupported(
            f"edgeseg compiles TensorRT-RTX engines, but does not run them: {files[0]} is for NVIDIA's own runtime",
            hint=f"on the card, open it with tensorrt_rtx {self.version()}; for an engine that runs here: edgeseg build BUNDLE",
        )

    def _run(self, program: Program, out_dir: Path, capability: str) -> None:
        """Build in a child process and pass on what it says."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_build, args=(theirs, program, out_dir, capability), daemon=True)
        refused: list[str] | None = None
        self._progress.start(_TASK, None)
        try:
            child.start()
            theirs.close()
            while (said := _receive(ours)) is not None:
                if isinstance(said, list):
                    refused = said
                else:
                    self._progress.advance(_TASK, 0, phase=said)
            child.join()
        finally:
            child.kill()
            child.join()
            ours.close()
            self._progress.finish(_TASK)
        if refused:
            raise BuildError(f"tensorrt_rtx refuses {program.onnx_path}: {'; '.join(refused)}", hint="edgeseg export RECIPE")
        if child.exitcode:
            how = signal.Signals(-child.exitcode).name if child.exitcode < 0 else f"exit code {child.exitcode}"
            raise BuildError(
                f"the process that built {program.onnx_path} with tensorrt_rtx ended early ({how})",
                hint="SIGKILL is the system's answer to too little memory: free some, or build on a larger machine",
            )


def _receive(pipe: Connection) -> Any:
    """What the child says next; None once it has ended."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def _rtx() -> ModuleType:
    return require("tensorrt_rtx", extra="rtx", purpose="build engines for RTX graphics cards")


def _build(pipe: Connection, program: Program, out_dir: Path, capability: str) -> None:
    """The child: write the engine and its facts, or send a list of what TensorRT-RTX says against the program.

    On the way, it sends the name of each phase of the build.
    """
    rtx = _rtx()
    errors: list[str] = []
    logger = _logger(rtx, errors)
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    try:
        graph = cast_first(program.onnx_path.read_bytes())
    except (OSError, ValueError) as error:
        return pipe.send([str(error)])
    if not parser.parse(graph, str(program.onnx_path)):  # the path is where weights beside the graph are looked for
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        return pipe.send(
            [" ".join(f"{one.node_operator()} {one.node_name()}: {one.desc()}".split()) for one in problems] or errors
        )
    inputs, outputs = (_ports(rtx, network, kind) for kind in ("input", "output"))
    if problem := misfit(inputs, outputs, program):
        return pipe.send([f"it is not the program it is said to be: {problem}"])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    config.progress_monitor = _monitor(rtx, pipe)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return pipe.send(errors or ["it gives no reason"])
    facts = {
        "runtime": TensorRtRtx.name,
        "runtime_version": rtx.__version__,
        "compute_capability": capability,
        "strongly_typed": True,
        "layers": network.num_layers,
        "engine_header_bytes": rtx.Runtime(logger).engine_header_size,
        "inputs": inputs,
        "outputs": outputs,
    }
    (out_dir / ENGINE).write_bytes(engine)
    (out_dir / FACTS).write_text(json.dumps(facts, indent=2))
    return None


def _ports(rtx: ModuleType, network: Any, kind: str) -> list[tuple[str, tuple[int, ...]]]:
    tensors = [getattr(network, f"get_{kind}")(index) for index in range(getattr(network, f"num_{kind}s"))]
    return [(rtx.nptype(tensor.dtype).__name__, tuple(tensor.shape)) for tensor in tensors]


def _logger(rtx: ModuleType, errors: list[str]) -> Any:
    """A TensorRT-RTX logger that keeps errors and drops the rest."""

    class Logger(rtx.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= rtx.ILogger.ERROR:
                errors.append(message.strip())

    return Logger()


def _monitor(rtx: ModuleType, pipe: Connection) -> Any:
    """A TensorRT-RTX progress monitor that sends the name of each phase."""

    class Monitor(rtx.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rtx.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            pipe.send(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None: ...

    return Monitor()
