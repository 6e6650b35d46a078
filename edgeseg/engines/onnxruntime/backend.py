"""ONNX Runtime: on the CPU, and on a GPU where `options["provider"]` says so.

On a GPU, an engine is a copy of the program, and the provider compiles it when it is opened
(`onnxruntime_providers`). What follows is about the CPU.

`compile` lets ONNX Runtime optimise the program at its highest level and keeps the result as the engine file;
`load` opens that file with optimisation off. Compared with optimising at every load, the session opens in
about half the time, runs as fast, and is exactly the graph that was checked on the golden frames. The highest
level chooses convolution layouts (NCHWc blocks) by the width of the vector unit, so the file belongs to one
instruction set, which the engine's fingerprint holds. The file is larger than a program whose weights are
stored as fp16: the casts are folded.

It is in ONNX Runtime's own format, which holds every weight and cannot name another file. As ONNX, it would
read those weights that the optimiser left alone from the file that programs share, which does not lie beside
it.

Spinning (`options["spinning"]`) is off unless asked for. Worker threads that spin for their next piece of
work gain some percent on an idle machine, and more than double the latency where the reader and the writer of
a stream share the cores.

Plain `run` is used rather than I/O binding: on the CPU, binding saves one copy of the image and the mask,
which cannot be measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from edgeseg.contracts import NO_OPTIONS, Option
from edgeseg.devices.doctor.releases import INT8_BOUNDS
from edgeseg.devices.integers import integers_here
from edgeseg.devices.machine import Machine, detect
from edgeseg.engines.onnxruntime.providers import PROVIDERS, Bound, installed, open_on_gpu, providers_to_try
from edgeseg.engines.options import CUDA_GRAPH, OPTIMIZATION_LEVEL, THREADS, WORKSPACE_BYTES
from edgeseg.engines.session import ProgramSession, misfit
from edgeseg.errors import BuildError, BundleError, EdgesegError, Unsupported
from edgeseg.specs import DIALECTS, Form, ImageU8, MaskU8, Precision, Program

EXPORTS: Mapping[Precision, str] = {"float": Form.CPU, "int8": Form.QDQ}
_PROVIDERS = ["CPUExecutionProvider"]
# of ONNX Runtime's log levels; below it, compile warns that the file is for this machine, which is the point
_ERROR = 3
_TOO_OLD = (
    *("Could not find an implementation for", "is not a registered function/op", "is under development"),
    "Unsupported model IR",
)
"""Phrases by which it says that an operator, a type of one, or a version of ONNX came after it."""
OPTIONS = {
    "threads": THREADS,
    "provider": Option(
        str, "consider this provider only, beside the CPU; by default every one here", ("cpu", *PROVIDERS)
    ),
    "spinning": Option(bool, "threads spin for work: faster alone, slower in a stream; by default false"),
    "cuda_graph": replace(CUDA_GRAPH, text=f"cuda, tensorrt: {CUDA_GRAPH.text}"),
    "workspace_bytes": replace(
        WORKSPACE_BYTES, text="all but cpu: memory that they may take; by default no limit"
    ),
    "optimization_level": replace(OPTIMIZATION_LEVEL, text=f"tensorrt: {OPTIMIZATION_LEVEL.text}"),
}


class OnnxRuntime:
    """The backend; needs the option `threads`."""

    name = "onnxruntime"
    options = OPTIONS
    exports = EXPORTS

    def __init__(self, machine: Machine | None = None) -> None:
        self._given = machine

    @cached_property
    def _machine(self) -> Machine:
        return self._given or detect()

    @property
    def on_accelerator(self) -> bool:
        """True where there is a GPU and a provider for it; engines for the CPU are then bound to both."""
        return bool(self._gpu_providers())

    def form_for(self, precision: Precision) -> Form | None:
        """None for half precision without a GPU: a processor computes in it by casting. INT8: see
        `integers`.
        """
        if precision == "fp16":
            return Form.GPU if self._gpu_providers() else None
        if precision == "float":
            return Form.CPU
        return self._machine.integers.form

    def version(self) -> str:
        return str(_ort().__version__)

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """The CPU, and each provider that is installed where there is a GPU, or that which is wanted.
        Spinning would win on an idle machine, and lose in a stream."""
        return providers_to_try(_ort(), wanted, self._gpu_providers(), self._machine.accelerator)

    def _gpu_providers(self) -> list[str]:
        """The providers that are installed, where there is a GPU."""
        if not self._machine.accelerator:
            return []
        try:
            return [name for name in PROVIDERS if installed(_ort(), name)]
        except Unsupported:
            return []

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """One file, the optimised graph; for a GPU the program's own files.

        Raises:
            BuildError: ONNX Runtime refuses the program, or it is of a precision that this provider brings
                nothing.
            Unsupported: the provider is not here, or ONNX Runtime is too old for the program.
        """
        on_gpu = options.get("provider", "cpu") != "cpu"
        if program.precision == ("int8" if on_gpu else "fp16"):
            why = (
                "its INT8 programs are for processors"
                if on_gpu
                else "a processor computes in half precision by casting"
            )
            raise BuildError(
                f"no {program.precision} engine with this provider: {why}",
                hint="edgeseg build BUNDLE --runtime tensorrt",
            )
        if on_gpu:
            files = [
                Path(shutil.copyfile(file, out_dir / file.name))
                for file in (program.onnx_path, *program.blobs)
            ]
            self._open_on_gpu(program, files, options, BuildError, "edgeseg export RECIPE").close()
            return files
        engine = out_dir / "engine.ort"
        session = open_program(program, options, engine, "ORT")
        if problem := _misfit(session, program):
            raise BuildError(
                f"{program.onnx_path} is not the program it is said to be: {problem}",
                hint="edgeseg export RECIPE",
            )
        return [engine]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> OnnxRuntimeSession:
        """Open what `compile` wrote. Raises BundleError where ONNX Runtime refuses it, Unsupported without
        its provider.
        """
        ort = _ort()
        if options.get("provider", "cpu") != "cpu":
            return self._open_on_gpu(program, files, options, BundleError, "edgeseg build BUNDLE --force")
        (engine,) = files
        settings = _settings(ort, options)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.add_session_config_entry("session.load_model_format", "ORT")
        rebuild = "edgeseg build BUNDLE --force"
        try:
            session = ort.InferenceSession(str(engine), settings, providers=_PROVIDERS)
        except _failures(ort) as error:
            raise BundleError(f"onnxruntime refuses {engine}: {error}", hint=rebuild) from error
        if problem := _misfit(session, program):
            raise BundleError(f"{engine} is not an engine of its program: {problem}", hint=rebuild)
        return OnnxRuntimeSession(program, session)

    def _open_on_gpu(
        self,
        program: Program,
        files: Sequence[Path],
        options: Mapping[str, Any],
        refused: type[EdgesegError],
        hint: str,
    ) -> OnnxRuntimeSession:
        """A session on a GPU. Raises `refused` where ONNX Runtime refuses the files, Unsupported without the
        provider.
        """
        ort = _ort()
        failures: tuple[type[Exception], ...] = (*_failures(ort), OSError)
        try:
            session = open_on_gpu(ort, _settings(ort, options), files, options, self._machine.accelerator)
        except failures as error:
            raise refused(
                f"onnxruntime refuses {files[0]} on {options['provider']}: {error}", hint=hint
            ) from error
        if problem := _misfit(session, program):
            raise refused(f"{files[0]} is not what it is said to be: {problem}", hint=hint)
        binds = PROVIDERS[options["provider"]].binds
        shapes = (tuple(session.get_inputs()[0].shape), tuple(session.get_outputs()[0].shape))
        return OnnxRuntimeSession(program, session, Bound(ort, session, *shapes) if binds else None)


def open_program(
    program: Program, options: Mapping[str, Any], optimised: Path, kind: Literal["ORT", "ONNX"]
) -> Any:
    """ONNX Runtime's session of a program, optimised at the highest level for this machine; the optimised
    graph is written too.

    Raises:
        BuildError, Unsupported: as `open_graph`.
    """
    settings = _settings(_ort(), options)
    settings.add_session_config_entry("session.save_model_format", kind)
    settings.optimized_model_filepath = str(optimised)
    return open_graph(str(program.onnx_path), program, settings, optimise=True)


def open_graph(graph: str | bytes, program: Program, settings: Any = None, *, optimise: bool) -> Any:
    """ONNX Runtime's session of a graph on the CPU: as an engine of it would run, or operator by operator.

    Args:
        graph: a file, or the bytes of one; that of the program, or one that computes more of it.
        settings: by default, of ONNX Runtime itself.
        optimise: at the highest level, with what this processor needs for the program's form; or not at all.
    Raises:
        BuildError: ONNX Runtime refuses the graph; Unsupported: it is too old for it.
    """
    ort, kept_apart = _ort(), []
    settings = settings or ort.SessionOptions()
    settings.log_severity_level = _ERROR
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if optimise and program.precision == "int8" and program.form not in DIALECTS:
        # It would make a Gemm of a product and its float bias, for which there is no integer operator.
        kept_apart.append("MatMulAddFusion")
        if (
            integers_here().saturates
        ):  # then the optimiser chooses the types of integer operators; both unsigned are exact
            settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(graph, settings, providers=_PROVIDERS, disabled_optimizers=kept_apart)
    except _failures(ort) as error:
        raise _refusal(ort, program, error) from error


def _refusal(ort: ModuleType, program: Program, error: Exception) -> EdgesegError:
    """Wrap what ONNX Runtime says of a program that it does not open, and what helps."""
    if not any(sign in str(error) for sign in _TOO_OLD):
        return BuildError(f"onnxruntime refuses {program.onnx_path}: {error}", hint="edgeseg export RECIPE")
    of_bounds = any(f"implementation for {operator}(" in str(error) for operator in ("Max", "Min"))
    return Unsupported(
        f"onnxruntime {ort.__version__} lacks what {program.onnx_path} is made of: {error}",
        hint=(
            f"edgeseg export RECIPE --force, which does without; or install onnxruntime {INT8_BOUNDS} or"
            " newer"
            if of_bounds
            else "pip install --upgrade onnxruntime"
        ),
    )


class OnnxRuntimeSession(ProgramSession):
    """An `edgeseg.contracts.Session`; with `bound`, on buffers of the GPU."""

    def __init__(self, program: Program, session: Any, bound: Bound | None = None) -> None:
        super().__init__(program)
        self._session, self._bound = session, bound
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def _run(self, pixels: ImageU8) -> MaskU8:
        labels: MaskU8
        try:
            if self._bound is not None:
                labels = self._bound.run(np.ascontiguousarray(pixels))
            else:
                (labels,) = self._session.run([self._output], {self._input: np.ascontiguousarray(pixels)})
        except _failures(_ort()) as error:
            raise BundleError(
                f"onnxruntime failed on an image: {error}",
                hint="check free memory; edgeseg bundle verify BUNDLE --run",
            ) from error
        return labels

    def _release(self) -> None:
        self._bound = None
        self._session = None


def _ort() -> ModuleType:
    # At the point of use: `edgeseg --help` and other runtimes do without.
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise Unsupported("onnxruntime is not installed", hint="pip install onnxruntime") from error
    module: ModuleType = onnxruntime
    return module


def _settings(ort: ModuleType, options: Mapping[str, Any]) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.get("spinning", False) else "0"
    )
    settings.log_severity_level = _ERROR
    return settings


def _failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    """List what ONNX Runtime raises about a file; its exceptions have no base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    return tuple(getattr(state, name) for name in names)


def _misfit(session: Any, program: Program) -> str | None:
    """Describe how the graph's input and output differ from what the program says; None where they fit."""
    inputs, outputs = (
        [(port.type.removeprefix("tensor(").removesuffix(")"), tuple(port.shape)) for port in ports]
        for ports in (session.get_inputs(), session.get_outputs())
    )
    return misfit(inputs, outputs, program)
