"""Commands whose results go to a link, a mount, a device, a FIFO, or nowhere: they arrive, or the command
says so first.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg.bundle import create_bundle, open_bundle
from edgeseg.bundle.files import check_place
from edgeseg.cli.main import run
from edgeseg.data.calib import load_calib
from edgeseg.engines.choose.build import build_engine
from edgeseg.errors import BundleError, StreamError
from edgeseg.stream.sinks.table import route_sinks
from mounts import device as device
from mounts import mounted
from sinking import read_video, sink, write_all
from streams import random_images, time_limit, write_video
from tiny import tiny_bundle
from trees import camvid

pytestmark = pytest.mark.usefixtures(time_limit.__name__)
SCENE = ["--source", "synthetic://64x48?frames=5"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.edgeseg")
    build_engine(made)
    return str(made.path)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("*.tmp"))


def report_of(path: Path) -> int:
    return int(json.loads(path.read_bytes())["frames"])


def test_a_report_to_a_device_leaves_the_device(bundle: str, device: Path) -> None:
    for option in ("--report", "--contact-sheet"):
        assert run(["run", bundle, *SCENE, option, str(device)]) == 0
    assert run(["run", bundle, *SCENE, "--sink", str(device)]) == 0
    assert run(["eval", bundle, "--data-root", ".", "--report", str(device), "--set", "data=null"]) in (2, 3)
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_report_through_a_link_and_into_a_mounted_file(bundle: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/r.json")
    assert run(["run", bundle, *SCENE, "--report", "link"]) == 0
    assert (tmp_path / "link").is_symlink() and report_of(tmp_path / "disk" / "r.json") == 5
    (tmp_path / "bound").touch()
    (tmp_path / "source").write_text("old")
    with mounted(tmp_path / "source", tmp_path / "bound"):
        assert run(["run", bundle, *SCENE, "--report", "bound"]) == 0
        assert report_of(tmp_path / "source") == 5


def test_a_report_into_a_fifo_and_into_folders_that_are_not_there(bundle: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    assert run(["run", bundle, *SCENE, "--report", "fifo"]) == 0
    reader.join(10)
    assert json.loads(got[0])["frames"] == 5
    assert run(["run", bundle, *SCENE, "--report", "a/b/r.json", "--contact-sheet", "c/d.png"]) == 0
    assert report_of(tmp_path / "a/b/r.json") == 5


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1"])
def test_a_report_on_stdout_stands_there_alone(
    name: str, bundle: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", bundle, *SCENE, "--report", name]) == 0
    assert json.loads(capfd.readouterr().out)["frames"] == 5
    for also in (["--json"], ["--sink", "-"], ["--sink", "/dev/stdout"]):
        assert run(["run", bundle, *SCENE, "--report", name, *also]) == 2
        assert "both write to stdout" in capfd.readouterr().err
    assert run(["run", bundle, *SCENE, "--sink", name]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("option", ["--report", "--contact-sheet"])
@pytest.mark.parametrize("place", ["folder", "file/r.json", "circle", "x" * 256])
def test_a_place_that_takes_nothing_is_told_before_the_run(
    option: str, place: str, bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    assert run(["run", bundle, *SCENE, "--sink", "r.ndjson", option, place]) == 7
    assert f"error: {place}: cannot be written: " in capsys.readouterr().err
    assert not (tmp_path / "r.ndjson").exists()


@pytest.mark.parametrize(
    "line",
    [
        ["--source", "a.mp4", "--sink", "a.mp4"],
        ["--source", "a.mp4", "--sink", "soft.mp4"],
        ["--source", "a.mp4", "--sink", "hard.mp4"],
        ["--source", "soft.mp4", "--sink", "a.mp4"],
        ["--source", "soft.mp4", "--report", "a.mp4"],
        ["--source", "a.mp4", "--sink", "r.ndjson", "--report", "r.ndjson"],
        ["--source", "a.mp4", "--sink", "r.ndjson", "--sink", "./r.ndjson"],
        ["--source", "a.mp4", "--report", "r.json", "--contact-sheet", "r.json"],
        ["--source", "a.mp4", "--report", "r.json", "--contact-sheet", "to-r.json"],
    ],
    ids=" ".join,
)
def test_no_two_write_one_file_and_none_writes_a_source(line: list[str], bundle: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", random_images(3), 25)
    (tmp_path / "soft.mp4").symlink_to("a.mp4")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "a.mp4")
    (tmp_path / "to-r.json").symlink_to("r.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    assert run(["run", bundle, *line]) == 7
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before


def test_devnull_may_be_given_twice() -> None:
    assert len(route_sinks(["/dev/null", "/dev/null"], {"a": "synthetic://64x48"})[""]) == 2


def test_a_recording_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "o.mp4").symlink_to("disk/real.mp4")
    for _ in range(2):
        write_all(sink("o.mp4"), random_images(4))
        assert (tmp_path / "o.mp4").is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real.mp4"]
        assert len(read_video(tmp_path / "disk/real.mp4")[1]) == 4
    write_all(sink("o.mp4#segment_s=100"), random_images(4))
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["real-0001.mp4", "real.mp4"]


def test_a_recording_where_no_file_can_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(StreamError, match="is no file") as error:
        write_all(sink("fifo.mp4"), random_images(2))
    assert "--sink -" in error.value.hint
    (tmp_path / "bound.mp4").touch()
    (tmp_path / "source.mp4").touch()
    with (
        mounted(tmp_path / "source.mp4", tmp_path / "bound.mp4"),
        pytest.raises(StreamError, match="is mounted by itself"),
    ):
        write_all(sink("bound.mp4"), random_images(2))
    assert {path.name for path in tmp_path.iterdir()} == {"fifo.mp4", "bound.mp4", "source.mp4"}


def test_result_lines_into_a_fifo_and_through_a_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.ndjson")
    (tmp_path / "l.ndjson").symlink_to("f.ndjson")
    for name in ("f.ndjson", "l.ndjson"):
        got: list[bytes] = []
        reader = threading.Thread(target=lambda got=got: got.append((tmp_path / "f.ndjson").read_bytes()))
        reader.start()
        write_all(sink(name), random_images(3))
        reader.join(10)
        assert [json.loads(line)["index"] for line in got[0].splitlines()] == [0, 1, 2]
    (tmp_path / "r.ndjson").symlink_to("real.ndjson")
    write_all(sink("r.ndjson"), random_images(3))
    assert (tmp_path / "r.ndjson").is_symlink() and len(
        (tmp_path / "real.ndjson").read_text().splitlines()
    ) == 3


def test_masks_into_a_folder_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "masks").symlink_to("real")
    write_all(sink("masks/"), random_images(2))
    assert len(list((tmp_path / "real").iterdir())) == 2


def test_a_bundle_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "real" / "a.edgeseg")
    (tmp_path / "b.edgeseg").symlink_to("real/a.edgeseg")
    tiny_bundle(tmp_path / "b.edgeseg")
    assert (tmp_path / "b.edgeseg").is_symlink()
    open_bundle(tmp_path / "real" / "a.edgeseg").verify()


@pytest.mark.parametrize("kind", ["file", "device", "fifo", "full folder", "mount", "below a file"])
def test_a_place_that_no_bundle_can_take_is_told_before_the_work(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tmp_path / "b.edgeseg"
    if kind == "file":
        place.write_text("mine")
    elif kind == "device":
        place = request.getfixturevalue("device")
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "full folder":
        place.mkdir()
        (place / "mine").touch()
    elif kind == "below a file":
        (tmp_path / "mine").touch()
        place = tmp_path / "mine" / "b.edgeseg"
    else:
        place.mkdir()
        (tmp_path / "source").mkdir()
        if subprocess.run(
            ["mount", "--bind", str(tmp_path / "source"), str(place)], capture_output=True
        ).returncode:
            pytest.skip("mounting needs root")
    before = sorted(tmp_path.rglob("*"))
    try:
        for attempt in (lambda: check_place(place), lambda: create_bundle(place, **_arguments(tmp_path))):
            with pytest.raises(BundleError) as error:
                attempt()
            assert error.value.hint
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".onnx"] == before


def _arguments(folder: Path) -> dict[str, object]:
    from tiny import RECIPE, tiny_image, tiny_mask, tiny_program

    program = tiny_program(folder / "tiny.onnx")
    image = tiny_image(0)
    return {"recipe_text": RECIPE, "programs": [program], "golden": [("a", image, tiny_mask(image))]}


def test_a_free_place_is_left_as_it_was(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "b.edgeseg")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".b.edgeseg.lock"]
    tiny_bundle(tmp_path / "new" / "b.edgeseg")
    check_place(tmp_path / "new" / "b.edgeseg")
    open_bundle(tmp_path / "new" / "b.edgeseg").verify()


@pytest.mark.parametrize("target", ["link", "-", "device", "missing/folder/file"])
def test_calibration_sets_and_pictures(
    target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    place = {"link": tmp_path / "link", "device": None}.get(target, Path(target)) or request.getfixturevalue(
        "device"
    )
    (tmp_path / "link").symlink_to("real.yaml")
    line = [
        "calib",
        "make",
        "edaformer_nano_synthetic",
        "--data-root",
        ".",
        "--n",
        "8",
        "--candidates",
        "16",
        "-o",
        str(place),
    ]
    code = run(line)
    printed = capfd.readouterr()
    assert code == 0, printed.err
    if target == "-":
        assert printed.out.startswith("# ") and "images by mean brightness" not in printed.out
    elif target == "link":
        assert place.is_symlink() and len(load_calib(tmp_path / "real.yaml").images) == 8
        assert run([*line[:-2], "-o", str(tmp_path / "real.yaml"), "--seed", "3"]) in (0, 3)
    elif target == "device":
        assert stat.S_ISCHR(place.stat().st_mode)
        assert run(
            ["data", "check", "camvid", "--data-root", str(camvid(tmp_path).root), "--sheet", str(place)]
        ) in (2, 3, 0)
        assert stat.S_ISCHR(place.stat().st_mode)
    else:
        assert place.exists()


def test_weights_through_a_link(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    from edgeseg.checkpoints.file import load_checkpoint, save_checkpoint

    save_checkpoint(tmp_path / "a.safetensors", {"x": torch.ones(4)}, {"kind": "weights"})
    (tmp_path / "half.safetensors").symlink_to("real.safetensors")
    assert run(["weights", "half", "a.safetensors", "-o", "half.safetensors"]) == 0
    assert (tmp_path / "half.safetensors").is_symlink()
    assert torch.equal(load_checkpoint(tmp_path / "real.safetensors").tensors["x"], torch.ones(4))
    (tmp_path / "folder").mkdir()
    assert run(["weights", "half", "a.safetensors", "-o", "folder"]) == 5
    assert "folder: cannot be written: Is a directory" in capfd.readouterr().err
