"""A bundle that is shipped with an engine for a card: what the card's machine does with it, and what other
machines do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.devices.machine import Machine
from edgeseg.devices.nvidia import Gpu
from edgeseg.engines import table
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.choice import build_level
from edgeseg.engines.choose.for_card import build_for_card
from edgeseg.engines.choose.spec import plan_engine
from edgeseg.engines.cudart import Cuda
from edgeseg.engines.open import find_engine, open_session, verify_engines
from edgeseg.engines.tensorrt import rtx as tensorrt_rtx
from edgeseg.engines.tensorrt.builder import Order
from edgeseg.engines.tensorrt.rtx import TensorRtRtx
from edgeseg.errors import BundleError, EngineMismatch, MissingDependency
from edgeseg.registry import ENGINES_GROUP, Table
from edgeseg.testing.fakes import FakeBackend
from fake_cuda import FakeLibrary
from fake_rtx import VERSION, EngineInvalidityDiagnostics, EngineValidity, fake_rtx
from processor import be
from tiny import SIZE_HW, tiny_bundle, tiny_image, tiny_mask

I9, XEON, RYZEN = "Core i9-13900K", "Xeon Platinum 8480+", "Ryzen 9 7950X"
NAMES = {"8.6": "RTX 3080", "8.9": "RTX 4090", "12.0": "RTX 5090"}


class Machines:
    """Machines to be, one at a time. An RTX engine takes `rtx_ms`, one of the processor 8 ms; nothing else
    takes any time.

    Attributes:
        here: the machine that it is now.
        compiled: compute capabilities that engines were compiled for.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.compiled: list[str] = []
        self.rtx_ms, self.now_s = 2.0, 0.0
        self.answer: Callable[[np.ndarray], np.ndarray] = tiny_mask
        patch.setattr("time.perf_counter", lambda: self.now_s)
        patch.setattr(tensorrt_rtx, "build", self._build)
        rows = dict.fromkeys(["onnxruntime", "tensorrt_rtx"], "")
        patch.setattr(table, "ENGINES", Table(ENGINES_GROUP, "runtime", rows))
        patch.setattr(table, "backend", self._backend)

    def be(
        self,
        cpu: str,
        *cards: str,
        version: str | None = VERSION,
        driver: str = "580.95.05",
        names: Mapping[str, str] = NAMES,
        **runtime: Any,
    ) -> Any:
        """Go on on another machine.

        Args:
            cards: compute capabilities of its GPUs.
            version: of TensorRT-RTX; None: it is not installed.
            runtime: what `fake_rtx` takes.
        Returns:
            The module tensorrt_rtx.
        """
        gpus = tuple(Gpu(f"NVIDIA GeForce {names[card]}", card) for card in cards)
        self.here = Machine("x86_64", "Linux", "", cpu, ("avx2",), gpus, driver, None, None, {})
        self._cuda = Cuda(library := FakeLibrary(cards))
        shapes = (1, *SIZE_HW, 3), (1, SIZE_HW[0] // 2, SIZE_HW[1] // 2)
        module = version and fake_rtx(library, *shapes, self._infer, version=version, **runtime)
        self.patch.setitem(sys.modules, "tensorrt_rtx", module)  # type: ignore[arg-type]
        return module

    def _infer(self, image: np.ndarray) -> np.ndarray:
        self.now_s += self.rtx_ms / 1000
        return self.answer(image[0])[None]

    def _build(self, order: Order, progress: object) -> None:
        self.compiled.append(order.settings["compute_capability"])
        order.engine.write_bytes(b"engine")
        order.facts.write_text(json.dumps(dict(order.settings)))

    def _backend(self, name: str, machine: Machine | None = None, progress: object = None) -> Any:
        if name == "tensorrt_rtx":
            return TensorRtRtx(machine=machine, cuda=self._cuda)

        def on_the_processor(image: np.ndarray) -> np.ndarray:
            self.now_s += 0.008
            return tiny_mask(image)

        return FakeBackend(name, on_the_processor)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machines:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Machines(monkeypatch)


@pytest.fixture
def shipped(machines: Machines, tmp_path: Path) -> Bundle:
    """A bundle with an engine for SM89, from a machine without a GPU, on a machine with an RTX 4090."""
    machines.be(XEON)
    bundle = tiny_bundle(tmp_path / "shipped.edgeseg")
    build_for_card(bundle, "rtx4090", machine=machines.here)
    machines.be(I9, "8.9")
    return open_bundle(bundle.path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cpu=st.sampled_from([I9, XEON, RYZEN]),
    cards=st.lists(st.sampled_from(sorted(NAMES)), min_size=1, max_size=3),
    threads=st.one_of(st.none(), st.integers(1, 64)),
    asked=st.sampled_from([{}, {"cuda_graph": False}, {"cuda_graph": True}]),
)
def test_the_card_computes_the_key_that_the_factory_gave(
    cpu: str,
    cards: list[str],
    threads: int | None,
    asked: dict[str, Any],
    shipped: Bundle,
    machines: Machines,
) -> None:
    machines.be(cpu, *cards)
    for options in TensorRtRtx(machine=machines.here).variants(asked):
        machines.be(cpu, *cards)
        here = plan_engine(shipped, "tensorrt_rtx", 0, "float", threads, options, machines.here)
        for version in (VERSION, "1.8.0.1"):
            machines.be(XEON, version=version)
            sent = plan_engine(shipped, "tensorrt_rtx", 0, "float", None, options, machines.here)
            same = version == VERSION
            assert (here.key == sent.key, here.device.key == sent.device.key) == (same, same)


def rtx(bundle: Bundle) -> Any:
    (engine,) = (engine for engine in bundle.manifest.engines if engine.runtime == "tensorrt_rtx")
    return engine


def test_on_the_card_it_is_found_checked_timed_and_becomes_the_default(
    shipped: Bundle, machines: Machines
) -> None:
    sent = rtx(shipped)
    made = build_level(shipped, threads=4, machine=machines.here)
    assert machines.compiled == ["8.9"], "nothing is compiled on the card"
    assert made.engine == rtx(open_bundle(shipped.path)) == find_engine(shipped, machine=machines.here)
    assert (made.engine.key, made.engine.built_with, made.engine.created) == (
        sent.key,
        sent.built_with,
        sent.created,
    )
    assert made.engine.checked
    assert made.engine.measurements["mask_agreement"] == {"frame0": 1, "frame1": 1}
    assert (made.engine.measurements["median_ms"], made.engine.measurements["speedup"]) == (
        pytest.approx(2),
        pytest.approx(4),
    )
    assert "RTX 4090" in made.engine.measured_on and I9 in made.engine.measured_on
    assert made.choice.machine == made.engine.measured_on
    again = build_level(shipped, threads=4, machine=machines.here)
    assert (again.built, again.engine, again.reason) == (
        False,
        made.engine,
        "same program, runtimes, device and options",
    )
    with open_session(shipped, machine=machines.here) as session:
        assert np.array_equal(session.infer(tiny_image(3)), tiny_mask(tiny_image(3)))
    assert verify_engines(shipped, machine=machines.here).keys() == {"level 0, tensorrt_rtx float"}


def test_a_slow_one_is_packed_and_not_the_default(shipped: Bundle, machines: Machines) -> None:
    machines.rtx_ms = 9
    assert build_level(shipped, machine=machines.here).engine.runtime == "onnxruntime"
    assert rtx(shipped).checked
    assert find_engine(shipped, machine=machines.here).runtime == "onnxruntime"


def test_a_wrong_one_is_refused_and_stays_unused(shipped: Bundle, machines: Machines) -> None:
    machines.answer = lambda image: 1 - tiny_mask(image)
    made = build_level(shipped, machine=machines.here)
    assert {row.runtime: row.verdict for row in made.choice.candidates} == {
        "onnxruntime": "default",
        "tensorrt_rtx": "refused",
    }
    assert not rtx(shipped).checked
    assert find_engine(shipped, machine=machines.here).runtime == "onnxruntime"
    with pytest.raises(BundleError, match="never checked"):
        find_engine(shipped, runtime="tensorrt_rtx", machine=machines.here)
    assert not build_level(shipped, machine=machines.here).built, "it is not tried again and again"


def test_unchecked_it_is_never_used(shipped: Bundle, machines: Machines) -> None:
    for use in (find_engine, open_session, verify_engines):
        with pytest.raises(
            BundleError, match="for this device that was compiled elsewhere and never checked"
        ) as refused:
            use(shipped, machine=machines.here)
        assert (
            refused.value.hint
            == f"edgeseg build {shipped.path} checks it on the golden frames, without compiling again"
        )
        assert not isinstance(refused.value, EngineMismatch)
    build_engine(shipped, machine=machines.here)
    assert find_engine(shipped, machine=machines.here).runtime == "onnxruntime", (
        "one that was checked goes before it"
    )


def test_a_single_engine_is_only_checked_too(shipped: Bundle, machines: Machines) -> None:
    made = build_engine(shipped, "tensorrt_rtx", threads=3, machine=machines.here)
    assert (made.built, made.reason, machines.compiled) == (
        False,
        "compiled elsewhere, checked here",
        ["8.9"],
    )
    assert made.engine.checked and made.engine.measurements["median_ms"] == pytest.approx(2)
    assert not build_engine(shipped, "tensorrt_rtx", machine=machines.here).built
    assert build_engine(shipped, "tensorrt_rtx", force=True, machine=machines.here).built
    assert machines.compiled == ["8.9", "8.9"]


def test_the_card_compiles_where_nothing_was_shipped_or_the_release_differs(
    shipped: Bundle, machines: Machines, tmp_path: Path
) -> None:
    sent = rtx(shipped)
    machines.be(I9, "8.9", version="1.8.0.1")
    with pytest.raises(
        EngineMismatch, match=rf"8\.9 with tensorrt_rtx {VERSION}; this is .*8\.9 with tensorrt_rtx 1\.8"
    ) as other:
        find_engine(shipped, machine=machines.here)
    assert other.value.hint == f"edgeseg build {shipped.path}"
    assert build_level(shipped, machine=machines.here).engine.runtime_version == "1.8.0.1"
    assert machines.compiled == ["8.9", "8.9"]
    fresh = tiny_bundle(tmp_path / "fresh.edgeseg")
    assert build_level(fresh, machine=machines.here).engine.key != sent.key
    machines.be(XEON, version="1.8.0.1")
    assert not build_for_card(fresh, "rtx4090", machine=machines.here)[0].built, (
        "what the card compiled serves elsewhere too"
    )


def test_another_card(shipped: Bundle, machines: Machines) -> None:
    machines.be(I9, "8.6")
    with pytest.raises(
        EngineMismatch, match=r"built for .* capability 8\.9 .*; this is .* capability 8\.6 "
    ) as refused:
        open_session(shipped, machine=machines.here)
    assert refused.value.hint == f"edgeseg build {shipped.path}"
    assert build_level(shipped, machine=machines.here).engine.options == {"compute_capability": "8.6"}
    assert machines.compiled == ["8.9", "8.6"]
    assert [
        e.options["compute_capability"] for e in shipped.manifest.engines if e.runtime == "tensorrt_rtx"
    ] == ["8.9", "8.6"]


def test_of_several_kinds_of_cards_each_is_tried(shipped: Bundle, machines: Machines) -> None:
    machines.be(I9, "8.6", "8.9", "8.9")
    made = build_level(shipped, machine=machines.here)
    assert machines.compiled == ["8.9", "8.6"], "the one that was shipped, then the one that was not"
    assert [row.options for row in made.choice.candidates[1:]] == [
        {"compute_capability": "8.6"},
        {"compute_capability": "8.9"},
    ]
    assert {row.verdict for row in made.choice.candidates[1:]} == {"default", "passed"}
    assert not build_level(shipped, machine=machines.here).built


def test_without_tensorrt_rtx_the_card_says_what_to_type(
    shipped: Bundle, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    machines.be(I9, "8.9", version=None)
    with pytest.raises(MissingDependency) as missing:
        find_engine(shipped, machine=machines.here)
    assert missing.value.hint == "pip install 'edgeseg[rtx]'"
    row = build_level(shipped, machine=machines.here).choice.candidates[-1]
    assert (row.runtime, row.verdict) == ("tensorrt_rtx", "not built")
    assert "pip install 'edgeseg[rtx]'" in row.reason
    machines.be(XEON, version=None)
    assert not build_level(shipped, machine=machines.here).choice.candidates[1:], (
        "no reason to install anything where no card is"
    )


def test_a_driver_that_is_too_old_leaves_the_processor(shipped: Bundle, machines: Machines) -> None:
    machines.be(I9, "8.9", validity=EngineValidity.INVALID, flags=EngineInvalidityDiagnostics.OLD_CUDA_DRIVER)
    made = build_level(shipped, machine=machines.here)
    assert made.engine.runtime == "onnxruntime"
    assert "NVIDIA's driver is too old: edgeseg doctor" in made.choice.candidates[-1].reason
    assert not rtx(shipped).checked
    machines.be(I9, "8.9")
    made = build_level(shipped, machine=machines.here)
    assert (made.engine.runtime, made.reason) == (
        "tensorrt_rtx",
        "tensorrt_rtx float: compiled elsewhere, and never checked",
    )
    assert machines.compiled == ["8.9"]


def test_a_new_driver_is_timed_anew_and_nothing_is_compiled(shipped: Bundle, machines: Machines) -> None:
    first = build_level(shipped, machine=machines.here)
    machines.be(I9, "8.9", driver="595.71.05")
    machines.rtx_ms = 1
    made = build_level(shipped, machine=machines.here)
    assert made.built and made.engine.measurements["median_ms"] == pytest.approx(1)
    assert len(shipped.manifest.choices) == 1 and made.choice.key != first.choice.key
    assert machines.compiled == ["8.9"]


# Times belong to a machine


def test_another_machine_with_such_a_card_makes_its_own_choice(shipped: Bundle, machines: Machines) -> None:
    """Two machines share a folder: each keeps its choice, and neither goes by the other's."""
    first = build_level(shipped, machine=machines.here)
    machines.be(RYZEN, "8.9")
    assert find_engine(shipped, machine=machines.here) == first.engine, (
        "it was checked, and it is all that there is here"
    )
    machines.rtx_ms = 9
    second = build_level(shipped, machine=machines.here)
    assert (second.built, second.engine.runtime) == (True, "onnxruntime")
    assert machines.compiled == ["8.9"]
    assert find_engine(shipped, machine=machines.here) == second.engine
    machines.be(I9, "8.9")
    assert {choice.machine for choice in shipped.manifest.choices} == {
        first.choice.machine,
        second.choice.machine,
    }
    assert find_engine(shipped, machine=machines.here).runtime == "tensorrt_rtx", (
        "what this machine chose, whatever the other one timed last"
    )
    assert not build_level(shipped, machine=machines.here).built


def test_the_same_processor_beside_another_card_is_another_machine(
    shipped: Bundle, machines: Machines
) -> None:
    build_level(shipped, machine=machines.here)
    machines.be(I9, "8.9", names={"8.9": "RTX 4060"})
    made = build_level(shipped, machine=machines.here)
    assert (made.built, made.reason) == (True, "timed against each other on another machine only")
    assert len(shipped.manifest.choices) == 2


def test_what_was_timed_elsewhere_goes_after_what_was_timed_here(shipped: Bundle, machines: Machines) -> None:
    build_level(shipped, machine=machines.here)
    machines.be(RYZEN, "8.9")
    build_engine(shipped, machine=machines.here)
    assert find_engine(shipped, machine=machines.here).runtime == "onnxruntime"


@pytest.mark.parametrize(("rtx_ms", "default"), [(2, "tensorrt_rtx"), (9, "onnxruntime")])
def test_compiled_anew_elsewhere_it_is_checked_anew(
    rtx_ms: float, default: str, shipped: Bundle, machines: Machines
) -> None:
    """Its key is the same, its bytes may not be: a choice that names it is gone, and one that it lost is made
    again.
    """
    machines.rtx_ms = rtx_ms
    build_level(shipped, machine=machines.here)
    machines.be(XEON)
    build_for_card(shipped, "rtx4090", force=True, machine=machines.here)
    machines.be(I9, "8.9")
    assert find_engine(shipped, machine=machines.here).runtime == "onnxruntime"
    made = build_level(shipped, machine=machines.here)
    assert (made.built, made.engine.runtime, rtx(shipped).checked) == (True, default, True)
    assert machines.compiled == ["8.9", "8.9"]


MACHINES = st.tuples(
    st.sampled_from([I9, XEON, RYZEN]), st.sampled_from([(), ("8.6",), ("8.9",), ("8.9", "8.6")])
)
STEPS = st.lists(
    st.tuples(MACHINES, st.sampled_from([1.0, 9.0]), st.sampled_from(["build", "force", "ship", "use"])),
    max_size=7,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_travels_only_what_was_checked_is_used_and_choices_stay_at_home(
    steps: list[tuple[tuple[str, tuple[str, ...]], float, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        machines = Machines(patch)
        machines.be(XEON)
        bundle = tiny_bundle(tmp_path_factory.mktemp("bundle") / "b.edgeseg")
        chosen: dict[tuple[str, tuple[str, ...]], str] = {}
        for machine, ms, step in steps:
            machines.be(machine[0], *machine[1])
            machines.rtx_ms = ms
            before = len(machines.compiled)
            if step == "ship":
                build_for_card(bundle, "sm89", machine=machines.here)
            elif step in ("build", "force"):
                made = build_level(bundle, force=step == "force", machine=machines.here)
                chosen[machine] = made.engine.key
                if step == "build" and made.built is False:
                    assert len(machines.compiled) == before
            try:
                engine = find_engine(bundle, machine=machines.here)
            except BundleError:
                assert machine not in chosen
                continue
            assert engine.checked
            assert engine.runtime != "tensorrt_rtx" or engine.options["compute_capability"] in machine[1]
            assert engine.key == chosen.get(machine, engine.key)


# What a user sees


def test_the_commands_say_what_was_checked(
    shipped: Bundle, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    be(machines.patch, machines.here)

    def shown(*command: str) -> str:
        assert run([*command]) == 0
        return capsys.readouterr().out

    path = str(shipped.path)
    assert "compiled only" in shown("bundle", "show", path)
    document = json.loads(shown("build", path, "--runtime", "tensorrt_rtx", "--json"))
    assert [(engine["runtime"], engine["checked"], engine["built"]) for engine in document["engines"]] == [
        ("tensorrt_rtx", True, True)
    ]
    assert "compiled only" not in shown("bundle", "show", path)
    (entry,) = (
        e
        for e in json.loads(shown("bundle", "show", path, "--json"))["engines"]
        if e["runtime"] == "tensorrt_rtx"
    )
    assert entry["checked"] and "RTX 4090" in entry["measured_on"]
    assert "RTX 4090 (8.9) beside" in shown("bundle", "show", path)
    kept = shown("build", path, "--device", "rtx4090")
    assert "NOT CHECKED" not in kept and "checked on" in kept
    document = json.loads(shown("build", path, "--device", "rtx4090", "--json"))
    assert document["checked"] is True
