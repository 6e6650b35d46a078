"""OpenVINO on the CPU.

`compile` keeps what OpenVINO compiled (`export_model`); `load` imports it, which takes less than half the
time of compiling again, and gives the graph that was checked on the golden frames. Such a file belongs to one
OpenVINO version and one instruction set, which the engine's fingerprint holds. It has all the weights, as
float32.

INT8 needs VNNI on x86: without it, every kernel here but that of depthwise convolutions adds products of
bytes in 16 bits, which saturate (2026.4; `jit_avx2_I8`, `jit_avx2_1x1_I8` and `jit_gemm_i8` of its oneDNN).
No form helps that keeps its integers, and weights of 7 bits, which cannot saturate, were no faster than
float.

The precision of the arithmetic is always named. Left alone, OpenVINO takes bfloat16 wherever the processor
has it, and says nothing: `options["precision_hint"]` is "f32" unless another is asked for, and one that the
processor lacks is refused.

The image is copied into OpenVINO's own input buffer, the class map out of its output buffer; nothing is
allocated for a frame but the class map that the caller gets.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeseg.contracts import NO_OPTIONS, Option
from edgeseg.devices.integers import Integers, check_exact
from edgeseg.devices.machine import Machine, detect
from edgeseg.engines.options import THREADS
from edgeseg.engines.session import Port, ProgramSession, misfit
from edgeseg.errors import BuildError, BundleError, Unsupported, require
from edgeseg.specs import Form, ImageU8, MaskU8, Precision, Program

PRECISION_HINTS = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
"""Values of `options["precision_hint"]`, and what OpenVINO calls the capability of the processor that each
needs.
"""
OPTIONS = {
    "threads": THREADS,
    "precision_hint": Option(
        str,
        "compute in this precision only; by default in each that the processor has",
        tuple(PRECISION_HINTS),
    ),
}
EXPORTS: Mapping[Precision, Form] = {"float": Form.CPU_OPENVINO, "int8": Form.QDQ}
_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"


class OpenVino:
    """The backend; needs the option `threads`. Left alone it computes in float32."""

    name = "openvino"
    options = OPTIONS
    on_accelerator = False
    exports = EXPORTS

    def __init__(self, machine: Machine | None = None) -> None:
        self._given = machine

    @cached_property
    def _integers(self) -> Integers:
        return (self._given or detect()).integers

    def form_for(self, precision: Precision) -> Form | None:
        """INT8: the canonical form, which its own quantizer writes too. None for half precision, which is an
        option here.
        """
        return self.exports.get(precision)

    def version(self) -> str:
        return "-".join(
            _openvino().__version__.split("-")[:2]
        )  # release and build number; the commit and branch follow

    def variants(self, wanted: Mapping[str, Any] = NO_OPTIONS) -> Sequence[Mapping[str, Any]]:
        """Each precision that this processor computes in, or the one that is wanted."""
        capabilities = lasting_core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        here = [hint for hint, needed in PRECISION_HINTS.items() if needed in capabilities]
        asked = wanted.get("precision_hint")
        if asked not in (None, *here):
            raise Unsupported(
                f"openvino does not compute in {asked} on this processor",
                hint=f"precision_hint: {', '.join(here)}",
            )
        return [{**wanted, "precision_hint": hint} for hint in here if asked in (None, hint)]

    def compile(self, program: Program, out_dir: Path, options: Mapping[str, Any]) -> Sequence[Path]:
        """One file, the compiled graph. Raises BuildError where OpenVINO refuses the program, Unsupported
        where it would compute it wrongly here."""
        check_computes(program, self._integers)
        core = lasting_core()
        hint = options.get("precision_hint", "f32")
        if {"precision_hint": hint} not in self.variants():  # OpenVINO would take another without a word
            raise BuildError(
                f"openvino does not compute in {hint!r} on this processor",
                hint="leave precision_hint out: f32",
            )
        try:
            model = core.read_model(program.onnx_path)
            if problem := misfit(_ports(model.inputs), _ports(model.outputs), program):
                raise BuildError(
                    f"{program.onnx_path} is not the program it is said to be: {problem}",
                    hint="edgeseg export RECIPE",
                )
            compiled = core.compile_model(model, _DEVICE, _settings(options)).export_model()
        except RuntimeError as error:
            raise BuildError(
                f"openvino refuses {program.onnx_path}: {_gist(error)}", hint="edgeseg export RECIPE"
            ) from error
        engine = out_dir / "engine.blob"
        engine.write_bytes(compiled.getbuffer())
        return [engine]

    def load(self, program: Program, files: Sequence[Path], options: Mapping[str, Any]) -> OpenVinoSession:
        """Open the file that `compile` wrote. Raises BundleError where OpenVINO refuses it, Unsupported as
        `compile`.
        """
        check_computes(program, self._integers)
        (engine,) = files
        rebuild = "edgeseg build BUNDLE --force"
        try:
            compiled = lasting_core().import_model(engine.read_bytes(), _DEVICE, _settings(options))
        except RuntimeError as error:
            raise BundleError(f"openvino refuses {engine}: {_gist(error)}", hint=rebuild) from error
        if problem := misfit(_ports(compiled.inputs), _ports(compiled.outputs), program):
            raise BundleError(f"{engine} is not an engine of its program: {problem}", hint=rebuild)
        return OpenVinoSession(program, compiled)


class OpenVinoSession(ProgramSession):
    """An `edgeseg.contracts.Session`."""

    def __init__(self, program: Program, compiled: Any) -> None:
        super().__init__(program)
        self._request = compiled.create_infer_request()

    def _run(self, pixels: ImageU8) -> MaskU8:
        np.copyto(self._request.get_input_tensor().data, pixels)
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise BundleError(
                f"openvino failed on an image: {_gist(error)}",
                hint="check free memory; edgeseg bundle verify BUNDLE --run",
            ) from error
        mask: MaskU8 = self._request.get_output_tensor().data.copy()
        return mask

    def _release(self) -> None:
        self._request = None


def check_computes(program: Program, integers: Integers) -> None:
    """Raise Unsupported where OpenVINO would compute a program wrongly on a processor."""
    if program.precision == "int8":
        check_exact("openvino", integers)


def _openvino() -> ModuleType:
    """The package, without its telemetry: that would leave files in the home folder, and a process that tells
    Google Analytics of every import. OpenVINO does without where the package that it uses for it is not
    installed."""
    unknown = _TELEMETRY not in sys.modules
    if unknown:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # which importing it takes for "not there"
    try:
        return require("openvino", extra="openvino", purpose="build and run engines with OpenVINO")
    finally:
        if unknown:
            del sys.modules[_TELEMETRY]


@cache
def lasting_core() -> Any:
    """The one core of this process, never let go.

    The CPU plugin that it loads gives the thread it is made on a stack for signal handlers, and unmaps that
    stack when the last core goes, on whichever thread that happens; the next Ctrl-C, or child that ends,
    would then kill the process.
    """
    return _openvino().Core()


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": options["threads"],
        "INFERENCE_PRECISION_HINT": options.get("precision_hint", "f32"),
        "NUM_STREAMS": 1,
    }


def _ports(ports: Sequence[Any]) -> list[Port]:
    """A side that is not fixed is -1, which fits no program."""
    return [
        (
            port.get_element_type().to_dtype().name,
            tuple(side.get_length() if side.is_static else -1 for side in port.get_partial_shape()),
        )
        for port in ports
    ]


def _gist(error: RuntimeError) -> str:
    """OpenVINO's message without the lines that name its own source files."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("Exception from src", "Check '")))
