"""Models that other packages add, and pairs of parts that nobody named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeseg.errors import RecipeError, Unsupported
from edgeseg.models.catalog import build_model, model_options
from edgeseg.models.describe import describe
from edgeseg.recipe.architectures import entry_of, known_models, known_parts
from edgeseg.recipe.load import load_recipe
from locations import RECIPES, REPOSITORY
from plugins import install

FACTS = """
from edgeseg.recipe.architectures import Entry
from edgeseg.recipe.parts import AddedPart, Option

sketch = AddedPart(role="encoder", build="acme_parts:Sketch", options={"width": Option(4, least=1, most=64)})
named = Entry("sketch", "segformer_nano", "an example", "nowhere")
odd = AddedPart(role="decoder", build="acme_parts:missing")
"""
PARTS = """
import torch
from torch import nn
from edgeseg.models.segmentor import Encoder

class Sketch(Encoder):
    def __init__(self, width=4):
        super().__init__()
        self.channels = tuple(width * k for k in (1, 2, 3, 4))
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, s, stride=s) for a, b, s in zip((3, *self.channels), self.channels, (4, 2, 2, 2))
        )
    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
"""
GROUPS = {"edgeseg.models": {"sketch": "acme:sketch", "sketch_nano": "acme:named", "odd": "acme:odd"}}
OVERRIDES = ["isr.encoder=[]", "isr.decoder=[]", "model.options={width: 16}"]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme", GROUPS, FACTS)
    (tmp_path / "site-acme/acme_parts.py").write_text(PARTS)
    monkeypatch.delitem(sys.modules, "acme_parts", raising=False)


def test_any_pair_of_our_parts_is_a_model() -> None:
    pair, named = (
        build_model(name, 3).state_dict() for name in ("mit_nano+segformer_nano", "segformer_nano")
    )
    assert {key: value.shape for key, value in pair.items()} == {k: v.shape for k, v in named.items()}
    assert model_options("mit_nano+segformer_nano") == model_options("segformer_nano")
    assert describe("eft_nano+repsep_nano", 3, (64, 64))["encoder"] == "eft_nano"


@pytest.mark.parametrize(
    "name, told", [("mit_b00+repsep", "no encoder named 'mit_b00'"), ("mit_b0+rep", "no decoder named 'rep'")]
)
def test_an_unknown_part_is_named_with_its_nearest(name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        build_model(name, 3)
    assert "did you mean" in caught.value.hint


@pytest.mark.usefixtures("added")
def test_an_added_encoder_goes_with_every_decoder_and_a_named_pair_has_its_name() -> None:
    for name in ("sketch+segformer_nano", "sketch_nano", "sketch+vwformer_nano"):
        logits = build_model(name, 3).eval()(torch.zeros(1, 3, 64, 64))
        assert logits.shape[1] == 3
    assert build_model("sketch+edaformer_nano", 3, width=8).encoder.channels[0] == 8
    assert "sketch" in known_parts("encoder") and "sketch_nano" in known_models()
    with pytest.raises(RecipeError, match="option width: must be an integer"):
        build_model("sketch+edaformer_nano", 3, width=0)


@pytest.mark.usefixtures("added")
def test_a_builder_that_is_not_there_is_told_with_its_package() -> None:
    with pytest.raises(Unsupported, match="'odd' of the package acme cannot be imported: AttributeError"):
        build_model("mit_nano+odd", 3)


@pytest.mark.usefixtures("added")
def test_a_recipe_is_checked_without_torch(tmp_path: Path) -> None:
    recipe = RECIPES / "edaformer_nano_synthetic.yaml"
    code = f"""
import sys
sys.modules["torch"] = None
from edgeseg.errors import RecipeError
from edgeseg.recipe.load import load_recipe
overrides = {[*OVERRIDES, "model.arch=sketch+edaformer_nano"]!r}
try: load_recipe({str(recipe)!r}, overrides)
except RecipeError as error: print(error)
print(load_recipe({str(recipe)!r}, [*overrides, "isr.decoder=[1, 1, 1]"]).model.arch)
"""
    path = f"{tmp_path}/site-acme:{REPOSITORY}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert "sketch+edaformer_nano's decoder takes 3 multipliers, not 0" in done.stdout
    assert done.stdout.splitlines()[-1] == "sketch+edaformer_nano"


def test_without_the_package_the_recipe_says_so() -> None:
    assert entry_of("sketch+edaformer_nano") is None
    with pytest.raises(RecipeError, match="there is no encoder 'sketch'"):
        load_recipe(
            RECIPES / "edaformer_nano_synthetic.yaml", [*OVERRIDES, "model.arch=sketch+edaformer_nano"]
        )
