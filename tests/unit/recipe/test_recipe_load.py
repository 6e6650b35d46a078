"""Recipes: strict YAML, every mistake at once with its line, overrides, and the way back to text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.errors import RecipeError
from edgeseg.recipe.load import catalogue, find_recipe, load_kept, load_recipe
from edgeseg.recipe.strict_yaml import plain_scalar, read_yaml
from recipes import GOOD, mistakes, write

QUANT = """\
quant:
  calibration: {images: some_set, method: max}
  min_coverage: 0.7
  max_miou_drop: 0.01
  attention: int8
  qat: null
"""
FOLDERS = """\
data:
  format: folders
  classes: {names: [road, "no"], palette_rgb: [[128, 64, 128], [0, 0, 0]]}
  train: {images: a, labels: b}
  val: {images: c, labels: d}
"""


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def folders_recipe() -> str:
    start, end = GOOD.index("data:"), GOOD.index("augment:")
    return GOOD[:start] + FOLDERS + GOOD[end:]


# --- scalars
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-4", 1e-4),
        ("6E5", 6e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("1e", "1e"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("true", True),
        ("False", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("Null", None),
    ],
)
def test_unquoted_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = plain_scalar(text)
    assert read == value
    assert type(read) is type(value)
    assert read_yaml(f"key: {text}", "F").data == {"key": value}


def test_infinities_and_nan_are_read_as_such_and_refused_in_a_recipe(tmp_path: Path) -> None:
    assert plain_scalar("-.inf") == -math.inf
    assert math.isnan(plain_scalar(".nan"))  # type: ignore[arg-type]
    for text in (".inf", "-.Inf", ".NaN", "1e999"):
        told = mistakes(tmp_path, GOOD.replace("batch_size: 8", f"batch_size: 8\n  lr: {text}"))
        assert told == ["F:15: train.lr: numbers are finite"]


def test_quoted_and_block_scalars_are_text() -> None:
    text = "a: \"1\"\nb: 'null'\nc: |\n  12\nd: >-\n  true\n"
    assert read_yaml(text, "F").data == {"a": "1", "b": "null", "c": "12\n", "d": "true"}


def test_traps_end_up_right_in_a_recipe(tmp_path: Path) -> None:
    text = (
        folders_recipe()
        .replace('"no"', "no")
        .replace("batch_size: 8", "batch_size: 8\n  lr: 1e-4\n  amp: off")
    )
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.train.lr == 1e-4
    assert recipe.train.amp == "off"
    assert recipe.data.classes is not None
    assert recipe.data.classes.names == ("road", "no")


@pytest.mark.parametrize("text", ["1e3", "3.0", '"200"', "1_000", "true", "12:30"])
def test_only_an_integer_is_an_integer(tmp_path: Path, text: str) -> None:
    (told,) = mistakes(tmp_path, GOOD.replace("steps: 200", f"steps: {text}"))
    assert told.startswith("F:13: train.steps: must be an integer, not ")
    assert told.endswith("write it without quotes") == (text == '"200"')


def test_text_that_looks_like_a_number_asks_for_quotes(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, GOOD.replace("arch: edaformer_nano", "arch: 12"))
    assert told == 'F:4: model.arch: must be text, not 12; for text write "12"'


# --- every mistake at once
# ----------------------------------------------------------------------------------------------------


def test_three_independent_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("mask_stride: 1", "mask_stride: 1\n  opsett: 17").replace("steps: 200", "steps: many")
    text = text[: text.index("gate:")]
    assert mistakes(tmp_path, text) == [
        "F:1: gate: missing: What an engine must reach to be packed. Fractions, not percent",
        'F:13: train.steps: must be an integer, not "many"',
        "F:21: export.opsett: unknown key; did you mean opset?",
    ]


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("steps: 200", "stpes: 200", "F:13: train.stpes: unknown key; did you mean steps?"),
        ("quant: null", "quantt: null", "F:17: quantt: unknown key; did you mean quant, a top-level key?"),
        ("quant: null", "quant: null\nhue: 3", "F:18: hue: unknown key; did you mean augment.hue?"),
        (
            "  steps: 200\n",
            "  steps: 200\n  hue: 3\n",
            "F:14: train.hue: unknown key; did you mean augment.hue?",
        ),
        ("format: synthetic", "format: camvids", "did you mean camvid?"),
        (
            "quant: null",
            "quant: int8",
            'lines (calibration, min_coverage, max_miou_drop, qat) or null, not "int8"',
        ),
        ("quant: null", QUANT.replace("max}", "maxi}"), "F:18: quant.calibration.method: must be "),
        (
            "quant: null",
            QUANT.replace("atten", "aten"),
            "F:21: quant.atention: unknown key; did you mean attention?",
        ),
        (
            "quant: null",
            QUANT.replace("0.7", "70"),
            "F:19: quant.min_coverage: must be less than or equal to 1, not 70",
        ),
        (
            "quant: null",
            QUANT.replace("  qat: null\n", ""),
            "F:17: quant.qat: missing: null: calibration only (PTQ)",
        ),
        (
            "quant: null",
            QUANT.replace("qat: null", "qat: {steps: 9}"),
            "F:22: quant.qat.warmup_steps: 20 (its default) must be fewer than steps, 9",
        ),
        ("quant: null\n", "", "F:1: quant: missing: null: a float bundle"),
        ("  mask_stride: 1\n", "", "F:18: export.mask_stride: missing: the mask leaves at"),
        ("mask_stride: 1", "mask_stride: 3", "F:20: export.mask_stride: must be 1, 2, 4 or 8, not 3"),
        (
            "batch_size: 8",
            "batch_size: 0",
            "F:14: train.batch_size: must be greater than or equal to 1, not 0",
        ),
        (
            "batch_size: 8",
            "batch_size:",
            "F:14: train.batch_size: must be an integer, not null: images per optimiser step",
        ),
        ("crop_hw: [128, 128]", "crop_hw: [128]", "F:11: augment.crop_hw: needs 2 values, not 1"),
        (
            "crop_hw: [128, 128]",
            "crop_hw: [32, 32, 32]",
            "F:11: augment.crop_hw: takes at most 2 values, not 3",
        ),
        ("crop_hw: [128, 128]", "crop_hw: 128", "F:11: augment.crop_hw: must be a list, not 128"),
        (
            "  - runtime: onnxruntime",
            "  - onnxruntime",
            "F:22: targets.0: must be a section of `key: value` lines (runtime), not ",
        ),
        ("  - runtime: onnxruntime", "  []", "F:21: targets: takes at least 1 values, not 0"),
        (
            "runtime: onnxruntime",
            "runtim: onnxruntime",
            "F:22: targets.0.runtim: unknown key; did you mean runtime?",
        ),
        ("name: street_test", "name: Street", "F:1: name: must match ^[a-z0-9][a-z0-9_]*$, not "),
        (
            "warmup_steps: 20",
            "warmup_steps: 200",
            "F:15: train.warmup_steps: 200 must be fewer than steps, 200",
        ),
        (
            "model:",
            "model: {arch: edaformer_nano, options: {dropout: [1]}}\n#",
            "must be an integer, a number, true or false or text",
        ),
    ],
)
def test_each_mistake_is_told_once_where_it_stands(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if new.startswith("model:"):
        text = text.replace("  arch: edaformer_nano\n", "")
    (told,) = mistakes(tmp_path, text)
    assert expected in told


def test_sides_and_class_weights_are_checked_beside_other_mistakes(tmp_path: Path) -> None:
    text = folders_recipe().replace("crop_hw: [128, 128]", "crop_hw: [100, 128]")
    text = text.replace("size_hw: [128, 128]", "size_hw: [64, 20]")
    text = text.replace("steps: 200", "steps: many\n  class_weights: [1, 2, 3]")
    told = mistakes(tmp_path, text)
    assert told == [
        (
            f"F:{line_of(text, 'crop_hw')}: augment.crop_hw.0: must be a multiple of 32 px, e.g. 96 or 128,"
            " not 100"
        ),
        f'F:{line_of(text, " steps")}: train.steps: must be an integer, not "many"',
        (
            f"F:{line_of(text, 'class_weights')}: train.class_weights: 3 weights for 2 classes"
            " (data.classes.names)"
        ),
        f"F:{line_of(text, 'size_hw')}: export.size_hw.1: must be a multiple of 32 px, e.g. 32, not 20",
    ]


def test_class_weights_are_counted_against_the_formats_own_classes(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 200", "steps: 200\n  class_weights: [1, 2, 3]")
    assert mistakes(tmp_path, text) == [
        "F:14: train.class_weights: 3 weights for 10 classes (format synthetic)"
    ]
    text = text.replace("format: synthetic", "format: mapillary")  # whose classes lie with its data
    assert load_recipe(write(tmp_path, text)).train.class_weights == (1.0, 2.0, 3.0)


# --- what recipes do not use
# ----------------------------------------------------------------------------------------------------


def test_duplicates_anchors_aliases_merges_and_tags_are_refused_together(tmp_path: Path) -> None:
    text = GOOD.replace("  steps: 200\n", "  steps: &n 200\n  steps: 300\n  val_every: *n\n  <<: {seed: 1}\n")
    text = text.replace("arch: edaformer_nano", "arch: !!str edaformer_nano").replace(
        "summary: a", "name: again\nsummary: a"
    )
    assert mistakes(tmp_path, text) == [
        "F:2: name: written twice; first on line 1",
        "F:5: the tag tag:yaml.org,2002:str: recipes hold plain values only",
        "F:14: the anchor &n: recipes repeat a value in writing",
        "F:15: train.steps: written twice; first on line 14",
        "F:16: the alias *n: write the value itself",
        "F:17: train.<<: a merge key: recipes repeat a value in writing",
    ]


def test_7_and_07_are_one_key() -> None:
    reading = read_yaml("{7: 1, 07: 2, '07': 3}", "F")
    assert reading.data == {"7": 1, "07": 3}
    assert [str(mistake) for mistake in reading.mistakes] == ["F:1: 7: written twice; first on line 1"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "F:1: empty"),
        ("# only a comment\n", "F:1: empty"),
        ("- a\n- b\n", "F:1: a recipe is made of `key: value` sections"),
        ("just text\n", "F:1: a recipe is made of `key: value` sections"),
        (GOOD + "---\nname: second\n", "F:25: a second document: one recipe a file"),
        (GOOD.replace("a recipe", "a\x07recipe"), "F:2: a character that no text holds"),
        (GOOD.replace("a recipe for tests", '"\\UFFFFFFFF"'), "F:2: an escape beyond Unicode"),
        (GOOD.replace("a recipe for tests", '"\\ud800"'), "F:2: summary: half a character"),
        (
            GOOD.replace("steps: 200", "steps: 99999999999999999999"),
            "F:13: train.steps: an integer beyond 64 bits",
        ),
        (GOOD + "? [a, b]\n: 1\n", "F:25: a key must be one word"),
        (GOOD.replace("steps: 200", "steps: " + "[" * 500), "F:13: nested deeper than 20 levels"),
    ],
)
def test_texts_that_are_no_recipe(tmp_path: Path, text: str, expected: str) -> None:
    (told,) = mistakes(tmp_path, text)
    assert told.startswith(expected)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        (
            "  steps: 200",
            "\tsteps: 200",
            "F:13: a tab: indent with spaces (the rest of train is not checked)",
        ),
        (
            "  steps: 200",
            "  steps 200",
            "F:14: a ':' where none fits: wrong indentation, no ':' on the line before",
        ),
        ("quant: null", "junk\nquant: null", "F:17: expected `key: value`"),
        ("  steps: 200", "   steps: 200", "F:14: wrong indentation, or something left over after a value"),
        (
            "crop_hw: [128, 128]",
            "crop_hw: [128, 128",
            "F:11: a list whose ']' or ',' is missing (the rest of augment is not",
        ),
        ("isr: {", "isr: {{", "F:16: a section whose '}' or ',' is missing"),
        ("summary: a", 'summary: "a', "F:2: a quote that is never closed"),
        ("summary: a", "summary: a: b", "F:2: a ':' where none fits"),
    ],
)
def test_a_syntax_error_does_not_hide_the_mistakes_of_other_sections(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    text = (
        GOOD.replace(old, new)
        .replace("max_miou_drop: 0.01", "max_miou_drop: 2")
        .replace("  arch:", "  arhc:")
    )
    told = mistakes(tmp_path, text)
    assert len(told) == 3
    assert "F:4: model.arhc: unknown key; did you mean arch?" in told
    assert (
        f"F:{line_of(text, 'max_miou')}: gate.max_miou_drop: must be less than or equal to 1, not 2" in told
    )
    assert any(line.startswith(expected) for line in told)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_numbers_hold_for_every_line_end(tmp_path: Path, end: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(("\ufeff" + GOOD.replace("steps: 200", "steps: x").replace("\n", end)).encode())
    with pytest.raises(RecipeError, match=r"recipe\.yaml:13: train\.steps"):
        load_recipe(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(GOOD)),
    length=st.integers(0, 6),
    put=st.text(st.sampled_from("\n\t :-[]{}\"'&*!|>%@`#,?<\\xU0\x85\u2028é\r"), max_size=4),
)
def test_any_damage_is_a_recipe_or_a_recipe_error(tmp_path: Path, cut: int, length: int, put: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes((GOOD[:cut] + put + GOOD[cut + length :]).encode())
    try:
        load_recipe(file)
    except RecipeError as error:
        assert str(error).count(f"{file}:") >= 1


# --- files
# ----------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "weights.yaml"
    binary.write_bytes(b"name: a\nsummary: \xff\xfe\n")
    with pytest.raises(RecipeError, match=r"weights\.yaml:2: not UTF-8"):
        load_recipe(binary)
    binary.write_bytes(b"#" * (1 << 21))
    with pytest.raises(RecipeError, match="larger than"):
        load_recipe(binary)
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_a_missing_recipe_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("edaformer_t_citscapes")
    assert caught.value.hint.startswith("did you mean edaformer_t_cityscapes?")
    with pytest.raises(RecipeError) as caught:
        find_recipe(tmp_path / "edaformer_nano_synthetics.yaml")
    assert caught.value.hint.startswith("did you mean edaformer_nano_synthetic?")
    write(tmp_path, GOOD)
    with pytest.raises(RecipeError) as caught:
        find_recipe(tmp_path / "recipes.yaml")
    assert caught.value.hint == f"did you mean {tmp_path / 'recipe.yaml'}?"
    with pytest.raises(RecipeError) as caught:
        find_recipe("zzzzzz")
    assert "edgeseg recipe list" in caught.value.hint


def test_a_bare_name_is_the_catalogue_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edaformer_nano_synthetic").mkdir()
    assert find_recipe("edaformer_nano_synthetic") == catalogue()["edaformer_nano_synthetic"]
    write(tmp_path, GOOD)
    assert find_recipe("recipe.yaml") == Path("recipe.yaml")


def test_an_installed_wheel_carries_its_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "edgeseg" / "_recipes"
    shipped.mkdir(parents=True)
    (shipped / "only_one.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "recipes").mkdir()  # another package's folder in site-packages
    monkeypatch.setattr("edgeseg.recipe.load._PACKAGE", tmp_path / "edgeseg")
    assert catalogue() == {"only_one": shipped / "only_one.yaml"}


def test_a_bundle_opens_where_nobody_knows_its_model_or_runtime(tmp_path: Path) -> None:
    """A device holds what it was given: names that another machine knew, values from before a rule."""
    text = GOOD.replace("arch: edaformer_nano", "arch: of_a_package").replace(
        "runtime: onnxruntime", "runtime: of_a_package"
    )
    text = text.replace("warmup_steps: 20", "warmup_steps: 200")
    assert mistakes(tmp_path, text) == [
        "F:4: model.arch: there is no model 'of_a_package'; `edgeseg models` lists them",
        "F:15: train.warmup_steps: 200 must be fewer than steps, 200",
        (
            "F:22: targets.0.runtime: there is no runtime 'of_a_package'; known: onnxruntime, openvino,"
            " tensorrt, tensorrt_rtx, torch_tensorrt"
        ),
    ]
    assert load_kept(write(tmp_path, text)).model.arch == "of_a_package"
