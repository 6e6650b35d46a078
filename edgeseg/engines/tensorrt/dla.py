"""Deep-learning accelerators (DLA) of Jetson modules: where there are any, what they compute, how much of a
network they took.

They compute in FP16 and INT8, in fixed functions for convolutional networks; the GPU computes what they
cannot. How a network says its precision to them, and whether there is DLA at all, hangs on the release of
TensorRT:

    10.0 to 10.7      JetPack 6, Orin. By the builder's flags, on a weakly typed network: FP16, and INT8 by
                      ranges of tensors. It takes no Q/DQ: a program's quantizers are taken out, and become
                      such ranges.
    10.8 to 11.4.0    none on a Jetson, JetPack 7.2 with 10.16 included
    11.4.1 on         JetPack 7.2.2 on AGX Orin. By the types of a strongly typed network: half precision, and
                      Q/DQ for INT8.

Where the network is weakly typed, layers in float32 are pinned to it, as the program has them. A layer is in
INT8 where its inputs and its outputs have ranges, else in half precision.

An engine holds a piece (a "DLA loadable") for every run of layers on DLA, and a core loads 16 at most. Work
on DLA cannot be recorded as a CUDA graph. An engine forgets its core: whoever opens it names it again.
Nothing of this was run on a DLA here.

Source: docs.nvidia.com/deeplearning/tensorrt, 11.4.1: "Working with DLA", "Strongly Typed Networks for DLA",
    "DLA Supported
Layers and Restrictions"; 10.16.1: release notes; 10.x: "Working with Quantized Types", and
samples/common/sampleEngines.cpp of trtexec; NVIDIA/TensorRT#2222 and NVIDIA/Model-Optimizer#1661 (Q/DQ),
NVIDIA/TensorRT#3524 (CUDA graphs).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.contracts import NO_OPTIONS
from edgeseg.devices.catalog import load_catalog
from edgeseg.devices.machine import Machine
from edgeseg.errors import Unsupported
from edgeseg.specs import Precision

MAX_PIECES = 16
"""That one core can hold at a time."""
MUCH = 0.2
"""Share of the layers on the GPU from which on a user is told of it."""
_IN_INT8 = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def check_core(core: int, machine: Machine, version: str) -> None:
    """Raise Unsupported where a machine has no such accelerator, by the catalogue, or its TensorRT does not
    build for it.

    Args:
        version: of TensorRT.
    """
    found = load_catalog().recognise(machine)
    module = next((device for device in found if device.kind == "jetson"), None)
    if machine.jetson is None:
        names = " + ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
        raise Unsupported(f"{names} has no DLA: dla_core is for Jetson modules", hint=_LEAVE_OUT)
    if module is not None and module.dla is not None:
        count = int(module.dla.value)
        if not count:
            raise Unsupported(f"{module.title} has no DLA", hint=_LEAVE_OUT)
        if core >= count:
            cores = "only core 0" if count == 1 else f"cores 0 to {count - 1}"
            raise Unsupported(
                f"{module.title} has no DLA core {core}: {cores}", hint="dla_core 0, or leave it out"
            )
    if not _supports(version):
        raise Unsupported(
            f"TensorRT {version} does not build for DLA: 10.8 to 11.4.0 do not on a Jetson",
            hint=(
                "JetPack 6.2 has TensorRT 10.3, which does; so does TensorRT 11.4.1 on AGX Orin with JetPack"
                " 7.2.2"
            ),
        )


_LEAVE_OUT = "leave dla_core out; edgeseg devices orin says which modules have one"


def refusal(precision: Precision) -> str | None:
    """Return why DLA does not compute a program of this precision; None: it does."""
    return (
        "DLA computes in FP16 and INT8 only, and this program is in float32" if precision == "float" else None
    )


def strongly_typed(version: str) -> bool:
    """Tell whether a network for DLA says its precision by its types."""
    return _release(version)[0] >= 11


def _supports(version: str) -> bool:
    return _release(version) < (10, 8) or _release(version) >= (11, 4, 1)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def send(
    trt: ModuleType,
    builder: Any,
    config: Any,
    network: Any,
    core: int,
    ranges: Mapping[str, float] = NO_OPTIONS,
) -> dict[str, Any]:
    """Send a network to a DLA core, with the GPU for what it cannot do. To be called before the network is
    built.

    Args:
        ranges: of the tensors of an INT8 program without its quantizers; see `implicit`.
    Returns:
        core; layers: how many there are, constants left out; on_dla: how many of them DLA takes; pieces: runs
        of layers that it takes, by their order in the network, which is about what the engine holds; on_gpu:
        operator -> how many of its layers stay on the GPU, the most frequent first.
    Raises:
        ValueError: the device has no such core, or the network has no tensors of these names.
    """
    if core >= builder.num_DLA_cores:
        raise ValueError(
            f"this device has {builder.num_DLA_cores} DLA cores; dla_core {core} is none of them"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    layers = [layer for layer in layers if layer.type != trt.LayerType.CONSTANT]
    if not strongly_typed(trt.__version__):
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        _pin_float(trt, layers, ranges)
        if ranges:
            config.set_flag(trt.BuilderFlag.INT8)
            _tell_ranges(network, layers, ranges)
    taken = [bool(config.can_run_on_DLA(layer)) for layer in layers]
    left = Counter(layer.type.name for layer, on_dla in zip(layers, taken, strict=True) if not on_dla)
    return {
        "core": core,
        "layers": len(layers),
        "on_dla": sum(taken),
        "pieces": sum(on_dla for on_dla, _ in groupby(taken)),
        "on_gpu": dict(left.most_common()),
    }


def _pin_float(trt: ModuleType, layers: Sequence[Any], ranges: Mapping[str, float]) -> None:
    """Pin to float32 what the program computes in it: without strong typing the builder may compute it in
    half precision.

    Where the program has float32 between its integers, its INT8 layers give that, and are left alone.
    """
    for layer in layers:
        read = (layer.get_input(index) for index in range(layer.num_inputs))
        in_int8 = layer.type.name in _IN_INT8 and any(
            tensor is not None and tensor.name in ranges for tensor in read
        )
        in_float = layer.num_outputs and layer.get_output(0).dtype == trt.float32
        if in_float and not in_int8 and layer.type != trt.LayerType.CAST:
            layer.precision = trt.float32


def _tell_ranges(network: Any, layers: Sequence[Any], ranges: Mapping[str, float]) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    found = {tensor.name: tensor for tensor in tensors}
    if lost := set(ranges) - set(found):
        raise ValueError(f"its network has no tensor {min(lost)}, whose range the program gives")
    for name, most in ranges.items():
        found[name].dynamic_range = (-most, most)


def told(report: dict[str, Any]) -> str:
    """Describe what `send` found, in one line."""
    line = (
        f"DLA core {report['core']} takes {report['on_dla']} of {report['layers']} layers, in"
        f" {report['pieces']} pieces"
    )
    left = ", ".join(f"{count} {operator}" for operator, count in report["on_gpu"].items())
    return f"{line}; the GPU computes {left}" if left else line


def hint(facts: Path) -> str:
    """Return what to know of an engine, by the facts beside it, where the GPU computes much of what DLA was
    to do; else "".
    """
    report = json.loads(facts.read_text()).get("dla")
    if report is None or not report["layers"]:
        return ""
    much = 1 - report["on_dla"] / report["layers"] >= MUCH
    if not much and report["pieces"] <= MAX_PIECES:
        return ""
    limit = f"; a core holds {MAX_PIECES} pieces at most" if report["pieces"] > MAX_PIECES else ""
    return f"{told(report)}{limit}; each hand-over costs time"
