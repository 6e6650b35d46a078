"""What every data set must do, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.datasets import open_dataset
from edgeseg.recipe.schema import DATA_FORMATS
from edgeseg.testing.values import check_dataset
from trees import TREES, Tree


@pytest.fixture(params=sorted(TREES))
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return TREES[request.param](tmp_path)


def test_every_format_of_the_schema_has_a_tree() -> None:
    assert set(TREES) == set(DATA_FORMATS.rows)


@pytest.mark.parametrize("split", ["train", "val"])
def test_it_keeps_the_contract(tree: Tree, split: str) -> None:
    check_dataset(open_dataset(tree.data, split, tree.root))


def test_masks_hold_the_classes_that_were_written(tree: Tree) -> None:
    dataset = open_dataset(tree.data, "train", tree.root)
    assert dataset.labels.num_classes == tree.num_classes
    loaded = (
        {dataset.name(index): dataset.load(index)[1] for index in range(len(dataset))} if tree.train else {}
    )
    assert loaded.keys() == tree.train.keys()
    for name, mask in tree.train.items():
        np.testing.assert_array_equal(loaded[name], mask, err_msg=name)


def test_names_are_distinct_and_stay_the_same(tree: Tree) -> None:
    first, second = (open_dataset(tree.data, "train", tree.root) for _ in range(2))
    names = [first.name(index) for index in range(len(first))]
    assert len(set(names)) == len(names)
    assert names == [second.name(index) for index in range(len(second))]


def test_train_and_val_share_no_sample(tree: Tree) -> None:
    train, val = (open_dataset(tree.data, split, tree.root) for split in ("train", "val"))
    assert {train.name(i) for i in range(len(train))}.isdisjoint(val.name(i) for i in range(len(val)))
