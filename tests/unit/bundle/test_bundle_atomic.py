"""Whatever fails while a bundle is written, one whole bundle is left: disk full, Ctrl-C, kill -9, two writers
at once.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from edgeseg.bundle import Bundle, copy_bundle, create_bundle, open_bundle
from edgeseg.bundle.files import check_writable
from edgeseg.errors import BundleError, IntegrityError, RecipeError
from locations import REPOSITORY, SUPPORT
from tiny import RECIPE, tiny_bundle, tiny_engine, tiny_image, tiny_levels, tiny_mask, tiny_program


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny.edgeseg")


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "engine.onnx"
    path.write_bytes(b"not a graph at all")
    return path


def leftovers(folder: Path, name: str = "tiny.edgeseg") -> set[str]:
    return {path.name for path in folder.iterdir() if name in path.name} - {name, f".{name}.lock"}


class Unplugged(BaseException):
    """Stands for Ctrl-C: not an Exception."""


def start(program: str, *args: object) -> subprocess.Popen[str]:
    """A Python of its own that runs `program`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(REPOSITORY)])}
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, args)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output(program: str, *args: object) -> str:
    """What `program` prints, run to its end."""
    process = start(program, *args)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Unplugged()], ids=["disk full", "ctrl-c"]
)
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_every_step_may_fail(
    failure: BaseException, call: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    levels = tiny_levels(tmp_path / "made")
    real = getattr(os, call)
    steps = 0
    while True:
        steps += 1
        left = steps

        def failing(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise failure
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                tiny_bundle(bundle.path, reports={}, **levels)
                break
            except (BundleError, Unplugged) as error:
                if isinstance(error, BundleError):
                    assert "No space left on device" in str(error)
                    assert "free space" in error.hint
        if not open_bundle(bundle.path).manifest.reports:
            break  # the new bundle was in place already; only its folder's name was not yet flushed
        assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == before
        assert leftovers(tmp_path) == set()
    assert steps > (1 if call == "rename" else 8)
    assert leftovers(tmp_path) == set()
    open_bundle(bundle.path).verify()


def test_a_full_disk_and_no_bundle_before(tmp_path: Path) -> None:
    """A real refusal of the system: no file may grow beyond a limit."""
    program = """
        import resource, signal, sys
        from pathlib import Path
        from tiny import tiny_bundle
        from edgeseg.errors import BundleError
        target = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            tiny_bundle(target)
        except BundleError as error:
            print(error, "|", error.hint)
    """
    told = output(program, tmp_path / "t.edgeseg")
    assert "cannot be written" in told
    assert "File too large" in told
    assert not (tmp_path / "t.edgeseg").exists()
    assert leftovers(tmp_path, "t.edgeseg") == set()


def test_killed_at_every_step(tmp_path: Path) -> None:
    """SIGKILL at the n-th flush or rename, for every n: afterwards there is one whole bundle, old or new."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from tiny import tiny_bundle
        from edgeseg.bundle import open_bundle
        target, seen = Path(sys.argv[1]), []
        for step in range(1, 100):
            if "accuracy" not in seen or "new" in seen:
                tiny_bundle(target)
            child = os.fork()
            if child == 0:
                left = step
                def wrap(real):
                    def counted(*args):
                        global left
                        left -= 1
                        if left == 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*args)
                    return counted
                os.fsync, os.rename = wrap(os.fsync), wrap(os.rename)
                tiny_bundle(target, reports={"new": {}})
                os._exit(0)
            _, status = os.waitpid(child, 0)
            bundle = open_bundle(target)
            bundle.verify()
            seen.append(*bundle.manifest.reports)
            if status == 0:
                break
        print(" ".join(seen))
    """
    seen = output(program, tmp_path / "tiny.edgeseg").split()
    assert len(seen) > 10
    assert seen == sorted(seen)  # "accuracy" (old) up to some step, "new" from there on
    assert set(seen) == {"accuracy", "new"}
    tiny_bundle(tmp_path / "tiny.edgeseg")
    assert leftovers(tmp_path) == set()


def test_something_else_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="not a bundle; it is left alone"):
        tiny_bundle(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(BundleError, match="left alone"):
        tiny_bundle(tmp_path / "home" / "thesis.tex")


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    programs = [tiny_program(tmp_path / "p.onnx")]
    golden = [("x", tiny_image(), tiny_mask(tiny_image()))]
    for place in (tmp_path / "file" / "t.edgeseg", Path("/proc/self/t.edgeseg")):
        with pytest.raises(BundleError, match="cannot be written") as caught:
            create_bundle(place, recipe_text=RECIPE, programs=programs, golden=golden)
        assert "permissions" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(bundle: Bundle, engine_file: Path) -> None:
    for folder in (bundle.path.parent, bundle.path):
        folder.chmod(0o555)
    try:
        open_bundle(bundle.path).verify()
        with pytest.raises(BundleError, match="Permission denied"):
            tiny_bundle(bundle.path)
        with pytest.raises(BundleError, match="Permission denied"):
            bundle.add_engine(tiny_engine(), [engine_file])
    finally:
        for folder in (bundle.path.parent, bundle.path):
            folder.chmod(0o755)


def test_what_cannot_be_written_is_known_at_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the folder around a bundle, of the bundle, and of its folder of engines."""
    check_writable(bundle.path)
    (bundle.path / "engines").mkdir()
    denied, real = set[Path](), os.open

    def guarded(name: Any, *args: Any, **options: Any) -> int:
        if Path(str(name)).parent in denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return real(name, *args, **options)

    monkeypatch.setattr(os, "open", guarded)
    for folder in (bundle.path.parent, bundle.path, bundle.path / "engines"):
        denied.add(folder)
        with pytest.raises(BundleError, match="Permission denied"):
            check_writable(bundle.path)
        denied.clear()
    check_writable(bundle.path)
    assert bundle.verify().unlisted == ()


def test_broken_recipe_and_missing_program(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        tiny_bundle(bundle.path, recipe_text="name: x")
    program = tiny_program(tmp_path / "gone.onnx")
    program.onnx_path.unlink()
    with pytest.raises(BundleError, match=r"gone\.onnx"):
        tiny_bundle(bundle.path, programs=[program])
    bundle.verify()


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Unplugged()], ids=["disk full", "ctrl-c"]
)
def test_adding_an_engine_may_fail_at_every_step(
    failure: BaseException, bundle: Bundle, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = bundle.add_engine(tiny_engine(), [engine_file])
    real, steps = os.fsync, 0
    while True:
        steps += 1
        left = steps

        def failing(handle: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise failure
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            try:
                bundle.add_engine(tiny_engine(), [engine_file])
                break
            except (BundleError, Unplugged):
                pass
        found = open_bundle(bundle.path)
        assert len(found.manifest.engines) == 1
        assert found.verify().unlisted == ()
        if found.manifest.engines[0] != old:
            break
    assert steps > 3
    bundle = open_bundle(bundle.path)
    bundle.add_engine(tiny_engine(), [engine_file])
    assert bundle.verify().unlisted == ()
    assert len(bundle.manifest.engines) == 1


def test_builds_at_once_lose_nothing(bundle: Bundle, engine_file: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from tiny import tiny_engine
        from edgeseg.bundle import open_bundle
        bundle, source, start = open_bundle(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
        for number in range(start, start + 5):
            bundle.add_engine(tiny_engine(device_key=f"{number:064x}"), [source])
    """
    running = [start(program, bundle.path, engine_file, first) for first in (0, 100)]
    assert [(*process.communicate(timeout=120), process.returncode) for process in running] == [
        ("", "", 0)
    ] * 2
    found = open_bundle(bundle.path)
    assert len(found.manifest.engines) == 10
    assert found.verify().unlisted == ()


class TestCopy:
    """`copy_bundle`: the same bundle at another place, or nothing."""

    def test_it_is_the_same_bundle(self, bundle: Bundle, engine_file: Path, tmp_path: Path) -> None:
        bundle.add_engine(tiny_engine(), [engine_file])
        bundle = open_bundle(bundle.path)
        copied = copy_bundle(bundle, tmp_path / "there" / "copy.edgeseg")
        copied.verify()
        assert copied.manifest == bundle.manifest

    @pytest.mark.parametrize(
        "failure",
        [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Unplugged()],
        ids=["disk full", "ctrl-c"],
    )
    def test_a_failure_leaves_what_was_there(
        self, failure: BaseException, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        earlier = tiny_bundle(tmp_path / "copy.edgeseg", reports={})
        real, left = os.fsync, 3

        def failing(handle: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise failure
            real(handle)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises((BundleError, Unplugged)) as caught:
            copy_bundle(bundle, earlier.path)
        assert isinstance(caught.value, Unplugged) or "No space left on device" in str(caught.value)
        assert open_bundle(earlier.path).manifest == earlier.manifest
        assert leftovers(tmp_path, "copy.edgeseg") == set()

    def test_a_damaged_bundle_is_not_copied(self, bundle: Bundle, tmp_path: Path) -> None:
        (bundle.path / "recipe.yaml").write_text("name: changed")
        with pytest.raises(IntegrityError, match=r"recipe\.yaml was changed"):
            copy_bundle(bundle, tmp_path / "copy.edgeseg")
        assert leftovers(tmp_path, "copy.edgeseg") == set()
        assert not (tmp_path / "copy.edgeseg").exists()
