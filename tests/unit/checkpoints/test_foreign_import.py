"""Models in files from elsewhere: found under any prefix and in any company, and what does not fit is
named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgeseg.cli.main import run
from edgeseg.errors import DataError
from edgeseg.models.weights import import_upstream
from golden_rule import upstream_state
from published import CLASSES, State, assert_equal, saved, segformer_nvlabs


@pytest.fixture(scope="module")
def nvlabs() -> State:
    return segformer_nvlabs()


@pytest.mark.parametrize(
    "prefix", ["net.", "segmentor.", "net.module.", "module._orig_mod.", "student.", "model.net."]
)
def test_prefixes(tmp_path: Path, nvlabs: State, prefix: str) -> None:
    plain = import_upstream(saved(tmp_path, nvlabs, "plain.pth"), "segformer_b0")
    prefixed = import_upstream(saved(tmp_path, {prefix + k: v for k, v in nvlabs.items()}), "segformer_b0")
    assert_equal(prefixed.tensors, plain.tensors)


@pytest.mark.parametrize("encoder", ["backbone", "encoder"])
def test_parts_that_were_saved_apart_are_one_model(tmp_path: Path, nvlabs: State, encoder: str) -> None:
    parts: dict[str, State] = {encoder: {}, "decode_head": {}}
    for key, value in nvlabs.items():
        part, _, name = key.partition(".")
        parts[encoder if part == "backbone" else part][name] = value
    together = import_upstream(saved(tmp_path, {**parts, "epoch": 3}), "segformer_b0")
    assert together.num_classes == CLASSES
    assert_equal(
        together.tensors, import_upstream(saved(tmp_path, nvlabs, "plain.pth"), "segformer_b0").tensors
    )


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
def test_an_encoder_under_its_name(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path, {prefix + k: v for k, v in upstream_state("mit_b0").items()})
    assert import_upstream(path, "segformer_b0").num_classes is None


def test_what_lies_beside_the_model_is_left_out_with_a_word(
    tmp_path: Path, nvlabs: State, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = {
        "criterion.weight": torch.ones(7),
        "model.auxiliary_head.conv_seg.weight": torch.ones(7, 3, 1, 1),
    }
    path = saved(tmp_path, {"state_dict": {**{f"model.{k}": v for k, v in nvlabs.items()}, **beside}})
    assert run(["weights", "import", str(path), "--arch", "segformer_b0"]) == 0
    shown = capsys.readouterr().out
    assert "left out" in shown and "criterion.weight" in shown and "auxiliary_head.conv_seg.weight" in shown


def test_what_could_be_part_of_the_model_is_not_left_out(tmp_path: Path, nvlabs: State) -> None:
    with pytest.raises(DataError, match=r"1 unexpected: neck\.conv\.weight") as caught:
        import_upstream(saved(tmp_path, {**nvlabs, "neck.conv.weight": torch.ones(3)}), "segformer_b0")
    assert "nearest is --arch segformer_b0" in caught.value.hint


@pytest.mark.parametrize("flat", [True, False])
def test_of_two_models_one_is_taken_and_the_other_named(tmp_path: Path, nvlabs: State, flat: bool) -> None:
    other = {key: value + 1 if value.is_floating_point() else value for key, value in nvlabs.items()}
    content: dict[str, Any] = {"student": other, "teacher": nvlabs}
    if flat:
        content = {f"{name}.{key}": value for name, state in content.items() for key, value in state.items()}
    path = saved(tmp_path, content)
    first = import_upstream(path, "segformer_b0")
    assert (first.entry, first.others) == ("teacher", ("student",))
    second = import_upstream(path, "segformer_b0", entry="student")
    name = "decoder.classifier.bias"
    assert torch.allclose(second.tensors[name], first.tensors[name] + 1)
    with pytest.raises(DataError, match="no entry 'ema'") as caught:
        import_upstream(path, "segformer_b0", entry="ema")
    assert "'student'" in caught.value.hint


def test_the_model_of_this_architecture_is_taken(tmp_path: Path, nvlabs: State) -> None:
    path = saved(tmp_path, {"teacher": upstream_state("edaformer_t"), "student": nvlabs})
    assert import_upstream(path, "segformer_b0").entry == "student"
    assert import_upstream(path, "edaformer_t").entry == "teacher"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats(tmp_path: Path, nvlabs: State, kind: torch.dtype) -> None:
    path = saved(tmp_path, {k: v.to(kind) if v.is_floating_point() else v for k, v in nvlabs.items()})
    imported = import_upstream(path, "segformer_b0")
    assert {value.dtype for value in imported.tensors.values()} <= {torch.float32, torch.int64}


def test_counters_of_batches_may_be_absent(tmp_path: Path, nvlabs: State) -> None:
    path = saved(tmp_path, {k: v for k, v in nvlabs.items() if "num_batches" not in k})
    assert import_upstream(path, "segformer_b0").num_classes == CLASSES


def test_integers_and_nan_are_no_weights(tmp_path: Path, nvlabs: State) -> None:
    whole = {k: v.to(torch.int8) if v.is_floating_point() else v for k, v in nvlabs.items()}
    with pytest.raises(DataError, match="int8") as caught:
        import_upstream(saved(tmp_path, whole), "segformer_b0")
    assert "float checkpoint" in caught.value.hint
    name = "decode_head.linear_pred.bias"
    with pytest.raises(DataError, match="NaN or infinity in 1 tensors"):
        import_upstream(saved(tmp_path, {**nvlabs, name: nvlabs[name] * float("inf")}), "segformer_b0")
