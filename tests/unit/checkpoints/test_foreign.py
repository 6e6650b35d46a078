"""Weight files from elsewhere: what is plain data is read, whatever it lies in; what is not is named and
never run.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import gzip
import json
import os
import pathlib
import pickle
import shlex
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgeseg.checkpoints.file import load_checkpoint
from edgeseg.errors import DataError
from edgeseg.models.foreign import read_foreign, read_state_dict
from edgeseg.models.standins import stand_in
from published import State, assert_equal, saved

TENSORS: State = {"a.weight": torch.ones(2), "b.weight": torch.zeros(3, 1)}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a class of a package that is not installed, as the pickles of other frameworks name them."""

    def make(place: str, base: type = object, **members: Any) -> Any:
        name, _, kind = place.rpartition(".")
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            part = ".".join(parts[:depth])
            monkeypatch.setitem(sys.modules, part, sys.modules.get(part) or types.ModuleType(part))
        made = type(kind, (base,), {**members, "__module__": name, "__qualname__": kind})
        monkeypatch.setattr(sys.modules[name], kind, made, raising=False)
        return made

    return make


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_foreign(path)
    assert str(path) in str(caught.value) and caught.value.hint
    return caught.value


class TestContainers:
    @pytest.mark.parametrize(
        ("content", "entry"),
        [
            (
                lambda plain, other: {
                    "model_state_dict": plain,
                    "optimizer_state_dict": {"state": {0: other}},
                },
                "model_state_dict",
            ),
            (lambda plain, other: {"net": plain, "acc": 91.2}, "net"),
            (lambda plain, other: {"module": plain}, "module"),
            (lambda plain, other: {"generator": plain, "discriminator": other}, "generator"),
            (lambda plain, other: {"student": other, "teacher": plain}, "teacher"),
            (
                lambda plain, other: {"model": other, "ema": {"module": plain, "decay": 0.99}, "updates": 3},
                "ema.module",
            ),
            (lambda plain, other: {"model_state_dict": other, "ema_state_dict": plain}, "ema_state_dict"),
            (lambda plain, other: {"checkpoint": {"weights": {"net": plain}}}, "checkpoint.weights.net"),
            (lambda plain, other: {"models": [plain]}, "models.0"),
            (
                lambda plain, other: {"my_segmenter": plain, "optimizer": {"exp_avg": other}, "epoch": 3},
                "my_segmenter",
            ),
        ],
    )
    def test_the_likeliest_model_comes_first(
        self, tmp_path: Path, content: Callable[[State, State], Any], entry: str
    ) -> None:
        other = {key: tensor + 1 for key, tensor in TENSORS.items()}
        first = read_foreign(saved(tmp_path, content(TENSORS, other))).entries[0]
        assert first.name == entry
        assert_equal(first.tensors, TENSORS)

    def test_a_dictionary_that_holds_itself(self, tmp_path: Path) -> None:
        content: dict[str, Any] = {"model": TENSORS}
        content["again"] = content
        assert_equal(read_state_dict(saved(tmp_path, content)), TENSORS)

    def test_facts_beside_the_weights_are_kept(self, tmp_path: Path) -> None:
        found = read_foreign(
            saved(tmp_path, {"meta": {"dataset_meta": {"classes": ("road",)}}, "state_dict": TENSORS})
        )
        assert found.facts["meta"] == {"dataset_meta": {"classes": ("road",)}}

    def test_numpy_arrays_are_weights_too(self, tmp_path: Path) -> None:
        arrays = {key: tensor.numpy() for key, tensor in TENSORS.items()}
        arrays["t"] = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
        read = read_state_dict(saved(tmp_path, {"model": arrays}))
        assert_equal(read, {**TENSORS, "t": torch.arange(6.0).reshape(2, 3)})
        np.savez(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in TENSORS.items()})
        assert_equal(read_state_dict(tmp_path / "w.npz"), TENSORS)

    def test_the_content_decides_not_the_suffix(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "a.bin")
        torch.save(TENSORS, tmp_path / "b.safetensors")
        assert_equal(read_state_dict(tmp_path / "a.bin"), TENSORS)
        assert_equal(read_state_dict(tmp_path / "b.safetensors"), TENSORS)

    def test_folders_of_hugging_face(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "model.safetensors")
        assert_equal(read_state_dict(tmp_path), TENSORS)
        (tmp_path / "model.safetensors").unlink()
        for number, name in enumerate(TENSORS):
            save_file({name: TENSORS[name]}, tmp_path / f"model-{number}.safetensors")
        index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(TENSORS)}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert_equal(read_state_dict(tmp_path), TENSORS)
        (tmp_path / "model-1.safetensors").unlink()
        assert "model-1.safetensors" in str(refused_folder(tmp_path))

    def test_folders_that_are_no_model(self, tmp_path: Path) -> None:
        assert "no checkpoint" in str(refused_folder(tmp_path))
        (tmp_path / ".metadata").write_bytes(b"x")
        assert "dcp_to_torch" in refused_folder(tmp_path).hint
        (tmp_path / ".metadata").unlink()
        (tmp_path / "archive").mkdir()
        (tmp_path / "archive/data.pkl").write_bytes(b"x")
        assert "zip -0 -r" in refused_folder(tmp_path).hint


def refused_folder(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        read_foreign(path)
    return caught.value


class TestStandIns:
    """What trainings leave beside the weights is passed over, without its packages."""

    @pytest.mark.parametrize("zipped", [True, False])
    def test_python_and_numpy(self, tmp_path: Path, zipped: bool) -> None:
        lists = collections.defaultdict(list)
        lists["loss"].append(1.0)
        beside = {
            "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), begun=datetime.datetime(2026, 1, 1)),
            "numbers": [
                np.float64(3.5),
                np.int64(2),
                np.arange(3),
                np.array(["a"], dtype=object),
                np.bool_(True),
            ],
            "collections": [
                lists,
                collections.deque([1, 2]),
                collections.Counter("aab"),
                collections.OrderedDict(a=1),
            ],
            "state": np.random.default_rng(0).bit_generator.state,
            "space": types.SimpleNamespace(a=1),
        }
        path = tmp_path / "x.pth"
        torch.save({"model": TENSORS, **beside}, path, _use_new_zipfile_serialization=zipped)
        assert_equal(read_state_dict(path), TENSORS)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_mmengines_message_hub(self, tmp_path: Path, module: Callable[..., Any], zipped: bool) -> None:
        kind = module("mmengine.logging.history_buffer.HistoryBuffer", mean=_mean)
        _mean.__qualname__, _mean.__module__ = "HistoryBuffer.mean", "mmengine.logging.history_buffer"
        buffer = kind()
        buffer.__dict__.update(_log_history=np.array([0.5]), _statistics_methods={"mean": kind.mean})
        path = tmp_path / "x.pth"
        content = {"state_dict": TENSORS, "message_hub": {"log_scalars": {"train/loss": buffer}}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert_equal(read_state_dict(path), TENSORS)

    @pytest.mark.parametrize(
        ("place", "base"),
        [
            ("easydict.EasyDict", dict),
            ("yacs.config.CfgNode", dict),
            ("mmcv.utils.config.ConfigDict", dict),
            ("pytorch_lightning.utilities.parsing.AttributeDict", dict),
            ("omegaconf.dictconfig.DictConfig", object),
            ("lightning.fabric.wrappers.Anything", object),
        ],
    )
    def test_configurations(self, tmp_path: Path, module: Callable[..., Any], place: str, base: type) -> None:
        kind = module(place, base)
        config = kind()
        config.lr = 0.1
        if base is dict:
            config["nested"] = kind(a=1)
        assert_equal(
            read_state_dict(saved(tmp_path, {"hyper_parameters": config, "state_dict": TENSORS})), TENSORS
        )

    @given(st.lists(st.integers() | st.text(max_size=3) | st.none(), max_size=4))
    def test_a_stand_in_takes_anything_and_does_nothing(self, arguments: list[Any]) -> None:
        for name in (
            "argparse.Namespace",
            "pathlib.PosixPath",
            "builtins.getattr",
            "numpy.dtype",
            "numpy.ndarray",
            "box.Box",
        ):
            inert = stand_in(name)
            assert inert is not None
            made = inert(*arguments)
            assert type(made).__module__ in ("edgeseg.models.standins", "collections")

    @pytest.mark.parametrize(
        "name", ["os.system", "builtins.eval", "subprocess.Popen", "torch.load", "mynet.Net", "numpyx.f"]
    )
    def test_nothing_stands_in_for_the_rest(self, name: str) -> None:
        assert stand_in(name) is None


def _mean(self: Any) -> None: ...


class Call:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class TestCode:
    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.Popen, torch.hub.load])
    def test_calls_are_named_and_not_run(self, tmp_path: Path, function: Any, zipped: bool) -> None:
        target = tmp_path / "run"
        argument = f"touch {target}" if function is os.system else f"open({str(target)!r}, 'w')"
        path = tmp_path / "evil.pth"
        torch.save(
            {"model": TENSORS, "x": Call(function, argument)}, path, _use_new_zipfile_serialization=zipped
        )
        error = refused(path)
        assert not target.exists()
        assert (
            function.__name__ in str(error) and "not open it" in error.hint and "python -c" not in error.hint
        )

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_stand_in_is_no_way_to_a_call(self, tmp_path: Path, zipped: bool) -> None:
        """getattr stands in for methods; what it gives cannot be called."""
        path = tmp_path / "evil.pth"
        content = {"model": TENSORS, "x": Call(pathlib.Path.write_text, pathlib.Path(tmp_path / "run"), "x")}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        refused(path)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("function", [torch.load, torch.jit.load, torch.serialization.load, pickle.loads])
    def test_torchs_own_doors_stay_shut(self, tmp_path: Path, function: Any) -> None:
        assert function.__name__ in str(
            refused(saved(tmp_path, {"model": TENSORS, "x": Call(function, "x")}))
        )

    @pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_whole_model_is_named_and_its_line_converts_it(
        self, tmp_path: Path, module: Callable[..., Any], zipped: bool
    ) -> None:
        net = module("mynet.Net", nn.Sequential)(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        sys.modules["mynet"].__file__ = __file__  # the old format looks for the source
        path = tmp_path / "my net.pth"
        torch.save({"model": net, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
        error = refused(path)
        assert "a whole pickled model (mynet.Net)" in str(error)
        (tmp_path / "mynet.py").write_text("from torch import nn\nclass Net(nn.Sequential): ...\n")
        command = shlex.split(error.hint.splitlines()[-1])
        assert command[0] == "python"
        subprocess.run([sys.executable, "-W", "ignore", *command[1:]], check=True, cwd=tmp_path)
        assert_equal(read_state_dict(tmp_path / "my net.plain.pth"), net.state_dict())

    def test_a_plain_pickle_and_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pkl"
        path.write_bytes(pickle.dumps({key: tensor.numpy() for key, tensor in TENSORS.items()}, protocol=4))
        error = refused(path)
        assert "a plain pickle" in str(error)
        subprocess.run([sys.executable, *shlex.split(error.hint.splitlines()[-1])[1:]], check=True)
        assert_equal(read_state_dict(tmp_path / "w.plain.pth"), TENSORS)

    @pytest.mark.filterwarnings("ignore")
    def test_torchscript_and_its_line(self, tmp_path: Path) -> None:
        script = torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1)))
        script.save(str(tmp_path / "s.pt"))
        error = refused(tmp_path / "s.pt")
        assert "TorchScript" in str(error)
        command = shlex.split(error.hint.splitlines()[-1])
        subprocess.run([sys.executable, "-W", "ignore", *command[1:]], check=True)
        assert_equal(read_state_dict(tmp_path / "s.plain.pth"), dict(script.state_dict()))


WHOLE = {key: torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) for key in "ab"}


@pytest.mark.parametrize(
    ("name", "content", "told", "hint"),
    [
        ("x.pth", b"", "an empty file", "again"),
        ("x.pth", bytes(600), "a file of zeros", "again"),
        (
            "x y.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "Git LFS pointer",
            "lfs pull",
        ),
        ("x.pth", b"<!DOCTYPE html>\n<html>", "a web page", "/resolve/"),
        ("x.pth", b"404: Not Found", '"404: Not Found"', ".safetensors"),
        ("x.pth", b'{"error": "gated"}', "JSON", ".safetensors"),
        ("x.pth", "zażółć".encode(), "zażółć", ".safetensors"),
        ("x.pth", bytes(range(1, 255)), "no kind of checkpoint", ".safetensors"),
        ("x.pdparams", pickle.dumps({"a": 1}, 2), "PaddlePaddle", "made from"),
        ("x.pth.gz", gzip.compress(b"x" * 99, mtime=0), "gzip", "gunzip --keep"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + b"x" * 99, "Keras", "made from"),
        ("x.onnx", b"\x08\x07\x12\x07pytorch", "ONNX", "made from"),
        ("x.tflite", b"\x1c\0\0\0TFL3" + b"x" * 99, "TensorFlow Lite", "made from"),
        ("x.pb", b"\n\x1f\n\x05input", "TensorFlow", "made from"),
        ("x.pth", b"\x00\x05\x16\x07" + bytes(99), "AppleDouble", "rm "),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, told: str, hint: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(tmp_path / name)
    assert told in str(error) and hint in error.hint


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_to_be_copied_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.bin"
    if kind == "safetensors":
        save_file(WHOLE, path)
    else:
        torch.save(WHOLE, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "again" in refused(path).hint


def test_a_checkpoint_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("best.pth", b"x")
    assert "best.pth" in str(error := refused(tmp_path / "x.zip")) and "unzip" in error.hint


@pytest.mark.parametrize("name", ["x.bin", "x.pth", "x.safetensors", "my x.ckpt", "folder"])
def test_a_foreign_file_as_a_checkpoint_of_ours_names_the_import(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name == "x.pth":
        torch.save(TENSORS, path)
    elif name.endswith("ckpt"):
        torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    else:
        save_file(TENSORS, path)
    with pytest.raises(DataError, match="not a checkpoint of edgeseg") as caught:
        load_checkpoint(path, "edaformer_t")
    assert f"edgeseg weights import {shlex.quote(str(path))} --arch edaformer_t" in caught.value.hint


def test_what_is_no_checkpoint_at_all_is_named(tmp_path: Path) -> None:
    for content, told in (
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ):
        (tmp_path / "best.safetensors").write_bytes(content)
        with pytest.raises(DataError, match=told):
            load_checkpoint(tmp_path / "best.safetensors")
