"""A module `tensorrt` that builds: what it is told is kept, and what it is told it checks as TensorRT does.

Source: NVIDIA/TensorRT, samples/common/sampleEngines.cpp and the Python API of 10.3 and 11.4: what a strongly
    typed network
excludes, and that settings out of range are logged, not raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

FLOAT, HALF, UINT8 = "float32", "float16", "uint8"


@dataclass
class Layer:
    """One layer; `precision` as it was pinned, `reads` and `writes` are names of tensors."""

    kind: str
    dtype: str = HALF
    on_dla: bool = False
    precision: str | None = None
    reads: str = ""
    writes: str = ""

    def __post_init__(self) -> None:
        self.output = SimpleNamespace(name=self.writes, dtype=self.dtype, dynamic_range=None)

    @property
    def type(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.kind)

    num_inputs = num_outputs = 1

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.reads)

    def get_output(self, index: int) -> Any:
        return self.output


@dataclass
class FakeTrt:
    """The module. `told` is what its builder's config was told; `flags` of the network it made.

    Args:
        layers: that its parser finds in any program.
        ports: shape of the program's input and of its output.
        cores: DLA cores of the device.
        most_bytes: of workspace.
    """

    __version__: str
    layers: Sequence[Layer]
    ports: tuple[tuple[int, ...], tuple[int, ...]]
    cores: int = 2
    most_bytes: int = 1 << 33
    told: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        major, minor = (int(part) for part in self.__version__.split(".")[:2])
        old = {"FP16": 0, "INT8": 1, "PREFER_PRECISION_CONSTRAINTS": 12} if major == 10 else {}
        self.BuilderFlag = SimpleNamespace(GPU_FALLBACK=3, **old)
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.OnnxParserFlag = SimpleNamespace(**({"ADJUST_FOR_DLA": 4} if (major, minor) >= (10, 16) else {}))
        self.DeviceType = SimpleNamespace(GPU="GPU", DLA="DLA")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.LayerType = SimpleNamespace(
            CONSTANT=SimpleNamespace(name="CONSTANT"), CAST=SimpleNamespace(name="CAST")
        )
        self.float32 = FLOAT

    class ILogger:
        ERROR, WARNING = 1, 2

        def __init__(self) -> None: ...

    class IProgressMonitor:
        def __init__(self) -> None: ...

    @staticmethod
    def nptype(dtype: str) -> type:
        import numpy as np

        kind: type = np.dtype(dtype).type
        return kind

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace()

    def Builder(self, logger: Any) -> Any:
        def create_network(flags: int) -> Any:
            self.told["strongly_typed"] = bool(flags & 2) or int(self.__version__.split(".")[0]) >= 11
            return _network(self)

        return SimpleNamespace(
            num_DLA_cores=self.cores,
            create_network=create_network,
            create_builder_config=lambda: Config(self, logger),
            build_serialized_network=lambda network, config: b"engine",
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        flags = self.told.setdefault("parser_flags", [])

        def parse(graph: bytes, path: str) -> bool:
            self.told["graph"] = graph
            return True

        return SimpleNamespace(parse=parse, set_flag=flags.append)


class Config:
    """A builder's config."""

    def __init__(self, trt: FakeTrt, logger: Any) -> None:
        self.__dict__.update(_trt=trt, _logger=logger)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "builder_optimization_level" and not 0 <= value <= 5:
            self._logger.log(1, f"builderOptimizationLevel {value} is not in [0, 5]")
        self._trt.told[name] = value

    def set_flag(self, flag: int) -> None:
        names = {number: name for name, number in vars(self._trt.BuilderFlag).items()}
        if self._trt.told["strongly_typed"] and names[flag] != "GPU_FALLBACK":
            raise AssertionError(f"{names[flag]} cannot be set with a strongly typed network")
        self._trt.told.setdefault("flags", set()).add(names[flag])

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        if size > self._trt.most_bytes:
            self._logger.log(1, f"the workspace of {size} bytes is more than the device has")
        self._trt.told[pool] = size

    def can_run_on_DLA(self, layer: Layer) -> bool:
        told = self._trt.told
        half = told["strongly_typed"] or "FP16" in told["flags"]
        return bool(layer.on_dla and half and told["default_device_type"] == "DLA" and layer.dtype == HALF)


def _network(trt: FakeTrt) -> Any:
    image, mask = (
        SimpleNamespace(name="", dtype=UINT8, shape=shape, dynamic_range=None) for shape in trt.ports
    )
    return SimpleNamespace(
        num_layers=len(trt.layers),
        get_layer=lambda index: trt.layers[index],
        num_inputs=1,
        get_input=lambda index: image,
        num_outputs=1,
        get_output=lambda index: mask,
    )
