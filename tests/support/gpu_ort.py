"""ONNX Runtime of a GPU build, whose sessions run on the processor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from edgeseg.engines.onnxruntime.providers import PROVIDERS

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
RTX = PROVIDERS["nv_tensorrt_rtx"].title


class Value:
    """A buffer on the GPU."""

    def __init__(self, shape: list[int]) -> None:
        self.data = np.zeros(shape, np.uint8)

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.data[...] = array

    def numpy(self) -> np.ndarray:
        return self.data.copy()


class GpuOrt:
    """ONNX Runtime of a GPU build: sessions run on the processor, and say that they run on the provider they
    were asked for.

    Args:
        has: titles of its providers.
        lost: providers do not come up, as where cuDNN is missing: ONNX Runtime falls back to the processor.
    """

    def __init__(self, *has: str, lost: bool = False, error: Exception | None = None) -> None:
        self.has, self.lost, self.error = has, lost, error
        self.asked: list[Any] = []
        self.libraries: list[str] = []
        self.bound = 0
        self.__version__ = "1.31.1"
        self.OrtValue = SimpleNamespace(
            ortvalue_from_shape_and_type=lambda shape, kind, device, index: Value(shape)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [*self.has, "CPUExecutionProvider"]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.libraries.append(path)

    def get_ep_devices(self) -> list[Any]:
        return [SimpleNamespace(ep_name=RTX)] if self.libraries else []

    def SessionOptions(self) -> Any:
        return Settings()

    def InferenceSession(self, path: str, settings: Any, providers: Any = None, **rest: Any) -> Any:
        self.asked.append((settings, providers))
        if self.error:
            raise self.error
        real = onnxruntime.InferenceSession(path, settings.real, providers=["CPUExecutionProvider"])
        titles = [
            one if isinstance(one, str) else one[0] for one in providers or [settings.devices[0][0].ep_name]
        ]
        return Session(
            self, real, ["CPUExecutionProvider"] if self.lost else [*titles, "CPUExecutionProvider"]
        )


class Settings:
    """Session options that keep what they were told."""

    def __init__(self) -> None:
        object.__setattr__(self, "real", onnxruntime.SessionOptions())
        object.__setattr__(self, "entries", {})
        object.__setattr__(self, "devices", [])

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.devices.extend((device, options) for device in devices)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


class Session:
    def __init__(self, ort: GpuOrt, real: Any, titles: list[str]) -> None:
        self._ort, self._real, self._titles = ort, real, titles

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return self._titles

    def io_binding(self) -> Any:
        made = SimpleNamespace()
        made.bind_ortvalue_input = lambda name, value: setattr(made, "image", value)
        made.bind_ortvalue_output = lambda name, value: setattr(made, "mask", value)
        return made

    def run_with_iobinding(self, binding: Any) -> None:
        self._ort.bound += 1
        binding.mask.data[...] = self._real.run(None, {self._real.get_inputs()[0].name: binding.image.data})[
            0
        ]
