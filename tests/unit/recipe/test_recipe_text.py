"""Recipes on their way back to text: dumping, digest, schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgeseg.recipe.architectures import CATALOGUE
from edgeseg.recipe.editor_schema import recipe_schema
from edgeseg.recipe.explain import key_names
from edgeseg.recipe.load import dump_recipe, load_kept, load_recipe, recipe_digest
from edgeseg.recipe.schema import Recipe
from edgeseg.recipe.strict_yaml import read_yaml
from recipes import GOOD, write

_TRAPS = [
    *"~=#'\"",
    "off",
    "1e-4",
    "12:30",
    "null",
    "",
    " x ",
    "0x1",
    "a: b",
    "- a",
    "1_0",
    "<<",
    "é\n\t",
    "\x85\u2028",
]
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(_TRAPS)
_DECAY = st.floats(0, 1, exclude_max=True)
_SPLIT = st.fixed_dictionaries(
    {"images": _TEXT, "labels": _TEXT}, optional={"include": st.lists(_TEXT, max_size=3)}
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    data: dict[str, Any] = read_yaml(GOOD, "F").data
    data["summary"] = draw(_TEXT)
    data["model"] = {
        "arch": draw(_TEXT),
        "options": draw(
            st.dictionaries(
                _TEXT, st.integers(-(2**62), 2**62) | st.floats(-1e9, 1e9) | st.booleans() | _TEXT
            )
        ),
    }
    names = draw(st.lists(_TEXT.filter(bool), min_size=1, max_size=4, unique=True))
    data["data"] |= {
        "format": "folders",
        "classes": {
            "names": names,
            "palette_rgb": [draw(st.tuples(*[st.integers(0, 255)] * 3)) for _ in names],
        },
        "train": draw(_SPLIT),
        "val": draw(_SPLIT),
        "index_map": {
            str(key): value for key, value in draw(st.dictionaries(st.integers(), st.integers(0, 3))).items()
        },
    }
    data["train"] |= {
        "lr": draw(st.floats(1e-9, 1)),
        "betas": draw(st.tuples(_DECAY, _DECAY)),
        "class_weights": draw(
            st.none() | st.lists(st.floats(0, 10), min_size=len(names), max_size=len(names))
        ),
        "init_skip": draw(st.lists(_TEXT.filter(bool), max_size=3)),
    }
    return Recipe.model_validate_json(json.dumps(data), strict=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
@example(recipe=Recipe.model_validate_json(json.dumps(read_yaml(GOOD, "F").data)))
def test_dump_and_load_are_inverse(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "dumped.yaml"
    file.write_bytes(dump_recipe(recipe).encode())
    again = load_kept(file)  # what is drawn is of the right types, and names no model
    assert again == recipe
    assert recipe_digest(again) == recipe_digest(recipe)


def test_the_digest_ignores_comments_and_order_and_sees_values(tmp_path: Path) -> None:
    first = recipe_digest(load_recipe(write(tmp_path, GOOD)))
    moved = "# comment\nquant: null\n" + GOOD.replace("quant: null\n", "").replace(
        "steps: 200", "steps: 200\n  seed: 0"
    )
    assert recipe_digest(load_recipe(write(tmp_path, moved))) == first
    changed = recipe_digest(load_recipe(write(tmp_path, GOOD), ["train.seed=1"]))
    assert changed != first
    assert len(first) == 64
    assert set(first) <= set("0123456789abcdef")


def test_the_digest_of_a_recipe_survives_keys_that_came_later() -> None:
    """Runs that began with an earlier version go on, as long as what they are trained with is the same."""
    assert (
        recipe_digest(load_recipe("edaformer_t_camvid"))
        == "0ee0292c3aa37a9588aa8388933d1edfa9403d48bf18af6661438902e5ac743d"
    )


def test_the_schema_is_json_and_names_every_top_level_key() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(Recipe.model_fields)


def test_the_schema_knows_models_their_options_and_lengths() -> None:
    schema = recipe_schema()
    model = schema["$defs"]["Model"]
    named, pair = model["properties"]["arch"]["anyOf"]
    assert named == {"enum": list(CATALOGUE)}
    assert re.search(pair["pattern"], "mit_b0+repsep") and not re.search(pair["pattern"], "mit_b0")
    assert schema["$defs"]["Target"]["properties"]["runtime"]["enum"][0] == "onnxruntime"
    of_nano = next(
        one for one in model["allOf"] if "edaformer_nano" in one["if"]["properties"]["arch"]["enum"]
    )["then"]
    assert of_nano["properties"]["options"]["properties"]["drop_path"]["exclusiveMaximum"] == 1
    assert of_nano["properties"]["options"]["additionalProperties"] is False
    whole = [name for one in model["allOf"] for name in one["if"]["properties"]["arch"]["enum"]]
    assert sorted(whole) == sorted(CATALOGUE)
    weights = next(
        one for one in schema["allOf"] if one["if"]["properties"].get("data", {}) and "camvid" in str(one)
    )
    assert weights["then"]["properties"]["train"]["properties"]["class_weights"] == {
        "minItems": 11,
        "maxItems": 11,
    }


def test_key_names_reach_into_sections() -> None:
    names = set(key_names())
    assert {
        "name",
        "train",
        "train.steps",
        "data.classes.names",
        "data.val.images",
        "targets.runtime",
    } <= names
