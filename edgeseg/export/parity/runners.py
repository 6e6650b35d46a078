"""Runs a program as a graph, with its logits beside its mask: what rungs of the parity ladder compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edgeseg.devices.integers import integers_here
from edgeseg.engines.onnxruntime.backend import open_graph
from edgeseg.engines.openvino import check_computes, lasting_core
from edgeseg.export.graph.cleanup import with_logits
from edgeseg.specs import ImageU8, MaskU8, Program


class Answer(NamedTuple):
    """Class map (h, w) uint8 and logits (1, K, h, w) float32 of one image, at the program's mask size."""

    mask: MaskU8
    logits: npt.NDArray[np.float32]


Runner = Callable[[ImageU8], Answer]
"""(H, W, 3) uint8 RGB of the program's size -> what the program makes of it."""


def pixels_of(program: Program, image_rgb: ImageU8) -> ImageU8:
    """The image as the program's graph takes it, batch 1."""
    pixels = image_rgb if program.image.layout == "HWC" else image_rgb.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def onnxruntime_runner(program: Program, *, optimised: bool) -> Runner:
    """ONNX Runtime on the CPU: as an engine of it would run here, or with every optimisation off, operator by
    operator.

    Raises:
        BuildError: ONNX Runtime refuses the program; Unsupported: it is too old for it.
    """
    session = open_graph(
        with_logits(onnx.load(program.onnx_path)).SerializeToString(), program, optimise=optimised
    )

    def run(image_rgb: ImageU8) -> Answer:
        mask, logits = session.run(["mask", "logits"], {"image": pixels_of(program, image_rgb)})
        return Answer(mask.reshape(program.mask_shape), logits)

    return run


def openvino_runner(program: Program) -> Runner:
    """OpenVINO on the CPU, in float32 wherever the program does not say INT8.

    Raises:
        Unsupported: it would compute this program wrongly here; MissingDependency: it is not installed.
    """
    check_computes(program, integers_here())
    graph = with_logits(onnx.load(program.onnx_path)).SerializeToString()
    compiled = lasting_core().compile_model(
        lasting_core().read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(image_rgb: ImageU8) -> Answer:
        found = compiled([pixels_of(program, image_rgb)])
        mask, logits = (np.array(found[compiled.output(name)]) for name in ("mask", "logits"))
        return Answer(mask.reshape(program.mask_shape), logits)

    return run


OTHERS: dict[str, Callable[[Program], Runner]] = {"openvino": openvino_runner}
"""Runtimes beside ONNX Runtime whose logits can be had, by name."""


def answers(runner: Runner, images: Sequence[ImageU8]) -> list[Answer]:
    return [runner(image) for image in images]
