"""Published checkpoints: files are read safely, what does not fit is named, and what fits becomes a
checkpoint of ours.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.checkpoints.models import load_trained
from edgeseg.cli.main import run
from edgeseg.errors import DataError, RecipeError
from edgeseg.models import build_model, load_upstream
from edgeseg.models.foreign import read_state_dict
from edgeseg.models.weights import import_upstream, load_strict
from edgeseg.recipe.load import find_recipe, load_recipe
from edgeseg.specs import LabelSpace
from edgeseg.training.initial import load_initial
from golden_rule import fill, upstream_state
from published import CLASSES, WIDTH, State, assert_equal, saved, segformer_nvlabs, state_of

TENSORS: State = {"a.weight": torch.ones(2), "b.weight": torch.zeros(3, 1)}


class Payload:
    """Pickles to a call that writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


class TestFiles:
    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda plain, other: plain,
            lambda plain, other: {"state_dict": plain, "meta": {"CLASSES": ["road"]}},
            lambda plain, other: {"model": plain, "epoch": 3},
            lambda plain, other: {"model": {"state_dict": plain}},
            lambda plain, other: {"model": other, "model_ema": plain},
            lambda plain, other: {"model": other, "ema": plain},
            lambda plain, other: {"state_dict": other, "state_dict_ema": plain},
            # mmengine saves the average under `state_dict` and the raw weights under `ema_state_dict`
            lambda plain, other: {"state_dict": plain, "ema_state_dict": {"steps": torch.tensor(3), **other}},
            lambda plain, other: {"ema_state_dict": {"steps": torch.tensor(3), **plain}},
            lambda plain, other: {"model_ema": {"n_averaged": torch.tensor(3), **plain}},
        ],
    )
    def test_wrappers(self, tmp_path: Path, wrapped: Callable[[State, State], Any]) -> None:
        other = {key: tensor + 1 for key, tensor in TENSORS.items()}
        assert_equal(read_state_dict(saved(tmp_path, wrapped(TENSORS, other))), TENSORS)

    def test_safetensors_and_old_torch_files(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "a.safetensors")
        torch.save(TENSORS, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
        for name in ("a.safetensors", "a.bin"):
            assert_equal(read_state_dict(tmp_path / name), TENSORS)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_pickle_is_refused_and_not_run(self, tmp_path: Path, zipped: bool) -> None:
        target = tmp_path / "written"
        path = tmp_path / "evil.pth"
        torch.save(
            {"state_dict": TENSORS, "meta": Payload(target)}, path, _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(DataError, match="not a checkpoint of plain tensors") as caught:
            read_state_dict(path)
        assert not target.exists()
        assert "re-save" in caught.value.hint
        torch.load(path, weights_only=False)  # the file is what it claims to be
        assert target.read_text() == "executed"

    @pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5, 200])
    def test_a_pickle_of_another_protocol_is_read_or_named(self, tmp_path: Path, protocol: int) -> None:
        path = tmp_path / "x.pth"
        path.write_bytes(bytes((0x80, protocol)))
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_state_dict(path)

    @settings(max_examples=80)
    @given(data=st.data())
    def test_a_truncated_or_foreign_file_is_named(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        suffix, whole = data.draw(st.sampled_from(_whole_files()))
        content = data.draw(
            st.integers(0, len(whole) - 1).map(lambda end: whole[:end]) | st.binary(max_size=64)
        )
        path = tmp_path_factory.mktemp("files") / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_state_dict(path)

    def test_what_holds_no_tensors(self, tmp_path: Path) -> None:
        for content in ({"state_dict": {}}, [1, 2], {"epoch": 3}, "weights"):
            with pytest.raises(DataError, match="holds no tensors"):
                read_state_dict(saved(tmp_path, content))
        with pytest.raises(DataError, match="no such file"):
            read_state_dict(tmp_path / "absent.pth")


def _whole_files() -> list[tuple[str, bytes]]:
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save(TENSORS, zipped)
    torch.save(TENSORS, old, _use_new_zipfile_serialization=False)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(8)
    return [(".pth", zipped.getvalue()), (".pth", old.getvalue()), (".safetensors", tensors)]


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(
        tmp_path_factory.mktemp("segformer"), {"state_dict": segformer_nvlabs(), "meta": {"epoch": 160}}
    )


class TestImport:
    def test_classes_and_options_are_read_from_the_file(self, segformer: Path) -> None:
        imported = import_upstream(segformer, "segformer_b0")
        assert (imported.num_classes, imported.options) == (CLASSES, {"width": WIDTH})
        assert imported.layout == "SegFormer on MiT (NVlabs layout)"
        model = build_model("segformer_b0", CLASSES, width=WIDTH)
        assert imported.parameters == sum(p.numel() for p in model.parameters())
        load_strict(model, imported.tensors)

    def test_another_architecture(self, segformer: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["weights", "import", str(segformer), "--arch", "vwformer_mit_b0"]) == DataError.exit_code
        assert "looks like SegFormer on MiT (NVlabs layout), not vwformer_mit_b0" in capsys.readouterr().err

    def test_another_size_names_what_fits(self, tmp_path: Path) -> None:
        path = saved(tmp_path, upstream_state("edaformer_t"))
        with pytest.raises(DataError, match=r"is not edaformer_nano: .* missing: .* mis-shaped: ") as caught:
            import_upstream(path, "edaformer_nano")
        assert caught.value.hint == "--arch edaformer_t takes this file"

    def test_missing_tensors_are_allowed_by_name_only(self, tmp_path: Path) -> None:
        state = segformer_nvlabs()
        del state["decode_head.linear_c2.proj.bias"]
        path = saved(tmp_path, state)
        with pytest.raises(DataError, match=r"1 missing: decoder\.branches\.1\.conv\.bias"):
            import_upstream(path, "segformer_b0", ("encoder.*",))
        assert import_upstream(path, "segformer_b0", ("decoder.branches.1.*",)).num_classes == CLASSES

    def test_unknown_layout_architecture_and_our_own(self, tmp_path: Path, segformer: Path) -> None:
        with pytest.raises(
            DataError, match=r"its layout is not known; its keys start with conv1\.weight"
        ) as caught:
            import_upstream(saved(tmp_path, {"conv1.weight": torch.zeros(1)}), "segformer_b0")
        assert "SegFormer (Hugging Face)" in caught.value.hint
        with pytest.raises(RecipeError, match="segformer_b9") as unknown:
            import_upstream(segformer, "segformer_b9")
        assert "segformer_b" in unknown.value.hint
        assert (
            run(
                [
                    "weights",
                    "import",
                    str(segformer),
                    "--arch",
                    "segformer_b0",
                    "-o",
                    str(tmp_path / "ours.safetensors"),
                ]
            )
            == 0
        )
        with pytest.raises(DataError, match="is a checkpoint of edgeseg"):
            import_upstream(tmp_path / "ours.safetensors", "segformer_b0")

    def test_a_decoder_without_its_classifier(self, tmp_path: Path) -> None:
        state = {
            key: tensor
            for key, tensor in upstream_state("edaformer_t").items()
            if not key.endswith("linear_pred.weight")
        }
        with pytest.raises(DataError, match="without a classifier"):
            import_upstream(saved(tmp_path, state), "edaformer_t")

    def test_an_encoder_alone_is_somewhere_to_train_from(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        classifier = state_of(head__weight=(1000, 256), head__bias=(1000,))
        path = saved(tmp_path, {"model": upstream_state("mit_b0") | classifier})
        assert run(["weights", "import", str(path), "--arch", "segformer_b0", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown == {
            "checkpoint": str(tmp_path / "published.edgeseg.safetensors"),
            "arch": "segformer_b0",
            "layout": "MiT alone (NVlabs layout)",
            "num_classes": None,
            "options": {},
            "parameters": 3_319_392,
            "entry": "model",
            "others": [],
            "aside": [],
        }
        ours = load_checkpoint(Path(shown["checkpoint"]))
        assert ours.meta["num_classes"] is None
        assert all(name.startswith("encoder.") for name in ours.tensors)
        recipe = load_recipe(
            find_recipe("edaformer_nano_synthetic"), ("model={arch: segformer_b0}", "isr.decoder=[]")
        )
        with pytest.raises(DataError, match="encoder alone") as refused:
            load_trained(recipe, Path(shown["checkpoint"]))
        assert "--init" in refused.value.hint
        model, three = fill(build_model("segformer_b0", 3)), LabelSpace(("a", "b", "c"), ((0, 0, 0),) * 3)
        before = model.decoder.classifier.weight.clone()
        with pytest.raises(DataError, match=r"missing: decoder\."):
            load_initial(model, Path(shown["checkpoint"]), recipe, three)
        skipping = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"init_skip": ("decoder.*",)})}
        )
        load_initial(model, Path(shown["checkpoint"]), skipping, three)
        assert torch.equal(
            model.encoder.stages[0][0].conv.weight, upstream_state("mit_b0")["patch_embed1.proj.weight"]
        )
        assert torch.equal(model.decoder.classifier.weight, before)

    @pytest.mark.parametrize(("name", "arch"), [("mobilenet_v2", "segformer_mobilenet_v2")])
    def test_imagenet_classifiers(self, tmp_path: Path, name: str, arch: str) -> None:
        state = upstream_state(name)
        imported = import_upstream(saved(tmp_path, state), arch)
        assert imported.num_classes is None
        model = nn.ModuleDict({"encoder": build_model(arch, 2).encoder})
        load_upstream(model, state)
        assert_equal(imported.tensors, model.state_dict())

    def test_the_command_tells_what_it_found(
        self, segformer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out.safetensors"
        assert run(["weights", "import", str(segformer), "--arch", "segformer_b0", "-o", str(out)]) == 0
        shown = capsys.readouterr().out
        for fact in (
            f"{CLASSES} classes",
            "SegFormer on MiT (NVlabs layout)",
            "width: 12",
            "model.options",
            str(out),
        ):
            assert fact in shown
