"""ONNX Runtime's providers for GPUs, with a module that answers as ONNX Runtime does on a machine with one;
and without.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeseg.bundle.manifest import kind
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.onnxruntime.backend import OnnxRuntime
from edgeseg.engines.onnxruntime.providers import PROVIDERS, provider_options
from edgeseg.errors import BuildError, BundleError, Unsupported
from edgeseg.specs import Form
from gpu_ort import PLUGIN, RTX, GpuOrt
from tiny import outside_weights, tiny_bundle, tiny_image, tiny_mask, tiny_program

BARE = Machine("x86_64", "Linux", "", "", (), (), None, None, None, {})
CARD = Machine(
    "x86_64", "Linux", "", "a CPU", (), (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24.0),), None, None, None, {}
)
OPTIONS = {"threads": 1}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs an ONNX Runtime, and the plug-in where it is wanted."""

    def install(*has: str, plugin: bool = False, **how: Any) -> GpuOrt:
        ort = GpuOrt(*has, **how)
        monkeypatch.setitem(sys.modules, "onnxruntime", ort)  # type: ignore[arg-type]
        if plugin:
            module = SimpleNamespace(
                get_ep_name=lambda: RTX, get_library_path=lambda: "librtx.so", __spec__=object()
            )
            monkeypatch.setitem(sys.modules, PLUGIN, module)  # type: ignore[arg-type]
        return ort

    return install


TITLES = [PROVIDERS[name].title for name in ("tensorrt", "cuda")]


def test_candidates_where_there_is_a_gpu_and_a_provider(gpu: Any) -> None:
    assert (OnnxRuntime(CARD).variants(), OnnxRuntime(CARD).on_accelerator) == ([{}], False)  # the CPU build
    gpu(*TITLES, plugin=True)
    names = ["cuda", "tensorrt", "nv_tensorrt_rtx"]
    assert OnnxRuntime(CARD).variants() == [{}, *({"provider": name} for name in names)]
    assert OnnxRuntime(CARD).on_accelerator
    assert [OnnxRuntime(CARD).form_for(precision) for precision in ("float", "fp16")] == [
        "onnxruntime",
        "tensorrt",
    ]
    assert (OnnxRuntime(BARE).variants(), OnnxRuntime(BARE).on_accelerator) == ([{}], False)
    assert OnnxRuntime(BARE).form_for("fp16") is None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_on_a_gpu(provider: str, gpu: Any, tmp_path: Path) -> None:
    ort = gpu(*TITLES)
    program, runtime, options = (
        outside_weights(tiny_program(tmp_path / "p.onnx")),
        OnnxRuntime(CARD),
        {"provider": provider},
    )
    (tmp_path / "engine").mkdir()
    files = runtime.compile(program, tmp_path / "engine", {**OPTIONS, **options})
    assert [file.name for file in files] == ["p.onnx", "weights.bin"]
    program.onnx_path.unlink()
    program.blobs[0].unlink()
    with runtime.load(program, files, {**OPTIONS, **options}) as session:
        for seed in (0, 1):
            np.testing.assert_array_equal(session.infer(tiny_image(seed)), tiny_mask(tiny_image(seed)))
    assert ort.bound == 2
    for settings, asked in ort.asked:
        assert asked[0][0] == PROVIDERS[provider].title
        assert settings.entries["session.disable_cpu_ep_fallback"] == "1"


def test_a_plugin_is_registered_once(gpu: Any, tmp_path: Path) -> None:
    ort = gpu(plugin=True)
    program, runtime = tiny_program(tmp_path / "p.onnx"), OnnxRuntime(CARD)
    (tmp_path / "engine").mkdir()
    options = {**OPTIONS, "provider": "nv_tensorrt_rtx", "workspace_bytes": 1 << 20}
    files = runtime.compile(program, tmp_path / "engine", options)
    with runtime.load(program, files, options) as session:
        np.testing.assert_array_equal(session.infer(tiny_image()), tiny_mask(tiny_image()))
    assert ort.libraries == ["librtx.so"]
    settings, asked = ort.asked[-1]
    assert asked is None and settings.devices[0][1]["nv_max_workspace_size"] == str(1 << 20)


def test_kernels_are_kept_by_program_provider_options_and_gpu(gpu: Any, tmp_path: Path) -> None:
    ort = gpu(*TITLES)
    (tmp_path / "engine").mkdir()
    other = Machine(
        **{name: getattr(CARD, name) for name in CARD.__slots__} | {"gpus": (Gpu("NVIDIA L4", "8.9", 24.0),)}
    )
    for machine, threshold, level in (
        (CARD, 100.0, 3),
        (CARD, 150.0, 3),
        (other, 100.0, 3),
        (CARD, 100.0, 5),
        (CARD, 100.0, 3),
    ):
        program = tiny_program(tmp_path / "p.onnx", threshold=threshold)
        options = {**OPTIONS, "provider": "tensorrt", "optimization_level": level}
        OnnxRuntime(machine).compile(program, tmp_path / "engine", options)
    folders = [asked[0][1]["trt_engine_cache_path"] for _, asked in ort.asked]
    assert len(set(folders)) == 4 and folders[0] == folders[4]
    assert all(Path(folder).is_dir() for folder in folders)


def test_nothing_falls_back_to_the_processor(gpu: Any, tmp_path: Path) -> None:
    gpu(*TITLES, lost=True)
    (tmp_path / "engine").mkdir()
    with pytest.raises(Unsupported, match="did not bring up CUDAExecutionProvider: it would run on CPU"):
        OnnxRuntime(CARD).compile(
            tiny_program(tmp_path / "p.onnx"), tmp_path / "engine", {**OPTIONS, "provider": "cuda"}
        )


def test_a_graph_that_the_provider_refuses(gpu: Any, tmp_path: Path) -> None:
    fail = onnxruntime.capi.onnxruntime_pybind11_state.Fail("a node would be left to the CPU")
    gpu(*TITLES, error=fail)
    (tmp_path / "engine").mkdir()
    program, options = tiny_program(tmp_path / "p.onnx"), {**OPTIONS, "provider": "cuda"}
    with pytest.raises(BuildError, match=r"p\.onnx on cuda: a node"):
        OnnxRuntime(CARD).compile(program, tmp_path / "engine", options)
    with pytest.raises(BundleError, match=r"p\.onnx on cuda: a node"):
        OnnxRuntime(CARD).load(program, [program.onnx_path], options)


@pytest.mark.parametrize(
    ("provider", "message", "hint"),
    [
        ("cuda", "has no CUDAExecutionProvider here", "onnxruntime-gpu"),
        ("tensorrt", "has no TensorrtExecutionProvider here", "onnxruntime-gpu"),
        ("nv_tensorrt_rtx", "has no NvTensorRTRTXExecutionProvider here", "onnxruntime-ep-nv-tensorrt-rtx"),
        ("metal", "no provider 'metal'", "cuda, tensorrt, nv_tensorrt_rtx"),
    ],
)
def test_the_real_onnxruntime_for_processors(provider: str, message: str, hint: str, tmp_path: Path) -> None:
    if set(onnxruntime.get_available_providers()) & set(TITLES):
        pytest.skip("this onnxruntime is a GPU build")
    (tmp_path / "engine").mkdir()
    with pytest.raises(Unsupported, match=message) as refused:
        OnnxRuntime().compile(
            tiny_program(tmp_path / "p.onnx"), tmp_path / "engine", {**OPTIONS, "provider": provider}
        )
    assert hint in refused.value.hint


def test_precisions_that_bring_nothing(tmp_path: Path) -> None:
    program = tiny_program(tmp_path / "p.onnx")
    for precision, options in (("fp16", {}), ("int8", {"provider": "cuda"})):
        asked = SimpleNamespace(precision=precision, onnx_path=program.onnx_path, blobs=(), form=Form.QDQ)
        with pytest.raises(BuildError, match=f"no {precision} engine"):
            OnnxRuntime().compile(asked, tmp_path, {**OPTIONS, **options})  # type: ignore[arg-type]


def test_what_providers_are_told() -> None:
    (cuda,) = provider_options("cuda", {"cuda_graph": False, "workspace_bytes": 5}, Path("c"))
    assert (cuda[1]["enable_cuda_graph"], cuda[1]["gpu_mem_limit"]) == ("0", "5")
    tensorrt, after = provider_options("tensorrt", {"optimization_level": 5}, Path("c"))
    assert tensorrt[1]["trt_cuda_graph_enable"] == "1" and "trt_max_workspace_size" not in tensorrt[1]
    assert tensorrt[1]["trt_engine_cache_path"] == tensorrt[1]["trt_timing_cache_path"] == "c"
    assert tensorrt[1]["trt_builder_optimization_level"] == "5" and after[0] == "CUDAExecutionProvider"
    assert not [
        name for name in tensorrt[1] if "fp16" in name or "int8" in name
    ]  # the program says what is half


def test_engines_of_several_providers_stand_side_by_side() -> None:
    assert kind("float", {"threads": 2}) == "float"
    assert kind("fp16", {"provider": "cuda"}) == "fp16 cuda"
    assert kind("float", {"precision_hint": "bf16", "provider": "cpu"}) == "float bf16"


def test_what_is_wanted_goes_to_those_it_means_something_to(gpu: Any) -> None:
    gpu(*TITLES, plugin=True)
    row = OnnxRuntime(CARD)
    assert row.variants({"provider": "cpu"}) == [{}]
    assert row.variants({"provider": "cuda", "cuda_graph": False}) == [
        {},
        {"provider": "cuda", "cuda_graph": False},
    ]
    everything = {
        "threads": 3,
        "spinning": True,
        "cuda_graph": False,
        "workspace_bytes": 1 << 30,
        "optimization_level": 5,
    }
    told = {
        variant.get("provider", "cpu"): set(variant) - {"provider"} for variant in row.variants(everything)
    }
    assert told == {
        "cpu": {"threads", "spinning"},
        "cuda": {"threads", "spinning", "cuda_graph", "workspace_bytes"},
        "tensorrt": set(everything),
        "nv_tensorrt_rtx": {"threads", "spinning", "workspace_bytes"},
    }


def test_what_is_wanted_and_cannot_be(gpu: Any) -> None:
    for machine, wanted, message in (
        (BARE, {"provider": "cuda"}, "provider cuda needs an NVIDIA GPU, and here is none"),
        (CARD, {"provider": "cuda"}, "has no CUDAExecutionProvider here"),
        (CARD, {"cuda_graph": False}, "cuda_graph means nothing to onnxruntime on cpu"),
    ):
        with pytest.raises(Unsupported, match=message):
            OnnxRuntime(machine).variants(wanted)
    gpu(*TITLES)
    with pytest.raises(Unsupported, match="optimization_level means nothing to onnxruntime on cpu, cuda"):
        OnnxRuntime(CARD).variants({"provider": "cuda", "optimization_level": 5})


def test_the_processor_s_engine_has_its_threads_beside_a_gpu(gpu: Any, tmp_path: Path) -> None:
    gpu(*TITLES)
    assert OnnxRuntime(CARD).on_accelerator
    bundle = tiny_bundle(tmp_path / "b.edgeseg")
    here = replace(CARD, cpu="a processor")
    made = build_level(
        bundle,
        threads=1,
        runtimes=["onnxruntime"],
        options={"onnxruntime": {"provider": "cuda"}},
        machine=here,
    )
    assert [(row.kind, row.options["threads"]) for row in made.choice.candidates] == [
        ("float", 1),
        ("float cuda", 1),
    ]
    own = build_level(
        bundle,
        threads=1,
        runtimes=["onnxruntime"],
        options={"onnxruntime": {"provider": "cpu", "threads": 2}},
        machine=here,
    )
    assert [(row.kind, row.options["threads"]) for row in own.choice.candidates] == [("float", 2)]
