"""Builds that are killed, and builds of one bundle at once, with a real runtime in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from edgeseg.bundle import open_bundle
from edgeseg.engines.choose.build import build_engine
from edgeseg.engines.open import verify_engines
from locations import REPOSITORY, SUPPORT
from tiny import tiny_bundle

TOLD = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
"""By these a runtime may tell that it is tested, was told to be quiet, or keeps its files elsewhere."""


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    """A Python of its own, that does not know it is tested: runtimes behave elsewhere as they do here."""
    inherited = {name: value for name, value in os.environ.items() if name not in TOLD}
    paths = {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(REPOSITORY)])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, *command], env={**inherited, **paths, **environment}, text=True, **pipes
    )


def test_killed_at_every_step_of_a_build(tmp_path: Path) -> None:
    """SIGKILL while it compiles, checks and times, and at the n-th flush or rename while it packs, for every
    n: the engine that was there before still runs."""
    program = """
        import os, signal, sys
        from pathlib import Path
        from edgeseg.bundle import open_bundle
        from edgeseg.engines.choose import choice as choose
        from edgeseg.engines.choose.spec import EngineSpec
        from edgeseg.engines.open import verify_engines
        path, threads = Path(sys.argv[1]), 1

        def die(*args, **options):
            os.kill(os.getpid(), signal.SIGKILL)

        def dying(real, left):
            def counted(*args, **options):
                left[0] -= 1
                return die() if left[0] == 0 else real(*args, **options)
            return counted

        def in_child(work):
            child = os.fork()
            if child == 0:
                work()
                os._exit(0)
            return os.waitpid(child, 0)[1]

        def build():
            choose.build_level(open_bundle(path), runtimes=["onnxruntime"], threads=threads)

        def check():
            bundle = open_bundle(path)
            bundle.verify()
            verify_engines(bundle)
            print(*(engine.options["threads"] for engine in bundle.manifest.engines), flush=True)

        assert in_child(build) == 0
        threads = 2
        for place, name in ((EngineSpec, "compile"), (choose, "check_golden"), (choose, "measure_together")):
            def broken():
                setattr(place, name, die)
                build()
            assert in_child(broken) == signal.SIGKILL
            assert in_child(check) == 0
        for step in range(1, 100):
            def broken():
                left = [step]
                calls = (os.fsync, os.rename, os.replace)
                os.fsync, os.rename, os.replace = (dying(call, left) for call in calls)
                build()
            status = in_child(broken)
            assert in_child(check) == 0
            if status == 0:
                break
    """
    path = tiny_bundle(tmp_path / "tiny.edgeseg").path
    killed = start(
        "-c", textwrap.dedent(program), str(path), TMPDIR=str(tmp_path)
    )  # nobody clears up after SIGKILL
    out, err = killed.communicate(timeout=120)
    assert killed.returncode == 0, err
    seen = out.split()
    assert len(seen) > 6
    assert seen == sorted(seen), "the old engine up to some step, the new one from there on"
    assert set(seen) == {"1", "2"}
    bundle = open_bundle(tmp_path / "tiny.edgeseg")
    build_engine(bundle, threads=1)
    assert bundle.verify().unlisted == ()
    verify_engines(bundle)


def test_a_build_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    """While it compiles: the folder that it compiles into goes, and the bundle is as it was."""
    program = """
        import os, signal, sys
        from edgeseg.cli.main import main
        from edgeseg.engines.choose.spec import EngineSpec

        def compile(plan, bundle, folder, *args):
            (folder / "half").write_bytes(b"engine")
            os.kill(os.getpid(), signal.SIGTERM)

        EngineSpec.compile = compile
        sys.argv = ["edgeseg", "build", sys.argv[1], "--runtime", "onnxruntime"]
        main()
    """
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ended = start("-c", textwrap.dedent(program), str(bundle.path), TMPDIR=str(scratch))
    _, told = ended.communicate(timeout=60)
    assert (ended.returncode, told.splitlines()[-1]) == (143, "terminated"), told
    assert "Traceback" not in told
    assert list(scratch.iterdir()) == []
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_two_builds_at_once_that_leave_nothing_at_home(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.edgeseg")
    home = tmp_path / "home"
    home.mkdir()
    command = ["-m", "edgeseg", "build", str(bundle.path), "--runtime", "onnxruntime", "--force", "--threads"]
    running = [start(*command, threads, HOME=str(home)) for threads in ("1", "2")]
    told = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
    assert [code for _, code in told] == [0, 0], told
    found = open_bundle(bundle.path)
    assert len(found.manifest.engines) == len(found.manifest.choices) == 1, (
        "the later one replaces the earlier one's"
    )
    assert found.verify().unlisted == ()
    verify_engines(found)
    assert list(home.iterdir()) == [], "a runtime that reports on its user keeps a number for him here"
