"""Other people's quantizers, as their documents say to use them, each in a process of its own.

python benchmarks/common/int8_rivals.py onnxruntime-s8|onnxruntime-u8|nncf PROGRAM.onnx IMAGES.npy OUT
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.specs import ImageU8


def quantize(rival: str, program: Path, images: Path, out: Path) -> Path:
    """Let another process quantize a program with the images of a file, (N, H, W, 3) uint8; returns `out`."""
    subprocess.run(
        [sys.executable, __file__, rival, str(program), str(images), str(out)], check=True, stdout=sys.stderr
    )
    return out


def onnxruntime_int8(program: Path, activations: str, images: Sequence[ImageU8], out: Path) -> None:
    """ONNX Runtime's static quantizer: pre-processed, per channel, convolutions and products; activations
    "s8" or "u8".
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self.left: Iterator[ImageU8] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"image": np.ascontiguousarray(image[np.newaxis])}

    prepared = out.with_suffix(".prepared")
    quant_pre_process(str(program), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        per_channel=True,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        activation_type=QuantType.QInt8 if activations == "s8" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def nncf_int8(program: Path, images: Sequence[ImageU8], out: Path) -> None:
    """NNCF's post-training quantization for OpenVINO, with its preset for transformers."""
    import nncf
    import openvino

    data = nncf.Dataset(
        [image[np.newaxis] for image in images], lambda image: {0: np.ascontiguousarray(image)}
    )
    model = nncf.quantize(
        openvino.Core().read_model(program),
        data,
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(model, out, compress_to_fp16=False)


def main() -> None:
    rival, program, images, out = sys.argv[1:]
    kind, _, activations = rival.partition("-")
    if kind == "onnxruntime":
        onnxruntime_int8(Path(program), activations, list(np.load(images)), Path(out))
    else:
        nncf_int8(Path(program), list(np.load(images)), Path(out))


if __name__ == "__main__":
    main()
