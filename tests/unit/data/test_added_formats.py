"""Data formats that other packages add: in recipes, and in the editor's schema."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg.data.datasets import open_dataset
from edgeseg.data.formats import format_of
from edgeseg.errors import RecipeError, Unsupported
from edgeseg.recipe.editor_schema import recipe_schema
from edgeseg.recipe.load import load_kept, load_recipe
from edgeseg.recipe.schema import Data
from locations import RECIPES
from plugins import install

CODE = """
import numpy as np
from edgeseg.data.formats import Folders, Format
from edgeseg.specs import LabelSpace

def yard(data, root):
    table = np.full(257, -1, np.int16)
    table[[10, 20, 255]] = 0, 1, 255
    labels = LabelSpace(("Ground", "Box"), ((0, 0, 0), (255, 0, 0)))
    train, val = (Folders(f"shots/{split}", f"marks/{split}") for split in ("train", "val"))
    return Format(labels, table, (train,), (val,))
"""
GROUPS = {"edgeseg.datasets": {"yard": "acme:yard", "camvid": "acme:yard"}}
DATA = Data(format="yard", classes=None, train=None, val=None)
OVERRIDES = ["data.format=yard", "data.classes=null", "data.train=null", "data.val=null", "quant=null"]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", GROUPS, CODE)


@pytest.mark.usefixtures("added")
def test_a_recipe_names_it_and_its_files_are_found(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "edaformer_t_camvid.yaml", OVERRIDES)
    mask = np.full((8, 8), 10, np.uint8)
    mask[2:4] = 20
    for folder, picture in (("shots", np.zeros((8, 8, 3), np.uint8)), ("marks", mask)):
        (tmp_path / folder / "train").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "train/a.png"), picture)
    dataset = open_dataset(recipe.data, "train", tmp_path)
    assert (len(dataset), dataset.labels.names) == (1, ("Ground", "Box"))
    np.testing.assert_array_equal(dataset.load(0)[1], mask // 10 - 1)


@pytest.mark.usefixtures("added")
def test_its_name_is_known_wherever_formats_are() -> None:
    assert recipe_schema()["$defs"]["Data"]["properties"]["format"]["enum"][-1] == "yard"
    with pytest.raises(RecipeError, match="there is no data format 'yards'; did you mean yard"):
        load_recipe(RECIPES / "edaformer_t_camvid.yaml", [*OVERRIDES, "data.format=yards"])
    camvid = format_of(DATA.model_copy(update={"format": "camvid"}), Path("/nowhere"))
    assert camvid.labels.num_classes == 11, "a plug-in takes no name of ours"


def test_a_kept_recipe_opens_where_the_package_is_not_installed(tmp_path: Path) -> None:
    recipe = RECIPES / "edaformer_t_camvid.yaml"
    assert load_kept(recipe, OVERRIDES).data.format == "yard"
    with pytest.raises(RecipeError, match="there is no data format 'yard'"):
        load_recipe(recipe, OVERRIDES)
    with pytest.raises(Unsupported, match="no data format named 'yard'"):
        format_of(DATA, tmp_path)
