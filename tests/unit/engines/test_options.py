"""Options of runtimes: what a command line says, held against what the rows declare; then through builds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import builders
from choosing import runtimes
from edgeseg.bundle import Bundle, open_bundle
from edgeseg.cli.main import run
from edgeseg.contracts import Option
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.choose.choice import LevelBuild, build_level
from edgeseg.engines.options import THREADS, check, declared, read
from edgeseg.engines.tensorrt import rtx
from edgeseg.errors import BuildError, OptionError, Unsupported
from edgeseg.pipeline.build import build_bundle
from edgeseg.testing.fakes import FakeBackend
from tiny import tiny_bundle, tiny_mask

DECLARED = {
    f"{runtime}.{name}": option for runtime, options in declared().items() for name, option in options.items()
}


def values_of(option: Option) -> st.SearchStrategy[Any]:
    if option.kind is bool:
        return st.booleans()
    if option.kind is int:
        return st.integers(option.least, min(option.most or 10**18 - 1, 10**18 - 1))
    return st.sampled_from(option.choices)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(DECLARED)), st.none(), max_size=4), st.data())
def test_what_is_allowed_comes_back(keys: dict[str, None], data: st.DataObject) -> None:
    wanted = {key: data.draw(values_of(DECLARED[key])) for key in keys}
    texts = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in wanted.items()
    ]
    found = read(texts)
    assert {
        f"{runtime}.{name}": value for runtime, options in found.items() for name, value in options.items()
    } == wanted
    check(found)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(DECLARED)), st.text(max_size=12) | st.integers().map(str))
def test_any_text_is_a_value_of_its_kind_or_a_mistake(key: str, text: str) -> None:
    option = DECLARED[key]
    try:
        found = read([f"{key}={text}"])
    except OptionError as error:
        assert error.exit_code == 2 and error.hint
        return
    ((value,),) = (options.values() for options in found.values())
    assert type(value) is option.kind and option.allows(value)


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_an_option_or_a_mistake(text: str) -> None:
    with pytest.raises(OptionError):
        read([text, text])  # nothing may be given twice


@pytest.mark.parametrize(
    ("texts", "said", "hint"),
    [
        (["tensorrt"], "'tensorrt' is no option of a runtime", "RUNTIME.NAME=VALUE"),
        (["tensorrt.dla_core"], "is no option of a runtime", "edgeseg build --options"),
        (["tensort.dla_core=0"], "no runtime named 'tensort'", "did you mean 'tensorrt'?"),
        (
            ["tensorrt.dla_cor=0"],
            "tensorrt has no option 'dla_cor'",
            "did you mean 'dla_core'? tensorrt takes cuda_graph, dla_core",
        ),
        (["torch_tensorrt.dla_core=0"], "has no option 'dla_core'", "dla_core is an option of tensorrt"),
        (
            ["onnxruntime.provider=cud"],
            "takes cpu, cuda, tensorrt, nv_tensorrt_rtx, not 'cud'",
            "did you mean 'cuda'?",
        ),
        (["tensorrt.cuda_graph=1"], "takes true or false, not '1'", "CUDA graph"),
        (["tensorrt.cuda_graph=True"], "takes true or false, not 'True'", "CUDA graph"),
        (["tensorrt.optimization_level=6"], "takes 0 to 5, not '6'", "by default"),
        (["tensorrt.dla_core=-1"], "takes 0 or more, not '-1'", "DLA"),
        (["tensorrt.workspace_bytes=1e9"], "takes 67108864 or more, not '1e9'", "memory"),
        (["tensorrt.dla_core=0", "tensorrt.dla_core=1"], "tensorrt.dla_core is given twice", "one value"),
    ],
)
def test_mistakes(texts: list[str], said: str, hint: str) -> None:
    with pytest.raises(OptionError) as refused:
        read(texts)
    assert said in str(refused.value)
    assert hint in refused.value.hint


@pytest.mark.parametrize("value", [True, "0", 0.0, -1, None])
def test_values_that_are_no_core(value: object) -> None:
    with pytest.raises(OptionError, match=r"tensorrt\.dla_core takes 0 or more"):
        check({"tensorrt": {"dla_core": value}})


# Through builds

LEVEL = {"effort": Option(int, "how hard it tries", most=9), "threads": THREADS}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


def test_every_variant_has_them_and_they_are_in_the_key(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = [{"precision_hint": "f32"}, {"precision_hint": "bf16"}]
    other = FakeBackend("other", tiny_mask, hints, options=LEVEL)
    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask), other)

    def build(**options: Any) -> LevelBuild:
        return build_level(open_bundle(bundle.path), threads=1, options=options)

    first = build(other={"effort": 5})
    assert [compiled["effort"] for compiled in other.compiled] == [5, 5]
    assert [row.options.get("effort") for row in first.choice.candidates] == [None, 5, 5]
    assert build(other={"effort": 5}).reason == "same program, runtimes, device and options"
    assert build(other={"effort": 6}).reason == "other float: effort 5 -> 6"
    assert build().reason == "other float: effort 6 -> left out"
    assert not build().built
    assert [engine.runtime for engine in open_bundle(bundle.path).manifest.engines].count("other") == 2, (
        "replaced, not added"
    )
    (made,) = build_bundle(open_bundle(bundle.path), threads=1, options={"other": {"effort": 7}})
    assert {row.options.get("effort") for row in made.choice.candidates} == {None, 7}


def test_what_a_user_asks_for_is_never_dropped(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, absent = (
        FakeBackend("onnxruntime", tiny_mask),
        FakeBackend("absent", variants=(), options=LEVEL),
    )
    runtimes(monkeypatch, reference, absent)
    for mistake, message in (
        (
            {"options": {"absent": {"effort": 3}}, "runtimes": ["onnxruntime"]},
            "absent.effort would do nothing: considered are onnx",
        ),
        ({"options": {"absent": {"effort": 11}}}, "absent.effort takes 0 to 9, not 11"),
        ({"options": {"onnxruntime": {"effort": 1}}}, "onnxruntime has no option 'effort'"),
        ({"options": {"ghost": {"effort": 1}}}, "no runtime named 'ghost'"),
    ):
        with pytest.raises(OptionError, match=message):
            build_level(bundle, **mistake)  # type: ignore[arg-type]
    for wanted in ({"options": {"absent": {"effort": 3}}}, {"runtimes": ["absent"]}):
        with pytest.raises(Unsupported, match="absent runs on no device of this machine"):
            build_level(bundle, **wanted)  # type: ignore[arg-type]
    assert reference.compiled == [] and open_bundle(bundle.path).manifest.engines == ()
    assert [row.runtime for row in build_level(bundle, threads=1).choice.candidates] == ["onnxruntime"], (
        "no row where none asks"
    )


def test_one_engine_takes_no_more(bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="spinning takes true or false, not 1"):
        build_engine(bundle, options={"spinning": 1})
    assert open_bundle(bundle.path).manifest.engines == ()


def test_the_builder_s_own_refusal_is_a_row(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FakeBackend("broken", options=LEVEL, error=BuildError("effort 9 is beyond me", hint="none"))
    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask), broken)
    made = build_level(bundle, threads=1, options={"broken": {"effort": 9}})
    assert [(row.verdict, row.reason) for row in made.choice.candidates] == [
        ("default", ""),
        ("not built", "effort 9 is beyond me"),
    ]
    assert [engine.runtime for engine in open_bundle(bundle.path).manifest.engines] == ["onnxruntime"]


def test_a_runtime_without_its_package_stops_no_build(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that tells so only when it is asked for its version."""

    class Half(FakeBackend):
        def version(self) -> str:
            raise Unsupported("half is not there", hint=f"look below {bundle.path}/engines")

    runtimes(monkeypatch, FakeBackend("onnxruntime", tiny_mask), Half("half"))
    made = build_level(bundle, threads=1)
    assert [(row.verdict, row.reason) for row in made.choice.candidates] == [
        ("default", ""),
        ("not built", "half is not there: look below engines"),
    ]
    with pytest.raises(Unsupported, match="half is not there"):
        build_level(bundle, threads=1, runtimes=["half"])


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["--option", "tensorrt.dla_cor=0"], 2, "did you mean 'dla_core'?"),
        (["--option", "openvino.precision_hint=f33"], 2, "did you mean 'f32'?"),
        (["--dla-core", "0", "--runtime", "openvino"], 2, "tensorrt.dla_core would do nothing"),
        (["--dla-core", "0", "--option", "tensorrt.dla_core=1"], 2, "given twice"),
        (["--dla-core", "-1"], 2, "--dla-core"),
        (
            ["--device", "rtx4090", "--option", "openvino.precision_hint=f32"],
            2,
            "options of openvino would do nothing",
        ),
        (
            ["--device", "rtx4090", "--option", "tensorrt_rtx.compute_capability=12.0"],
            2,
            "rtx4090 is of compute capability 8.9",
        ),
    ],
)
def test_mistakes_at_the_command_line(
    line: list[str], code: int, said: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    assert run(["build", str(bundle.path), *line]) == code
    assert said in capsys.readouterr().err
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_the_command_line_builds_with_them(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "build",
        str(bundle.path),
        "--threads",
        "1",
        "--runtime",
        "onnxruntime",
        "--option",
        "onnxruntime.spinning=true",
    ]
    assert run([*line, "--json"]) == 0
    (level,) = json.loads(capsys.readouterr().out)["engines"]
    assert level["options"] == {"threads": 1, "spinning": True}
    assert run([*line[:-1], "onnxruntime.spinning=false"]) == 0
    assert "spinning true -> false" in capsys.readouterr().out


def test_for_a_card_elsewhere(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1"))  # type: ignore[arg-type]
    monkeypatch.setattr(rtx, "build", builders.at_once)
    line = ["build", str(bundle.path), "--device", "rtx4090", "--json"]
    assert run([*line, "--option", "tensorrt_rtx.cuda_graph=false"]) == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert engine["options"] == {"compute_capability": "8.9", "cuda_graph": False}
    assert run(line) == 0
    (again,) = json.loads(capsys.readouterr().out)["engines"]
    assert (again["built"], again["reason"]) == (True, "cuda_graph false -> left out")
    assert len(open_bundle(bundle.path).manifest.engines) == 1


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["build", "--options"]) == 0
    shown = capsys.readouterr().out
    assert all(key in shown for key in DECLARED)
    assert run(["build", "--options", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["options"]
    assert {f"{one['runtime']}.{one['name']}" for one in listed} == set(DECLARED)
    assert next(one for one in listed if one["name"] == "dla_core")["type"] == "int"
    assert run(["build"]) == 2
    assert "BUNDLE" in capsys.readouterr().err
