"""edgeseg.files: what a path is, and what is done about it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeseg import files
from edgeseg.errors import DataError
from edgeseg.files import (
    Target,
    can_replace,
    file_sha256,
    followed,
    is_clutter,
    is_stream,
    json_digest,
    open_stream,
    replace_file,
    write_whole,
)
from mounts import device as device
from mounts import mounted

ROOT = os.geteuid() == 0


def as_nobody(line: str, folder: Path) -> str:
    """What Python code prints when a user without rights runs it in `folder`."""
    if not ROOT or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists():
        pytest.skip("becoming another user needs root, setpriv, and a Python that he may run")
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", line],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("durable", [False, True])
def test_contents_are_replaced_and_nothing_else_is_left(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a"
    replace_file(path, b"one", durable=durable)
    replace_file(path, b"two", durable=durable)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_earlier_file(small_disk: Path) -> None:
    path = small_disk / "a"
    replace_file(path, b"one")
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, bytes(8 << 20))
    assert path.read_bytes() == b"one"
    assert list(small_disk.iterdir()) == [path]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "a", b"")


def test_mode_and_owner_stay_and_hard_links_keep_what_they_had(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if ROOT:
        os.chown(path, 1234, 1235)
    before = path.stat()
    other.hardlink_to(path)
    replace_file(path, b"new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


def test_a_new_file_has_the_mode_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_leads_to_changes(tmp_path: Path, exists: bool) -> None:
    real, link, again = tmp_path / "disk" / "real", tmp_path / "link", tmp_path / "again"
    real.parent.mkdir()
    if exists:
        real.write_bytes(b"old")
    link.symlink_to("disk/real")
    again.symlink_to("link")
    Target(again, DataError).write(b"new")
    assert again.is_symlink() and link.is_symlink() and real.read_bytes() == b"new"
    assert followed(again) == real
    assert {path.name for path in real.parent.iterdir()} == {"real"}


def test_a_device_is_written_through(device: Path) -> None:
    Target(device, DataError).write(b"x" * 100_000)
    replace_file(device, b"y")
    assert stat.S_ISCHR(device.stat().st_mode)
    assert is_stream(device)
    assert list(device.parent.iterdir()) == [device]


def test_a_fifo_gets_it_all_and_its_reader_waits_from_the_start(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    target = Target(fifo, DataError)
    reader.join(0.1)
    assert reader.is_alive(), "it must not see the end before the contents"
    target.write(b"x" * 1_000_000)
    reader.join(10)
    assert got == [b"x" * 1_000_000]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_without_a_reader_is_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="nobody came to read it"):
        open_stream(fifo, 0.2)
    monkeypatch.setattr(files, "_POLL_S", 0.01)
    late = threading.Timer(0.3, lambda: fifo.read_bytes())
    late.start()
    stream = open_stream(fifo, 10)
    assert stream is not None
    os.close(stream)
    late.join()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
def test_stdout_by_its_names(name: str, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from edgeseg.files import Target, is_stdout; from edgeseg.errors import"
        f" DataError\nprint('before'); Target(Path({name!r}), DataError).write(b'middle\\n'); print('after',"
        f" is_stdout(Path({name!r})))"
    )
    expected = b"before\nmiddle\nafter True\n"
    piped = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, cwd=tmp_path
    ).stdout
    assert piped == expected
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, cwd=tmp_path)
    assert out.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_a_descriptor_that_the_shell_gave(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        replace_file(Path(f"/dev/fd/{write}"), b"hello")
        assert os.read(read, 10) == b"hello"
    finally:
        os.close(read)
        os.close(write)


def test_a_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "place"
    source.write_bytes(b"old, and longer than the new")
    place.touch()
    with mounted(source, place):
        assert not can_replace(place)
        Target(place, DataError).write(b"new")
        assert source.read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "place"}


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES])
def test_what_cannot_be_renamed_onto_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def refuse(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", refuse)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_in_place_a_failure_brings_the_old_contents_back(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_disk / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "can_replace", lambda path: False)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, bytes(8 << 20))
    assert path.read_bytes() == b"old"


def test_another_user_s_folder_with_a_file_that_all_may_write(tmp_path: Path) -> None:
    """As /dev/shm, or `docker -v` of one file: nothing can be made there, and the file can be written."""
    (tmp_path / "edgeseg").mkdir()
    for name in ("files.py", "text.py"):
        (tmp_path / "edgeseg" / name).write_bytes((Path(files.__file__).parent / name).read_bytes())
    (tmp_path / "edgeseg" / "__init__.py").touch()
    for parent in (tmp_path, *tmp_path.parents):
        if ROOT and parent.stat().st_uid == 0 and parent not in (Path("/"), Path("/tmp")):
            parent.chmod(parent.stat().st_mode | 0o055)
    folder = tmp_path / "sticky"
    folder.mkdir()
    (folder / "open").write_bytes(b"old")
    (folder / "open").chmod(0o666)
    (folder / "closed").write_bytes(b"old")
    code = (
        "from pathlib import Path; from edgeseg.files import Target\nfor name in ('open', 'closed', 'new'):\n"
        "    try: Target(Path('sticky', name), lambda text, hint: SystemError(text)).write(b'new');"
        " print('written')\n    except SystemError as error: print(error)\n"
    )
    refused = [f"sticky/{name}: cannot be written: Permission denied" for name in ("closed", "new")]
    for mode, new in ((0o755, refused[1]), (0o1777, "written")):
        folder.chmod(mode)
        assert as_nobody(code, tmp_path).splitlines() == ["written", refused[0], new]
        assert (folder / "open").read_bytes() == b"new" and (folder / "closed").read_bytes() == b"old"
        assert {path.name for path in folder.iterdir()} <= {"open", "closed", "new"}


def a_folder(folder: Path) -> Path:
    return folder


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "a"


def a_circle(folder: Path) -> Path:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    return folder / "one"


def too_long(folder: Path) -> Path:
    return folder / ("x" * 256)


def nowhere(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "unmounted" / "disk" / "a")
    return folder / "link"


@pytest.mark.parametrize(
    ("make", "reason", "hint"),
    [
        (a_folder, "Is a directory", "give a file in it"),
        (below_a_file, "", "a part of the path is a file"),
        (a_circle, "Too many levels of symbolic links", "leads back to itself"),
        (too_long, "File name too long", "shorter name"),
        (nowhere, "No such file or directory", "df -h"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(
    make: Callable[[Path], Path], reason: str, hint: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(DataError) as error:
        Target(path, DataError)
    assert str(error.value).startswith(f"{path}: cannot be written: {reason}")
    assert hint in error.value.hint
    assert not (tmp_path / "unmounted").exists(), (
        "a link to a disk that is not there makes no folder in its place"
    )


def test_trying_leaves_nothing_and_the_longest_name_goes(tmp_path: Path) -> None:
    path = tmp_path / "new" / ("ä" * 127)
    target = Target(path, DataError)
    assert not list(path.parent.iterdir())
    target.write(b"x")
    assert path.read_bytes() == b"x" and list(path.parent.iterdir()) == [path]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff\n")
    Target(path, DataError).write(b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"a\xff\n"]


@pytest.mark.parametrize(
    "name", ["._0001.jpg", ".DS_Store", ".thumbs", "Thumbs.db", "@eaDir", "__MACOSX", "desktop.ini", ".a\nb"]
)
def test_clutter(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["0001.jpg", "a.b", "Thumbs.db.png", "_", "#1.png", "eaDir"])
def test_no_clutter(name: str) -> None:
    assert not is_clutter(name)


def test_a_digest_is_that_of_bundles_journals_and_engines_so_far() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "x"}}
    # Both figures are those of the code that each room had of its own.
    assert json_digest(value) == "13d9c6f04f4f989250bc4400e3ae70eefe4f90946579cd5b1169a1f55a3486dc"
    compact = json_digest(value, separators=(",", ":"))
    assert compact == "6a432034964912ec1cd08079165f96a6a2134a17a14427b5e5de55c8a9d7b70b"
    assert json_digest(dict(reversed(value.items()))) == json_digest(value)
    assert json_digest({"a": True}) != json_digest({"a": 1})


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_file_is_hashed_piece_by_piece(size: int, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(size))
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "missing")


def test_a_whole_file_comes_with_its_folder_or_is_an_error_of_the_caller(small_disk: Path) -> None:
    path = small_disk / "new" / "report.json"
    write_whole(path, b"first", DataError)
    with pytest.raises(DataError, match="No space left on device") as caught:
        write_whole(path, bytes(8 << 20), DataError, "free some space")
    assert caught.value.hint == "free some space"
    assert path.read_bytes() == b"first" and os.listdir(path.parent) == ["report.json"]
