"""What is said of weight files that are not opened, and the lines to paste that make plain tensors of them
elsewhere.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import shlex
from pathlib import Path

from edgeseg.errors import DataError
from edgeseg.text import quoted

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch.save wrote first before it wrote zip files."""

_SHOWN = 10
_CONVERT = (
    "import sys, torch; f = lambda v: f(v.state_dict()) if isinstance(v, torch.nn.Module) else {k: f(x) for"
    " k, x in v.items()} if isinstance(v, dict) else v if isinstance(v, torch.Tensor) else None;"
    ' torch.save(f(torch.load(sys.argv[1], map_location="cpu", weights_only=False)), sys.argv[2])'
)
_CONVERT_PICKLE = (
    "import sys, pickle, torch; f = lambda v: {k: f(x) for k, x in v.items()} if isinstance(v, dict) else "
    'torch.as_tensor(v) if hasattr(v, "__array__") else None; '
    'torch.save(f(pickle.load(open(sys.argv[1], "rb"))), sys.argv[2])'
)
_CONVERT_SCRIPT = (
    'import sys, torch; torch.save(dict(torch.jit.load(sys.argv[1], map_location="cpu").state_dict()),'
    " sys.argv[2])"
)
_HARMFUL = re.compile(
    r"(os|posix|nt|sys|subprocess|commands|shutil|socket|pty|ctypes|importlib|imp|runpy|code|webbrowser|asyncio|requests|urllib\w*"
    r"|torch\.hub|torch\.utils\.cpp_extension|pip)(\.|$)|(builtins|__builtin__)\.(eval|exec|compile|open|__import__|execfile|apply)$"
)
"""Names that no training leaves in its weights: whoever put them there wants to run something."""


def import_command(path: Path, arch: str) -> str:
    """The command that makes a checkpoint of ours of a foreign one, to paste."""
    return f"edgeseg weights import {quoted(path)} --arch {arch}"


def convert_command(path: Path, script: str = _CONVERT) -> str:
    """A line to paste where a file is trusted: it writes the file's tensors alone beside it, and runs what
    the file holds.
    """
    plain = path.with_name(f"{path.stem}.plain.pth")
    return f"python -c {shlex.quote(script)} {quoted(path)} {quoted(plain)}"


def plain_hint(path: Path) -> str:
    return (
        "re-save it as plain tensors; where you trust the file, and its classes can be imported:\n "
        f" {convert_command(path)}"
    )


def convert_script_hint(path: Path) -> str:
    return f"take its weights out, where you trust the file:\n  {convert_command(path, _CONVERT_SCRIPT)}"


def refusal(path: Path, names: list[str]) -> DataError:
    """Names the globals that were refused; a whole pickled model by its class."""
    harmful = sorted(name for name in names if _HARMFUL.match(name))
    if harmful:
        return DataError(
            f"{path}: not a checkpoint of plain tensors: it asks for {_first(harmful)}, which runs commands;"
            " nothing was run",
            hint="do not open it anywhere; take the weights from their authors anew, as .safetensors",
        )
    every = {*names, *_globals_of_old(path)}
    own = sorted(name for name in names if not name.startswith("torch.nn.modules.")) or sorted(names)
    if any(name.startswith("torch.nn.modules.") for name in every):
        what = f"not a checkpoint of plain tensors, but a whole pickled model ({_first(own)}), which is code"
    else:
        what = (
            f"not a checkpoint of plain tensors: it names {_first(own)}, and a file that names code can"
            " run it"
        )
    return DataError(f"{path}: {what}; nothing of it was run", hint=plain_hint(path))


def unreadable_pickle(path: Path, told: str) -> DataError:
    """What torch's restricted unpickler said of a file that names nothing it refuses."""
    reason = re.search(r"WeightsUnpickler error:\s*(.*)", told)
    text = reason[1] if reason and reason[1] else told.splitlines()[0] if told else "not readable"
    if text.startswith("Unsupported operand"):
        text = "it is pickled with another protocol than torch's own (2)"
    with open(path, "rb") as file:
        head = file.read(32)
    if head[:1] == b"\x80" and LEGACY_MAGIC not in head:
        return DataError(
            f"{path}: a plain pickle, not a checkpoint of plain tensors: {text}",
            hint=f"where you trust the file, re-save it:\n  {convert_command(path, _CONVERT_PICKLE)}",
        )
    return DataError(f"{path}: not a checkpoint of plain tensors: {text}", hint=plain_hint(path))


def _globals_of_old(path: Path) -> set[str]:
    """The globals that an old torch file names, read without building anything; empty where it is not one."""
    found: set[str] = set()
    try:
        with open(path, "rb") as file:
            if file.read(32).find(LEGACY_MAGIC) < 0:
                return found
            file.seek(0)
            for _ in range(4):  # the magic number, the protocol, the system, and then the object
                found |= {
                    str(value).replace(" ", ".")
                    for code, value, _ in pickletools.genops(file)
                    if code.name == "GLOBAL"
                }
    except (ValueError, OSError, EOFError, pickle.UnpicklingError, UnicodeDecodeError):
        pass
    return found


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
