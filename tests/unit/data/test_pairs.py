"""Pairs of files: whatever links, Unicode and templates do to names, each file has one partner or is
named.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.datasets import open_dataset
from edgeseg.data.pairs import find_samples, walk
from edgeseg.errors import DataError
from edgeseg.recipe.schema import Data
from small_sets import blob, checked, only, two_classes, write_set
from trees import write_image, write_label


def names(root: Path, data: Data | None = None) -> list[str]:
    return [sample.name for sample in find_samples(data or two_classes(), "train", root).samples]


class TestLinks:
    @pytest.mark.parametrize("target", [".", "..", "../..", "/", "self"])
    def test_a_link_back_is_not_followed_and_told(self, tmp_path: Path, target: str) -> None:
        root = write_set(tmp_path)
        link = root / "images/train/loop"
        link.symlink_to(link if target == "self" else target)
        assert names(root) == [f"images/train/train{n}" for n in range(3)]
        report = checked(root)
        assert report.problems == ()
        if target != "self":  # which leads nowhere at all
            warned = only(report.warnings, "link")
            assert str(link) in warned.message and warned.mend == f"rm {link}"

    def test_links_that_lead_to_each_other_come_to_an_end(self, tmp_path: Path) -> None:
        for one, other in (("a", "b"), ("b", "a")):
            (tmp_path / one).mkdir()
            (tmp_path / one / f"{one}.png").write_bytes(b"x")
            (tmp_path / one / "link").symlink_to(tmp_path / other)
        loops: list[Path] = []
        found = {path.relative_to(tmp_path).as_posix() for path in walk(tmp_path / "a", loops)}
        assert found == {"a/a.png", "a/link/b.png"} and loops == [tmp_path / "a/link/link"]

    def test_links_elsewhere_are_followed(self, tmp_path: Path) -> None:
        write_set(tmp_path / "disk")
        (tmp_path / "data").mkdir()
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind).symlink_to(tmp_path / "disk" / kind)
        assert len(names(tmp_path / "data")) == 3
        assert checked(tmp_path / "data").warnings == ()

    def test_a_link_to_nothing_is_an_unreadable_file(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        (root / "images/train/train0.png").unlink()
        (root / "images/train/train0.png").symlink_to(root / "gone.png")
        assert "train0.png" in only(checked(root).problems, "image").message

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
    def test_a_folder_that_cannot_be_read(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        (root / "images/train/closed").mkdir(mode=0)
        with pytest.raises(DataError, match="closed"):
            names(root)


class TestUnicode:
    def test_composed_and_decomposed_names_are_one(self, tmp_path: Path) -> None:
        root = tmp_path
        for split in ("train", "val"):
            for number in range(2):
                name = f"{split}-straße-ü{number}"
                write_image(
                    root / f"images/{split}" / unicodedata.normalize("NFD", f"{name}.png"),
                    (48, 64),
                    seed=number,
                )
                write_label(root / f"labels/{split}" / unicodedata.normalize("NFC", f"{name}.png"), blob())
        assert names(root) == [f"images/train/train-straße-ü{number}" for number in range(2)]
        data = two_classes(train={"images": "images/train", "labels": "labels/train", "exclude": ["*ü0"]})
        assert len(names(root, data)) == 1
        warned = only(checked(root).warnings, "name")
        assert "2 names are spelled in another Unicode form" in warned.message and "convmv" in warned.mend
        assert len(open_dataset(two_classes(), "train", root)) == 2

    def test_both_spellings_in_one_folder_are_two_files_of_one_name(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        for form in ("NFC", "NFD"):
            write_image(root / "images/train" / unicodedata.normalize(form, "ü.png"), (48, 64))
        write_label(root / "labels/train/ü.png", blob())
        assert only(checked(root).problems, "name").sample == "ü"


class TestCase:
    def test_names_that_differ_in_case_alone_pair_up(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        for path in list((root / "labels").rglob("*.png")):
            path.rename(path.with_name(f"{path.stem.upper()}.PNG"))
        assert names(root) == [f"images/train/train{number}" for number in range(3)]
        report = checked(root)
        assert report.problems == () and "upper and lower case" in only(report.warnings, "name").message

    def test_two_that_could_be_meant_stay_apart(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        (root / "labels/train/train0.png").rename(root / "labels/train/TRAIN0.png")
        write_label(root / "labels/train/Train0.png", blob())
        assert len(names(root)) == 2
        (problem,) = {problem.sample for problem in checked(root).problems} - {"TRAIN0", "Train0"}
        assert problem == "train0"


class TestTwins:
    def test_two_files_of_one_name_do_not_hide_the_rest(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        write_image(root / "images/train/train0.jpg", (48, 64))
        report = checked(root)
        problem = only(report.problems, "name")
        assert problem.mend == f"keep one of the two: rm {root / 'images/train/train0.png'}"
        assert report.splits[0].samples == 3


class TestTemplates:
    @pytest.mark.parametrize(
        ("image_name", "label_name"),
        [("{}", "{}_mask"), ("img_{}", "mask_{}"), ("{}_leftImg8bit", "{}_gtFine_labelIds")],
    )
    @pytest.mark.parametrize("together", [False, True])
    def test_names_around_a_samples_name(
        self, tmp_path: Path, image_name: str, label_name: str, together: bool
    ) -> None:
        root = write_set(tmp_path)
        labels = "images" if together else "labels"
        for folder, template in (("images", image_name), ("labels", label_name)):
            for path in sorted((root / folder).rglob("*.png")):
                target = root / (labels if folder == "labels" else folder) / path.parent.name / "sub"
                target.mkdir(parents=True, exist_ok=True)
                path.rename(target / f"{template.format(path.stem)}.png")
        keys = {"image_name": image_name, "label_name": label_name}
        data = two_classes(
            **{
                split: {"images": f"images/{split}", "labels": f"{labels}/{split}", **keys}
                for split in ("train", "val")
            }
        )
        assert names(root, data) == [f"images/train/sub/train{number}" for number in range(3)]
        assert checked(root, data).problems == ()

    def test_images_and_masks_of_one_name_in_one_folder(self, tmp_path: Path) -> None:
        root = write_set(tmp_path, image_suffix=".jpg")
        for path in (root / "labels").rglob("*.png"):
            shutil.move(path, root / "images" / path.parent.name)
        data = two_classes(
            **{
                split: {"images": f"images/{split}", "labels": f"images/{split}"}
                for split in ("train", "val")
            }
        )
        found = find_samples(data, "train", root)
        assert [(sample.image.suffix, sample.label.suffix) for sample in found.samples] == [
            (".jpg", ".png")
        ] * 3
        assert checked(root, data).problems == ()

    def test_photographs_are_not_their_own_labels(self, tmp_path: Path) -> None:
        root = write_set(tmp_path)
        data = two_classes(
            **{
                split: {"images": f"images/{split}", "labels": f"images/{split}"}
                for split in ("train", "val")
            }
        )
        problems = [problem for problem in checked(root, data).problems if problem.kind == "pair"]
        assert len(problems) == 6 and "one folder" in problems[0].mend

    @given(st.text(max_size=8))
    def test_a_template_holds_the_name_once(self, template: str) -> None:
        splits = {"train": {"images": "i", "labels": "l", "label_name": template}}
        if template.count("{}") == 1 and "/" not in template:
            assert two_classes(**splits).train is not None
        else:
            with pytest.raises(ValueError, match="label_name"):
                two_classes(**splits)


def test_line_breaks_and_quotes_in_names(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for folder in ("images", "labels"):
        (root / folder / "train/train0.png").rename(root / folder / "train/a 'b'\n.png")
    assert "images/train/a 'b'\n" in names(root)
    assert checked(root).problems == ()


def test_dot_files_and_other_files_are_not_looked_at(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for name in ("._train0.png", ".DS_Store", "Thumbs.db", "notes.md"):
        (root / "images/train" / name).write_bytes(b"\0\5\26\7")
        (root / "labels/train" / name).write_bytes(b"x")
    assert checked(root).problems == checked(root).warnings == ()
