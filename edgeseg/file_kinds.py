"""What a file really is, by its first bytes: its name only says what someone thought."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    Attributes:
        name: with its article, as the end of "this is".
        cure: how to come from it to the file that was meant; empty where nothing general can be said.
    """

    name: str
    cure: str = ""


_PAGE = (
    "fetch the file itself: on GitHub its Raw link, on Hugging Face /resolve/ in the address in place of"
    " /blob/"
)
_AGAIN = "copy or download the file again"

# (offset, first bytes, name, cure); FILE in a cure is the quoted path, FOLDER its folder.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git -C FOLDER lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it: gunzip --keep FILE (a .tar.gz: tar -xzf FILE)"),
    (0, b"BZh", "a bzip2 archive", "unpack it: bunzip2 --keep FILE"),
    (0, b"\xfd7zXZ\0", "an xz archive", "unpack it: unxz --keep FILE"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it: zstd -d FILE"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it: 7z x FILE"),
    (0, b"Rar!", "a RAR archive", "unpack it: unrar x FILE"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it: unzip FILE"),
    (257, b"ustar", "a tar archive", "unpack it: tar -xf FILE"),
    (
        0,
        b"\x00\x05\x16\x07",
        "what macOS keeps beside a file on a foreign disk (AppleDouble)",
        "delete it: rm FILE",
    ),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, MATLAB)", ""),
    (4, b"TFL3", "a TensorFlow Lite model", ""),
    (0, b"GGUF", "a GGUF model", ""),
    (0, b"MATLAB 5.0", "a MATLAB file", ""),
    (0, b"\x93NUMPY", "a NumPy array", ""),
    (0, b"%PDF", "a PDF document", ""),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", ""),
    (0, b"\xff\xd8\xff", "a JPEG picture", ""),
    (0, b"GIF8", "a GIF picture", ""),
    (0, b"BM", "a BMP picture", ""),
    (0, b"II*\0", "a TIFF picture", ""),
    (0, b"MM\0*", "a TIFF picture", ""),
    (8, b"WEBP", "a WebP picture", ""),
    (4, b"ftypheic", "a HEIC picture, as iPhones make them", "convert it: heif-convert FILE OUT.jpg"),
    (4, b"ftypmif1", "a HEIF picture", "convert it: heif-convert FILE OUT.jpg"),
    (4, b"ftypavif", "an AVIF picture", "convert it: avifdec FILE OUT.png"),
    (4, b"ftyp", "a video", ""),
    (0, b"8BPS", "a Photoshop file", ""),
)
_TEXT: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"<!doctype html", b"<html"), "a web page", _PAGE),
    ((b"<?xml", b"<svg", b"<annotation"), "XML text", ""),
    ((b"{", b"["), "JSON text", ""),
)


def kind_of(path: Path) -> Kind | None:
    """The kind of a file; None where its bytes do not tell. A file that cannot be read has none."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    return kind_of_bytes(head, path)


def kind_of_bytes(head: bytes, path: Path) -> Kind | None:
    """The kind that the first HEAD_BYTES of a file tell; `path` is named in the cure."""
    if not head:
        return Kind("an empty file", _AGAIN)
    if not head.strip(b"\0"):
        return Kind("a file of zeros", _AGAIN)
    for offset, magic, name, cure in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            quoted = cure.replace("FILE", shlex.quote(str(path))).replace(
                "FOLDER", shlex.quote(str(path.parent))
            )
            return Kind(name, quoted)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for openings, name, cure in _TEXT:
        if start.startswith(openings):
            return Kind(name, cure)
    text = _text(head)
    if text is None or not all(char.isprintable() or char in "\r\n\t\ufeff" for char in text):
        return None
    words = " ".join(text.split())
    return Kind(f'plain text ("{words[:40]}{"..." if len(words) > 40 else ""}")')


def _text(head: bytes) -> str | None:
    """UTF-8 whose last character may be cut off; None for anything else."""
    for end in range(len(head), max(0, len(head) - 4), -1):
        try:
            return head[:end].decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None
