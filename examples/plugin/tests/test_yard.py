"""The package's parts keep edgeseg's contracts: pytest, in an environment where it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from edgeseg_yard.shares_csv import from_uri

from edgeseg.data.datasets import open_dataset
from edgeseg.recipe.load import load_recipe
from edgeseg.testing import check_dataset, check_sink
from edgeseg.testing.models import check_model

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("decoder", ["segformer_nano", "vwformer_nano"])
def test_the_encoder(decoder: str) -> None:
    check_model(f"sketch+{decoder}")


def test_the_sink(tmp_path: Path) -> None:
    check_sink(
        lambda: from_uri(f"{tmp_path}/shares.csv", 0.5),
        unwritable=lambda: from_uri(f"{tmp_path}/no/such/folder.csv", 0.5),
    )
    lines = (tmp_path / "shares.csv").read_text().splitlines()
    assert lines[0] == "source,frame,time_s,road,car,sky"
    assert len({line.count(",") for line in lines}) == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_data_format(split: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(HERE / "make_yard.py"), str(tmp_path)], check=True)
    data = load_recipe(HERE / "yard.yaml").data
    dataset = open_dataset(data, split, tmp_path)
    check_dataset(dataset)
    assert dataset.labels.names == ("ground", "path", "machine")
