"""Which engine becomes the default, with runtimes known by heart, a clock of our own, and real ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from choosing import Clock, runtimes
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.bundle.golden import GoldenFrame
from edgeseg.cli.main import run
from edgeseg.engines.choose import build as build_module
from edgeseg.engines.choose import choice
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.choice import LevelBuild, build_level
from edgeseg.engines.choose.latency import measure_together
from edgeseg.engines.open import find_engine, verify_engines
from edgeseg.errors import BuildError, BundleError, GateFailed, MissingDependency, OutOfRoom
from edgeseg.specs import Form, ImageU8, MaskU8
from edgeseg.testing.fakes import FakeBackend
from tiny import tiny_bundle, tiny_image, tiny_mask, tiny_precisions, tiny_program


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


@pytest.fixture
def with_int8(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "two.edgeseg", **tiny_precisions(tmp_path))


def wrong(image: ImageU8) -> MaskU8:
    mask: MaskU8 = 1 - tiny_mask(image)
    return mask


def verdicts(made: LevelBuild) -> dict[str, str]:
    return {f"{row.runtime} {row.kind}": row.verdict for row in made.choice.candidates}


def test_fastest_is_packed_as_default_with_all_that_pass(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = FakeBackend("onnxruntime", clock.taking(8))
    hints = [{"precision_hint": "f32"}, {"precision_hint": "bf16"}]
    other = FakeBackend(
        "openvino", {"f32": clock.taking(16), "bf16": clock.taking(4)}, hints, form=Form.CPU_OPENVINO
    )
    runtimes(monkeypatch, reference, other)
    made = build_level(bundle, threads=1)
    assert verdicts(made) == {
        "onnxruntime float": "passed",
        "openvino float": "passed",
        "openvino float bf16": "default",
    }
    assert (made.built, made.engine.kind, made.engine.measurements["median_ms"]) == (True, "float bf16", 4)
    assert [row.measurements["speedup"] for row in made.choice.candidates] == [1, 0.5, 2]
    assert [row.reason for row in made.choice.candidates] == [
        "100 % slower than the default",
        "300 % slower than the default",
        "",
    ]
    assert [bool(row.hint) for row in made.choice.candidates] == [False, True, True]

    found = open_bundle(bundle.path)
    assert [engine.kind for engine in found.manifest.engines] == ["float", "float", "float bf16"]
    assert find_engine(found) == made.engine
    assert find_engine(found, runtime="onnxruntime").runtime == "onnxruntime"
    assert set(verify_engines(found)) == {"level 0, openvino float bf16"}


def test_half_precision_is_for_those_who_want_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in half precision is no candidate where it brings nothing; where it does, it is a twin that
    INT8 has to beat.
    """
    half = replace(tiny_program(tmp_path / "half.onnx", threshold=127.4), precision="fp16", form=Form.GPU)
    parts = tiny_precisions(tmp_path / "parts")
    golden = [*parts["golden"], parts["golden"][0]._replace(precision="fp16")]
    bundle = tiny_bundle(tmp_path / "three.edgeseg", programs=[*parts["programs"], half], golden=golden)
    answers = {"float": clock.taking(8), "fp16": clock.taking(3), "int8": clock.taking(4)}
    runtimes(
        monkeypatch,
        FakeBackend("onnxruntime", clock.taking(9)),
        FakeBackend("gpu", answers, half_form=Form.CPU),
    )
    made = build_level(bundle, threads=1)
    assert verdicts(made) == {
        "onnxruntime float": "passed",
        "gpu float": "passed",
        "gpu fp16": "default",
        "onnxruntime int8": "passed",
        "gpu int8": "passed",
    }
    assert made.choice.candidates[-1].reason == "INT8, and not faster than gpu fp16"


def test_an_engine_that_misses_the_gate_is_refused_however_fast(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = FakeBackend("bad", clock.taking(1, wrong))
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(8)), bad)
    made = build_level(bundle, threads=1)
    assert verdicts(made) == {"onnxruntime float": "default", "bad float": "refused"}
    row = made.choice.candidates[1]
    assert "mask agreement below gate.min_mask_agreement 0.99: frame0 0.0000" in row.reason
    assert (row.measurements["mask_agreement"], "median_ms" in row.measurements) == (
        {"frame0": 0.0, "frame1": 0.0},
        False,
    )
    assert [engine.runtime for engine in open_bundle(bundle.path).manifest.engines] == ["onnxruntime"]
    assert build_level(bundle, threads=1).built is False
    assert len(bad.compiled) == 1


@pytest.mark.parametrize(("ms", "default"), [(7.9, "int8"), (8.0, "float"), (9.0, "float")])
def test_int8_must_beat_its_float_twin(
    ms: float, default: str, with_int8: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(monkeypatch, FakeBackend("onnxruntime", {"float": clock.taking(8), "int8": clock.taking(ms)}))
    made = build_level(with_int8, threads=1)
    assert made.engine.precision == default
    assert find_engine(with_int8).precision == default
    if default == "float":
        assert made.choice.candidates[1].reason == "INT8, and not faster than onnxruntime float"


def test_half_precision_alone_where_nothing_computes_in_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(tiny_program(tmp_path / "half.onnx"), precision="fp16", form=Form.GPU)
    golden = [GoldenFrame("x", tiny_image(), tiny_mask(tiny_image()), precision="fp16")]
    bundle = tiny_bundle(tmp_path / "half.edgeseg", programs=[half], golden=golden)
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(8)))
    with pytest.raises(BuildError, match="no float program at level 0"):
        build_level(bundle, threads=1)


def test_int8_without_a_float_twin_is_no_engine(
    with_int8: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(
        monkeypatch, FakeBackend("onnxruntime", {"float": clock.taking(8, wrong), "int8": clock.taking(1)})
    )
    with pytest.raises(GateFailed, match="onnxruntime float"):
        build_level(with_int8, threads=1)
    assert open_bundle(with_int8.path).manifest.engines == ()


def test_what_cannot_be_built_is_told_and_does_not_stop_the_rest(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(FakeBackend):
        def variants(self, wanted: Any = None) -> Any:
            raise MissingDependency("ghost", extra="ghost", purpose="haunt")

    broken = FakeBackend("broken", error=BuildError("no kernel for Conv", hint="none"))
    elsewhere = FakeBackend("elsewhere", variants=())
    runtimes(monkeypatch, Missing("ghost"), broken, elsewhere, FakeBackend("onnxruntime", clock.taking(2)))
    made = build_level(bundle, threads=1)
    assert verdicts(made) == {
        "onnxruntime float": "default",
        "ghost float": "not built",
        "broken float": "not built",
    }
    assert "pip install 'edgeseg[ghost]'" in made.choice.candidates[1].reason
    assert made.choice.candidates[2].reason == "no kernel for Conv"
    with pytest.raises(MissingDependency):
        build_level(bundle, runtimes=["ghost"], threads=1)


@pytest.mark.parametrize(("failure", "again"), [(OutOfRoom, True), (BuildError, False)])
def test_what_was_short_of_memory_or_disk_is_tried_again(
    failure: type[BuildError], again: bool, bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = FakeBackend("onnxruntime", clock.taking(4))
    runtimes(monkeypatch, reference, FakeBackend("big", error=failure("no", hint="free some")))
    assert verdicts(build_level(bundle, threads=1)) == {
        "onnxruntime float": "default",
        "big float": "not built",
    }
    runtimes(monkeypatch, reference, FakeBackend("big", clock.taking(2)))
    made = build_level(open_bundle(bundle.path), threads=1)
    assert verdicts(made)["big float"] == ("default" if again else "not built")
    assert made.reason == (
        "big float: none was built yet" if again else "same program, runtimes, device and options"
    )
    assert len(reference.compiled) == 1
    assert build_level(open_bundle(bundle.path), threads=1).built is False


def test_all_are_built_before_the_first_is_opened(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder may want all the memory that there is."""
    seen: list[str] = []

    class Watched(FakeBackend):
        def compile(self, *args: Any) -> Any:
            seen.append("compile")
            return super().compile(*args)

        def load(self, *args: Any) -> Any:
            seen.append("load")
            return super().load(*args)

    runtimes(monkeypatch, Watched("onnxruntime", clock.taking(4)), Watched("other", clock.taking(2)))
    build_level(bundle, threads=1)
    assert seen == ["compile", "compile", "load", "load"]


def test_memory_that_cannot_be_measured_has_no_figure(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weigh(runtime: str, *args: Any) -> int:
        if runtime == "other":
            raise BuildError("the memory of other cannot be measured", hint="leave --memory out")
        return 5_000_000

    monkeypatch.setattr(choice, "peak_memory_bytes", weigh)
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(4)), FakeBackend("other", clock.taking(2)))
    made = build_level(bundle, threads=1, memory=True)
    assert verdicts(made) == {"onnxruntime float": "passed", "other float": "default"}
    assert [row.measurements.get("peak_memory_bytes") for row in made.choice.candidates] == [5_000_000, None]


def test_one_reason_is_told_once(
    with_int8: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = FakeBackend("broken", error=BuildError("no kernel for Conv", hint="none"))
    runtimes(monkeypatch, broken, FakeBackend("onnxruntime", clock.taking(2)))
    assert run(["build", str(with_int8.path), "--threads", "1"]) == 0
    assert "\nbroken float, broken int8: no kernel for Conv\n" in capsys.readouterr().out


def test_kept_or_built_and_why(bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, other = FakeBackend("onnxruntime", clock.taking(4)), FakeBackend("other", clock.taking(2))
    runtimes(monkeypatch, reference, other)
    build_engine(bundle, "other", threads=1)

    def build(**arguments: Any) -> tuple[bool, str, int]:
        made = build_level(open_bundle(bundle.path), **{"threads": 1, **arguments})
        return made.built, made.reason, len(reference.compiled) + len(other.compiled)

    assert build() == (True, "onnxruntime float: none was built yet", 2)
    assert build() == (False, "same program, runtimes, device and options", 2)
    assert build(accuracy=lambda session: 0.5) == (True, "to measure mIoU", 2)
    assert build(force=True) == (True, "--force", 4)
    assert build(threads=2) == (True, "onnxruntime float: threads 1 -> 2", 6)
    assert build(threads=2, runtimes=["onnxruntime"]) == (True, "never timed against each other", 6)
    assert find_engine(open_bundle(bundle.path)).runtime == "onnxruntime"
    engine = find_engine(open_bundle(bundle.path), runtime="other")
    assert build(threads=2) == (True, "never timed against each other", 6)
    (bundle.path / find_engine(open_bundle(bundle.path)).files[0]).write_text("rot")
    built, reason, compiled = build(threads=2)
    assert (built, compiled) == (True, 7)
    assert reason.startswith("other float: damaged: ")
    assert engine.runtime == "other"
    assert len(open_bundle(bundle.path).manifest.choices) == 1


def test_accuracy_is_held_against_the_reference(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(
        monkeypatch,
        *(FakeBackend(name, clock.taking(ms)) for name, ms in (("onnxruntime", 8), ("a", 4), ("b", 2))),
    )
    figures = iter([0.70, 0.695, 0.68])
    made = build_level(bundle, threads=1, accuracy=lambda session: next(figures))
    assert verdicts(made) == {"onnxruntime float": "passed", "a float": "default", "b float": "refused"}
    assert [row.measurements["miou"] for row in made.choice.candidates] == [0.70, 0.695, 0.68]
    assert "loses 0.0200 mIoU against onnxruntime float" in made.choice.candidates[2].reason


@pytest.mark.parametrize(
    "again", [{"force": True}, {"threads": 2}, {"memory": True}], ids=["force", "threads", "memory"]
)
def test_a_refusal_by_miou_outlives_the_data(
    again: dict[str, Any], bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "peak_memory_bytes", lambda *arguments: None)
    runtimes(
        monkeypatch,
        *(FakeBackend(name, clock.taking(ms)) for name, ms in (("onnxruntime", 8), ("a", 4), ("b", 2))),
    )
    figures = iter([0.70, 0.695, 0.68])
    first = build_level(bundle, threads=1, accuracy=lambda session: next(figures))
    made = build_level(open_bundle(bundle.path), **{"threads": 1, **again})
    assert (
        verdicts(made)
        == verdicts(first)
        == {"onnxruntime float": "passed", "a float": "default", "b float": "refused"}
    )
    assert [row.measurements["miou"] for row in made.choice.candidates] == [0.70, 0.695, 0.68]
    assert "loses 0.0200 mIoU" in made.choice.candidates[2].reason
    assert {engine.measurements["miou"] for engine in open_bundle(bundle.path).manifest.engines} == {
        0.70,
        0.695,
    }
    build_level(open_bundle(bundle.path), threads=1, runtimes=["b"])
    made = build_level(open_bundle(bundle.path), threads=1)
    assert [row.measurements.get("miou") for row in made.choice.candidates][:2] == [0.70, 0.695], (
        "of engines left out once, too"
    )
    better = build_level(open_bundle(bundle.path), threads=1, accuracy=lambda session: 0.7)
    assert verdicts(better)["b float"] == "default", "data have the last word"


def test_an_engine_that_is_refused_when_it_is_checked_again_goes(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(
        monkeypatch, *(FakeBackend(name, clock.taking(ms)) for name, ms in (("onnxruntime", 8), ("b", 2)))
    )
    assert build_level(bundle, threads=1).engine.runtime == "b"
    figures = iter([0.70, 0.68])
    build_level(bundle, threads=1, accuracy=lambda session: next(figures))
    found = open_bundle(bundle.path)
    assert [engine.runtime for engine in found.manifest.engines] == ["onnxruntime"]
    with pytest.raises(BundleError, match="holds no engine of b"):
        find_engine(found, runtime="b")
    assert not build_level(found, threads=1).built
    assert found.verify().unlisted == ()


def test_a_choice_of_a_bundle_from_before_machines_were_kept_is_replaced(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [("onnxruntime", clock.taking(8)), ("b", clock.taking(2))]
    runtimes(monkeypatch, *(FakeBackend(name, answer) for name, answer in answers))
    build_level(bundle, threads=1)
    (choice,) = bundle.manifest.choices
    old = bundle.manifest.model_copy(update={"choices": (choice.model_copy(update={"machine": ""}),)})
    (bundle.path / "manifest.json").write_bytes(old.to_bytes())
    assert not build_level(open_bundle(bundle.path), threads=1).built
    answers[1] = ("b", clock.taking(9))
    runtimes(monkeypatch, *(FakeBackend(name, answer) for name, answer in answers))
    build_level(open_bundle(bundle.path), threads=1, memory=False, force=True)
    found = open_bundle(bundle.path)
    assert [known.machine != "" for known in found.manifest.choices] == [True]
    assert find_engine(found).runtime == "onnxruntime"


def test_a_choice_goes_with_its_engine(bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(4)), FakeBackend("other", clock.taking(2)))
    build_level(bundle, threads=1)
    build_engine(bundle, "other", threads=2)
    assert bundle.manifest.choices == ()
    assert find_engine(bundle).runtime == "other"


def test_an_interrupt_leaves_the_bundle_as_it_was(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(4)), FakeBackend("other", clock.taking(2)))
    build_level(bundle, threads=1)
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(choice, "measure_together", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_level(bundle, threads=1, force=True)
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == before


def test_a_bundle_that_cannot_be_written_is_told_before_the_work(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = FakeBackend("onnxruntime", clock.taking(4))
    runtimes(monkeypatch, reference)

    def full(path: Path) -> None:
        raise BundleError(f"cannot write {path}", hint="free space")

    for module, build in ((choice, build_level), (build_module, build_engine)):
        with monkeypatch.context() as once:
            once.setattr(module, "check_writable", full)
            with pytest.raises(BundleError, match="cannot write"):
                build(bundle, threads=1)
        assert reference.compiled == []
    build_level(bundle, threads=1)
    monkeypatch.setattr(choice, "check_writable", full)
    assert not build_level(bundle, threads=1).built, "what is there is kept on a read-only disk too"


def test_more_threads_than_cores_and_a_busy_machine_are_told(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()

    def uneven(image: ImageU8) -> MaskU8:
        clock.now_s += (3 if next(calls) % 3 else 4) / 1000
        return tiny_mask(image)

    runtimes(monkeypatch, FakeBackend("onnxruntime", uneven))
    assert run(["build", str(bundle.path), "--threads", "4096"]) == 0
    said = capsys.readouterr()
    assert "4096 threads on " in said.err
    assert "times spread by 33 %: the machine was busy" in said.out
    runtimes(monkeypatch, FakeBackend("onnxruntime", clock.taking(4)))
    assert run(["build", str(bundle.path), "--threads", "1", "--force"]) == 0
    said = capsys.readouterr()
    assert "threads on" not in said.err and "busy" not in said.out


def test_turns_are_drawn_anew_and_speedups_compare_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that gets slower from round to round, ratios stay exact."""
    clock, order, calls = Clock(monkeypatch), list[str](), itertools.count()

    def call(name: str, ms: float) -> Callable[[], object]:
        def timed() -> None:
            order.append(name)
            clock.now_s += ms / 1000 * 1.5 ** (next(calls) // 3)

        return timed

    found = measure_together({"a": call("a", 4), "b": call("b", 4), "c": call("c", 2)}, runs=12, warmup=2)
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert (len(rounds), {tuple(sorted(turn)) for turn in rounds}) == (14, {("a", "b", "c")})
    assert len(set(rounds)) > 1
    assert [found[name].speedup for name in "abc"] == pytest.approx([1, 1, 2])
    assert {latency.runs for latency in found.values()} == {12}
