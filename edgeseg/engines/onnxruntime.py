"""ONNX Runtime on the CPU.

`compile` lets ONNX Runtime optimise the program at its highest level and keeps the result as the engine file; `load` opens
that file with optimisation off. Compared with optimising at every load, the session opens in about half the time, runs as
fast, and is exactly the graph that was checked on the golden frames. The highest level chooses convolution layouts (NCHWc
blocks) by the width of the vector unit, so the file belongs to one instruction set, which the engine's fingerprint holds.
The file is larger than a program whose weights are stored as fp16: the casts are folded.

It is in ONNX Runtime's own format, which holds every weight and cannot name another file. As ONNX, it would read those weights
that the optimiser left alone from the file that programs share, which does not lie beside it.

Spinning (`options["spinning"]`) is off unless asked for. Worker threads that spin for their next piece of work gain some
percent on an idle machine, and more than double the latency where the reader and the writer of a stream share the cores.

Plain `run` is used rather than I/O binding: on the CPU, binding saves one copy of the image and the mask, which cannot be
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import BuildError, BundleError, Unsupported
from edgeseg.images import resize_image, resize_mask
from edgeseg.specs import ImageU8, MaskU8, Program

if TYPE_CHECKING:
    from typing_extensions import Self

_PROVIDERS = ["CPUExecutionProvider"]
_ERROR = 3  # of ONNX Runtime's log levels; below it, compile warns that the file is for this machine, which is the point


class OnnxRuntime:
    """The backend. Options: `threads` (int, required) and `spinning` (bool, default False)."""

    name = "onnxruntime"

    def version(self) -> str:
        return str(_ort().__version__)

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """One file, the optimised graph. Raises BuildError where ONNX Runtime refuses the program."""
        ort = _ort()
        settings = _settings(ort, options)
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.add_session_config_entry("session.save_model_format", "ORT")
        engine = out_dir / "engine.ort"
        settings.optimized_model_filepath = str(engine)
        try:
            session = ort.InferenceSession(str(program.onnx_path), settings, providers=_PROVIDERS)
        except _failures(ort) as error:
            raise BuildError(f"onnxruntime refuses {program.onnx_path}: {error}", hint="edgeseg export RECIPE") from error
        if problem := _misfit(session, program):
            raise BuildError(f"{program.onnx_path} is not the program it is said to be: {problem}", hint="edgeseg export RECIPE")
        return [engine]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> OnnxRuntimeSession:
        """Open the file that `compile` wrote. Raises BundleError where ONNX Runtime refuses it."""
        ort = _ort()
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


class OnnxRuntimeSession:
    """An `edgeseg.contracts.Session`."""

    def __init__(self, program: Program, session: Any) -> None:
        self.program = program
        self._session = session
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def infer(self, image_rgb: ImageU8) -> MaskU8:
        wanted = (*self.program.image.size_hw, 3)
        if image_rgb.shape != wanted or image_rgb.dtype != np.uint8:
            raise ValueError(f"the image is {image_rgb.dtype} {image_rgb.shape}, the program takes uint8 {wanted}")
        if self._session is None:
            raise ValueError("the session is closed")
        pixels = image_rgb if self.program.image.layout == "HWC" else image_rgb.transpose(2, 0, 1)
        try:
            (labels,) = self._session.run([self._output], {self._input: np.ascontiguousarray(pixels[np.newaxis])})
        except _failures(_ort()) as error:
            raise BundleError(
                f"onnxruntime failed on an image: {error}", hint="check free memory; edgeseg bundle verify BUNDLE --run"
            ) from error
        mask: MaskU8 = labels.reshape(self.program.mask_shape)
        return mask

    def segment(self, image_rgb: ImageU8) -> MaskU8:
        if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8:
            raise ValueError(f"the image is {image_rgb.dtype} {image_rgb.shape}, not uint8 (H, W, 3)")
        mask = self.infer(resize_image(image_rgb, self.program.image.size_hw))
        return resize_mask(mask, image_rgb.shape[:2])

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


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
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.get("spinning", False) else "0")
    settings.log_severity_level = _ERROR
    return settings


def _failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises about a file; its exceptions have no base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def _misfit(session: Any, program: Program) -> str | None:
    """How the graph's input and output differ from what the program says; None where they fit."""
    inputs = [(i.type, tuple(i.shape)) for i in session.get_inputs()]
    wanted = [("tensor(uint8)", program.image.input_shape)]
    if inputs != wanted:
        return f"it takes {inputs}, not {wanted}"
    outputs = [(o.type, tuple(side for side in o.shape if side != 1)) for o in session.get_outputs()]
    wanted_out = [("tensor(uint8)", tuple(side for side in program.mask_shape if side != 1))]
    if outputs != wanted_out:
        return f"it gives {outputs}, not {wanted_out} (sides of 1 left out)"
    return None
