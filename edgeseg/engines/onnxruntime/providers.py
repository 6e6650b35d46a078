"""ONNX Runtime on a GPU: its execution providers for CUDA, TensorRT and TensorRT-RTX.

    cuda              onnxruntime-gpu: CUDA kernels, operator by operator
    tensorrt          onnxruntime-gpu: TensorRT, and CUDA for what TensorRT does not take
    nv_tensorrt_rtx   a plug-in beside the ordinary onnxruntime: TensorRT-RTX, for RTX 30 and later

Nothing falls back to the processor: a session that did not get its provider, or that would leave a node to
the processor, is an error. What a provider compiles when a session opens is kept in the user's cache folder,
in one folder for each program, provider with its options, version and GPU, because ONNX Runtime itself does
not notice when one of these changes. Types are those that the program names: no provider is told to compute
in another. None of this was run on a GPU.

Source: onnxruntime.ai/docs/execution-providers, CUDA, TensorRT, "Plugin EP libraries";
    nvidia.github.io/TensorRT-RTX-EP-ABI.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.errors import Unsupported

_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_EVERYWHERE = ("threads", "spinning")
"""Options that mean something with every provider."""
_GPU_BUILD = (
    "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'; on a Jetson, the wheel that"
    " edgeseg doctor names"
)


@dataclass(frozen=True)
class Provider:
    """An execution provider.

    Attributes:
        title: what ONNX Runtime calls it.
        install: how it comes to a machine that lacks it.
        takes: the options that it reads.
        plugin: the package that brings it, where ONNX Runtime has it not built in.
        binds: images and masks can stay in buffers on the GPU, which CUDA graphs need.
    """

    title: str
    install: str
    takes: tuple[str, ...]
    plugin: str | None = None
    binds: bool = True


PROVIDERS = {
    "cuda": Provider("CUDAExecutionProvider", _GPU_BUILD, ("cuda_graph", "workspace_bytes")),
    "tensorrt": Provider(
        "TensorrtExecutionProvider", _GPU_BUILD, ("cuda_graph", "workspace_bytes", "optimization_level")
    ),
    "nv_tensorrt_rtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        "pip install onnxruntime-ep-nv-tensorrt-rtx",
        ("workspace_bytes",),
        _PLUGIN,
        binds=False,
    ),
}
"""Values of `options["provider"]` beside "cpu"."""


def installed(ort: ModuleType, name: str) -> bool:
    """Tell whether a provider is there; whether it runs, a session shows."""
    provider = PROVIDERS[name]
    if provider.plugin is not None:
        return (
            hasattr(ort, "register_execution_provider_library")
            and importlib.util.find_spec(provider.plugin) is not None
        )
    return provider.title in ort.get_available_providers()


def providers_to_try(
    ort: ModuleType, wanted: Mapping[str, Any], here: Sequence[str], place: str
) -> list[dict[str, Any]]:
    """The CPU first, then the providers that are here or wanted, each with what it reads of the options that
    are wanted.

    Args:
        here: providers that are installed, where there is a GPU.
        place: the GPU; "": there is none.
    Raises:
        Unsupported: the provider that is wanted is not here, or what is wanted means nothing to any that is
            considered.
    """
    asked: str | None = wanted.get("provider")
    if asked is not None and asked not in ("cpu", *here):
        if not place:
            raise Unsupported(
                f"onnxruntime's provider {asked} needs an NVIDIA GPU, and here is none",
                hint="edgeseg devices --here",
            )
        raise Unsupported(
            f"onnxruntime {ort.__version__} has no {PROVIDERS[asked].title} here",
            hint=PROVIDERS[asked].install,
        )
    chosen: dict[str, tuple[str, ...]] = {
        "cpu": (),
        **{name: PROVIDERS[name].takes for name in here if asked in (None, name)},
    }
    if (
        lost := set(wanted)
        - {"provider", *_EVERYWHERE}
        - {name for takes in chosen.values() for name in takes}
    ):
        raise Unsupported(
            f"{', '.join(sorted(lost))} means nothing to onnxruntime on {', '.join(chosen)}",
            hint="they are for its providers on a GPU: onnxruntime.provider=tensorrt takes them all",
        )
    return [
        {
            **({} if name == "cpu" else {"provider": name}),
            **{key: wanted[key] for key in wanted if key in (*_EVERYWHERE, *takes)},
        }
        for name, takes in chosen.items()
    ]


def open_on_gpu(
    ort: ModuleType, settings: Any, files: Sequence[Path], options: Mapping[str, Any], place: str
) -> Any:
    """ONNX Runtime's session of a graph on the provider that `options["provider"]` names.

    Args:
        settings: of the session; changed.
        files: the graph, and what it reads.
        place: the GPU, and whatever else its compiled kernels depend on.
    Raises:
        Unsupported: there is no such provider, it is not installed, or it did not come up on this machine.
        OSError: the cache folder cannot be written. And what ONNX Runtime raises where it refuses the graph,
            or where a node would be left to the processor.
    """
    name = options["provider"]
    if name not in PROVIDERS:
        raise Unsupported(
            f"onnxruntime has no provider {name!r}", hint=f"provider: cpu, {', '.join(PROVIDERS)}"
        )
    provider = PROVIDERS[name]
    if not installed(ort, name):
        raise Unsupported(
            f"onnxruntime {ort.__version__} has no {provider.title} here", hint=provider.install
        )
    read = {option: options[option] for option in provider.takes if option in options}
    cache = cache_folder() / _key(ort, files, name, read, place)
    cache.mkdir(parents=True, exist_ok=True)
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    told = provider_options(name, options, cache)
    if provider.plugin is not None:
        settings.add_provider_for_devices(_devices(ort, provider), told[0][1])
        session = ort.InferenceSession(str(files[0]), settings)
    else:
        session = ort.InferenceSession(str(files[0]), settings, providers=told)
    if provider.title not in session.get_providers():
        raise Unsupported(
            f"onnxruntime did not bring up {provider.title}: it would run on"
            f" {', '.join(session.get_providers())}",
            hint=(
                "edgeseg doctor; its CUDA, cuDNN and TensorRT must be those that this onnxruntime was"
                " built for"
            ),
        )
    return session


def provider_options(name: str, options: Mapping[str, Any], cache: Path) -> list[tuple[str, dict[str, str]]]:
    """Return what ONNX Runtime is told: each provider in turn, with its options, as texts.

    Args:
        options: `cuda_graph` (default True), `workspace_bytes` and `optimization_level`, of which each may be
            missing.
        cache: where compiled engines are kept.
    """
    graph = "1" if options.get("cuda_graph", True) else "0"
    workspace, level = options.get("workspace_bytes"), options.get("optimization_level")
    cuda = {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if name == "cuda":
        return [
            (PROVIDERS[name].title, _told({**cuda, "enable_cuda_graph": graph, "gpu_mem_limit": workspace}))
        ]
    if name == "nv_tensorrt_rtx":
        rtx = {"device_id": "0", "nv_runtime_cache_path": cache, "nv_max_workspace_size": workspace}
        return [(PROVIDERS[name].title, _told(rtx))]
    tensorrt = {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": cache,
        "trt_cuda_graph_enable": graph,
        "trt_max_workspace_size": workspace,
        "trt_builder_optimization_level": level,
    }
    return [(PROVIDERS[name].title, _told(tensorrt)), (PROVIDERS["cuda"].title, cuda)]


def cache_folder() -> Path:
    """Folder where providers keep what they compiled: `$XDG_CACHE_HOME/edgeseg/onnxruntime`, by default below
    ~/.cache.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg" / "onnxruntime"


class Bound:
    """A session whose image and mask stay in the same two buffers on the GPU from call to call.

    Args:
        session: ONNX Runtime's.
        in_shape, out_shape: of the one uint8 input and the one uint8 output.
    """

    def __init__(
        self, ort: ModuleType, session: Any, in_shape: tuple[int, ...], out_shape: tuple[int, ...]
    ) -> None:
        self._session, self._binding = session, session.io_binding()
        make = ort.OrtValue.ortvalue_from_shape_and_type
        self._image, self._mask = (make(list(shape), "uint8", "cuda", 0) for shape in (in_shape, out_shape))
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._image)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._mask)

    def run(self, pixels: Any) -> Any:
        """The class map of an image, in fresh memory."""
        self._image.update_inplace(pixels)
        self._session.run_with_iobinding(self._binding)
        return self._mask.numpy()


def _devices(ort: ModuleType, provider: Provider) -> list[Any]:
    """The GPU that a plug-in runs on. Raises Unsupported where it finds none."""
    plugin = importlib.import_module(provider.plugin or "")
    title = plugin.get_ep_name()
    if not any(device.ep_name == title for device in ort.get_ep_devices()):
        try:
            ort.register_execution_provider_library(title, plugin.get_library_path())
        except ort.capi.onnxruntime_pybind11_state.Fail as error:  # as where there is no driver
            raise Unsupported(
                f"{provider.title} cannot be loaded: {error}", hint="edgeseg doctor: it needs NVIDIA's driver"
            ) from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == title]
    if not devices:
        raise Unsupported(
            f"{provider.title} finds no GPU that it runs on",
            hint="it takes RTX 30 and later: edgeseg devices --here",
        )
    return devices[:1]


def _key(ort: ModuleType, files: Sequence[Path], name: str, options: Mapping[str, Any], place: str) -> str:
    sha = hashlib.sha256(json.dumps([name, ort.__version__, options, place]).encode())
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()[:32]


def _told(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}
