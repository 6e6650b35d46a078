"""Which files belong together: the pairs of image and label of one split, and what is left over."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from edgeseg.data.formats import Folders, Format, SplitName, format_of
from edgeseg.errors import DataError
from edgeseg.files import is_clutter
from edgeseg.recipe.schema import Data, Split

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Sample:
    """A pair of files; `name` is the image's path below the data root, without suffix."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The files of one split.

    Attributes:
        format: how to read them.
        folders: where they were found, below the data root.
        samples: the pairs, by name.
        without_label, without_image: names of files that lack their other half.
        not_found: names that the split's list holds and the folders do not.
        twins: a name, the file that has it, and another one that claims it.
        loops: links to a folder that they lie in; they are not followed.
        respelled: samples whose two files spell one name in different Unicode forms; they pair up.
        recased: samples whose two files' names differ in upper and lower case alone; they pair up where that
            is clear.
    """

    format: Format
    folders: Folders
    samples: tuple[Sample, ...]
    without_label: tuple[str, ...]
    without_image: tuple[str, ...]
    not_found: tuple[str, ...]
    twins: tuple[tuple[str, Path, Path], ...] = ()
    loops: tuple[Path, ...] = ()
    respelled: tuple[str, ...] = ()
    recased: tuple[str, ...] = ()


@dataclass(slots=True)
class _Files:
    """Files of one folder, by sample name."""

    by_name: dict[str, Path] = field(default_factory=dict)
    twins: list[tuple[str, Path, Path]] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)


def find_samples(data: Data, split: SplitName, root: Path) -> Found:
    """Pair up the files of one split; what does not pair up is reported in the result.

    Names are compared in Unicode's composed form (NFC): a Mac writes them decomposed, and both mean the same
    file.

    Raises:
        RecipeError: the section contradicts itself.
        DataError: a folder or list is missing.
    """
    if not root.is_dir():
        raise DataError(
            f"data root {root}: no such folder",
            hint=f"give the folder of the {data.format} data with --data-root",
        )
    form = format_of(data, root)
    chosen = data.train if split == "train" else data.val
    if chosen is None:
        folders = _existing(form.train if split == "train" else form.val, root, data, split)
    else:
        folders = Folders(chosen.images, chosen.labels)
    image_name, label_name = (chosen.image_name, chosen.label_name) if chosen else ("{}", "{}")
    labels = _named_files(root / folders.labels, form.label_files, label_name)
    together = os.path.realpath(root / folders.images) == os.path.realpath(root / folders.labels)
    images = _named_files(
        root / folders.images,
        form.image_files,
        image_name,
        set(labels.by_name.values()) if together and image_name != label_name else None,
    )
    if together and image_name == label_name:
        images, labels = _apart(images)
    recased = _same_but_for_case(images, labels)
    names = images.by_name.keys() | labels.by_name.keys()
    listed = set(names) if folders.list_file is None else _read_list(root / folders.list_file)
    kept = {name for name in listed if chosen is None or _is_kept(name, chosen)}
    both = sorted(kept & images.by_name.keys() & labels.by_name.keys())
    paired = [(images.by_name[name], labels.by_name[name]) for name in both]
    return Found(
        form,
        folders,
        tuple(Sample(f"{folders.images}/{name}", *pair) for name, pair in zip(both, paired, strict=True)),
        without_label=tuple(sorted((kept & images.by_name.keys()) - labels.by_name.keys())),
        without_image=tuple(sorted((kept & labels.by_name.keys()) - images.by_name.keys())),
        not_found=tuple(sorted(kept - names)),
        twins=tuple(twin for twin in (*images.twins, *labels.twins) if twin[0] in kept),
        loops=tuple(dict.fromkeys((*images.loops, *labels.loops))),
        respelled=tuple(
            name
            for name, (image, label) in zip(both, paired, strict=True)
            if _is_composed(image) != _is_composed(label)
        ),
        recased=tuple(name for name in both if name in recased),
    )


def _same_but_for_case(images: _Files, labels: _Files) -> set[str]:
    """Give labels the names of images that differ in case alone, one to one; the names."""
    lone_images, lone_labels = (
        [name for name in one.by_name if name not in other.by_name]
        for one, other in ((images, labels), (labels, images))
    )
    folded: dict[str, list[str]] = {}
    for name in lone_labels:
        folded.setdefault(name.casefold(), []).append(name)
    claims = Counter(name.casefold() for name in lone_images)
    same = {
        name: folded[key][0]
        for name in lone_images
        if claims[key := name.casefold()] == len(folded.get(key, ())) == 1
    }
    for name, label in same.items():
        labels.by_name[name] = labels.by_name.pop(label)
    return set(same)


def composed(name: str) -> str:
    """A name in Unicode's composed form."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _is_composed(path: Path) -> bool:
    return unicodedata.is_normalized("NFC", path.name)


def _existing(candidates: Sequence[Folders], root: Path, data: Data, split: str) -> Folders:
    present = [folders for folders in candidates if (root / folders.images).is_dir()]
    complete = [folders for folders in present if (root / folders.labels).is_dir()]
    if present:
        return (complete or present)[0]
    places = " or ".join(dict.fromkeys(folders.images for folders in candidates))
    raise DataError(
        f"data root {root}: no folder {places} (format {data.format}, {split} split)",
        hint=(
            "give the folder that holds it with --data-root, or name the folders in the recipe under"
            f" data.{split}"
        ),
    )


def _named_files(folder: Path, pattern: str, template: str, other: set[Path] | None = None) -> _Files:
    """Files anywhere below a folder that match.

    Args:
        template: how the files are called, {} being the sample's name.
        other: files that have another role already, although they match.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder", hint="check --data-root, and the folders under data in the recipe"
        )
    matcher = re.compile(pattern, re.IGNORECASE | re.DOTALL)  # names may hold line breaks
    before, _, after = template.partition("{}")
    found = _Files()
    for path in walk(folder, found.loops):
        match = matcher.fullmatch(path.relative_to(folder).as_posix())
        if match is None or (other and template == "{}" and path in other):
            continue
        parent, slash, called = composed(match[1]).rpartition("/")
        if not (
            called.startswith(before)
            and called.endswith(after)
            and len(called) > len(before) + len(after) - 1
        ):
            continue
        name = parent + slash + called[len(before) : len(called) - len(after)]
        if name in found.by_name:
            found.twins.append((name, found.by_name[name], path))
        else:
            found.by_name[name] = path
    return found


def _apart(files: _Files) -> tuple[_Files, _Files]:
    """Images and labels that lie in one folder under one name: of two files the lossless one is the label."""
    images, labels = _Files(dict(files.by_name), [], files.loops), _Files()
    for name, first, second in files.twins:
        lossless = [path for path in (first, second) if path.suffix.lower() in _LOSSLESS]
        if len(lossless) == 1 and name not in labels.by_name:
            labels.by_name[name] = lossless[0]
            images.by_name[name] = second if lossless[0] is first else first
        else:
            images.twins.append((name, first, second))
    return images, labels


def walk(folder: Path, loops: list[Path] | None = None) -> Iterator[Path]:
    """The files below a folder, links followed; what file managers leave lying about is left out.

    A link to a folder that it lies in, by device and inode, is not followed, and is added to `loops`.

    Raises:
        DataError: a folder cannot be read.
    """

    def enter(place: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        try:
            with os.scandir(place) as entries:
                found = sorted(
                    (entry for entry in entries if not is_clutter(entry.name)), key=lambda entry: entry.name
                )
        except OSError as error:
            raise DataError(
                f"{place}: {error.strerror}", hint="make the folder readable, or move it away"
            ) from error
        for entry in found:
            path = Path(entry.path)
            here = _folder_identity(path) if _may_be_folder(entry) else None
            if here is None:
                yield path
            elif here in above:
                if loops is not None:
                    loops.append(path)
            else:
                yield from enter(path, above | (_above(path) if entry.is_symlink() else {here}))

    yield from enter(folder, _above(folder))


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _above(folder: Path) -> frozenset[tuple[int, int]]:
    """A folder and all that it really lies in."""
    real = Path(os.path.realpath(folder))
    return frozenset(here for place in (real, *real.parents) if (here := _folder_identity(place)) is not None)


def _folder_identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; None for a file, and for a link that leads nowhere or to itself."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _read_list(path: Path) -> set[str]:
    try:
        return {composed(name) for name in path.read_text(encoding="utf-8").split()}
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}", hint="the format lists its samples in this file; check --data-root"
        ) from error


def _is_kept(name: str, split: Split) -> bool:
    included = not split.include or any(fnmatchcase(name, composed(pattern)) for pattern in split.include)
    return included and not any(fnmatchcase(name, composed(pattern)) for pattern in split.exclude)
