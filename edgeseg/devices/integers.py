"""Products of bytes on a processor: which form of an INT8 program ONNX Runtime computes exactly and fast on
it, what computes wrongly there, and whether INT8 can be faster than float at all. The only place that decides
so.

An INT8 product is a sum of products of bytes. VNNI on x86, and the dot products of ARM, add them up in 32
bits. Without VNNI, x86 has one instruction for them: VPMADDUBSW multiplies unsigned bytes by signed ones and
adds each pair of products in 16 bits, which saturate: twice 255 * 127 is 64770, and comes out as 32767. ONNX
Runtime takes it for unsigned activations with signed weights. Where both are unsigned it widens them first,
which is exact, and about as fast as float. Where both are signed it has no kernel of its own on x86: exact,
and slow.

Measured with EDAFormer-T at 512x384 on two cores of an EPYC 9005 that hid its AVX-512 and VNNI from the
runtime: agreement with the quantized model on the worst golden frame 0.983 in the form `x86`, 0.995 in
`x86_u8u8`.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edgeseg.devices.instructions import X86_FLAGS, Processor, processor
from edgeseg.errors import Unsupported
from edgeseg.specs import Form

_X86 = ("x86_64", "amd64", "i686", "i386")
_VNNI = ("avx512_vnni", "avx_vnni")
_DOT_PRODUCTS = ("asimddp", "i8mm")
_FASTER_ON = (
    "x86 with VNNI (Intel from Ice Lake on, AMD from Zen 4), ARM with dot products, NVIDIA GPUs with TensorRT"
)


@dataclass(frozen=True, slots=True)
class Integers:
    """INT8 programs on a processor.

    Attributes:
        form: the one of `specs.DIALECTS` that ONNX Runtime computes exactly here, and fastest.
        saturates: sums of products of unsigned and signed bytes saturate here, or may.
        adds_by: the flag of the instructions that add products of bytes in 32 bits; "" where there are none.
        known: whether it has such instructions is.
    """

    form: Form
    saturates: bool
    adds_by: str
    known: bool = True

    @property
    def wrong(self) -> tuple[Form, ...]:
        """The forms that ONNX Runtime computes wrongly here: neither engine nor judge."""
        return (Form.ORT_X86,) if self.saturates else ()

    @property
    def lacks(self) -> str:
        """Missing instructions, as a clause; empty where it has all."""
        if self.adds_by:
            return ""
        instructions = "VNNI" if self.form != Form.ORT_ARM else "dot products of bytes"
        return (
            f"this processor has no {instructions}"
            if self.known
            else f"whether this processor has {instructions} is not known"
        )

    @property
    def outlook(self) -> str:
        """One line for people: whether INT8 can be faster than float on this processor."""
        if self.adds_by:
            return f"INT8 can be faster than float on this processor, by {self.adds_by}"
        pace = (
            "may take as long as float here"
            if not self.known or self.form == Form.ORT_ARM
            else "takes about as long as float here"
        )
        return (
            f"{self.lacks}: INT8 {pace}; it is smaller, exact in the form {self.form}, and faster on"
            f" {_FASTER_ON}"
        )


def integers(found: Processor, arch: str) -> Integers:
    """Judge how a processor computes INT8. What is unknown counts as not there: what is chosen then is exact
    on every one of its kind.

    Args:
        arch: of this interpreter, as `platform.machine` names it; it decides where no flag does.
    """
    x86 = any(flag in X86_FLAGS for flag in found.isa) if found.isa else arch.lower() in _X86
    instructions = _VNNI if x86 else _DOT_PRODUCTS
    adds_by = next((flag for flag in instructions if flag in found.isa), "")
    known = bool(found.isa) and not any(flag in found.isa_unknown for flag in instructions)
    form = (Form.ORT_X86 if adds_by else Form.ORT_X86_U8U8) if x86 else Form.ORT_ARM
    return Integers(form, saturates=x86 and not adds_by, adds_by=adds_by, known=known)


def integers_here() -> Integers:
    """Judge how the processor of this machine computes INT8."""
    return integers(processor(), platform.machine())


def check_exact(runtime: str, here: Integers) -> None:
    """Raise Unsupported where a runtime whose kernels multiply unsigned by signed bytes would compute INT8
    wrongly.
    """
    if here.saturates:
        raise Unsupported(
            f"{runtime} computes no INT8 here: {here.lacks}, and without it {runtime} adds products of bytes"
            " in 16 bits, which saturate",
            hint=(
                f"onnxruntime does, best in the form {here.form}: edgeseg build BUNDLE --runtime onnxruntime"
                " --force"
            ),
        )
