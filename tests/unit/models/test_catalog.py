"""The catalogue: names, options, and what it says an entry costs."""

from __future__ import annotations

import inspect
import json

import pytest
from click.testing import CliRunner

from edgeseg.cli.models import models as command
from edgeseg.errors import RecipeError
from edgeseg.models import describe as describe_module
from edgeseg.models.catalog import CATALOGUE, build_model, model_options
from edgeseg.models.describe import PUBLISHED, WEIGHTS, describe, describe_all, isr_text
from edgeseg.models.layers import DropPath
from edgeseg.models.parts import DECODERS, ENCODERS


class TestOptions:
    def test_they_reach_the_part_that_takes_them(self) -> None:
        model = build_model("edaformer_nano", 3, drop_path=0.4, decoder_drop_path=0.3, dropout=0.25)
        rates = [module.rate for module in model.encoder.modules() if isinstance(module, DropPath)]
        assert rates[-1] == pytest.approx(0.4)
        assert {module.rate for module in model.decoder.modules() if isinstance(module, DropPath)} == {0.3}
        assert model.decoder.dropout.p == 0.25

    def test_defaults_are_those_of_the_parts(self) -> None:
        assert model_options("edaformer_mobilenet_v2")["drop_path"] == 0.0
        assert model_options("edaformer_t")["drop_path"] == 0.2

    @pytest.mark.parametrize("name", CATALOGUE)
    def test_none_has_two_meanings(self, name: str) -> None:
        encoder, decoder = ENCODERS[CATALOGUE[name].encoder], DECODERS[CATALOGUE[name].decoder]
        shared = inspect.signature(encoder).parameters.keys() & inspect.signature(decoder).parameters.keys()
        options = model_options(name)
        assert not shared & options.keys()
        assert {"drop_path", "dropout"} <= options.keys()

    def test_an_unknown_one_is_named_with_its_nearest(self) -> None:
        with pytest.raises(RecipeError, match="droppath: no such option; did you mean drop_path") as told:
            build_model("edaformer_t", 3, droppath=0.1, zzz=0.1)
        assert "option zzz: no such option; it has drop_path, decoder_drop_path, dropout, upsample" in str(
            told.value
        )

    @pytest.mark.parametrize("value", ["0.1", True, None, [0.1]])
    def test_a_value_of_another_type_is_refused(self, value: object) -> None:
        with pytest.raises(
            RecipeError, match="option drop_path: must be a number, at least 0 and below 1, not "
        ):
            build_model("edaformer_nano", 3, drop_path=value)

    @pytest.mark.parametrize("options", [{"drop_path": 1.0}, {"decoder_drop_path": -0.1}, {"dropout": 1.5}])
    def test_a_value_out_of_range_is_refused(self, options: dict[str, float]) -> None:
        with pytest.raises(RecipeError, match="model 'edaformer_nano': "):
            build_model("edaformer_nano", 3, **options)

    def test_a_whole_number_is_a_float(self) -> None:
        build_model("edaformer_nano", 3, drop_path=0)


def test_an_unknown_model_is_named_with_its_nearest() -> None:
    for ask in (build_model, model_options):
        with pytest.raises(RecipeError, match="no model named 'edaformr_t'") as caught:
            ask("edaformr_t", *([2] if ask is build_model else []))
        assert caught.value.hint == "did you mean 'edaformer_t'?"


def test_tables_name_what_exists() -> None:
    assert PUBLISHED.keys() <= CATALOGUE.keys()
    assert WEIGHTS.keys() <= ENCODERS.keys()
    assert {entry.encoder for entry in CATALOGUE.values()} == ENCODERS.keys(), "every encoder has an entry"
    assert {entry.decoder for entry in CATALOGUE.values()} == DECODERS.keys(), "every decoder has an entry"


@pytest.mark.parametrize("name", PUBLISHED)
def test_costs_are_the_published_ones(name: str) -> None:
    published = PUBLISHED[name]
    described = describe(name, 150, published.size_hw)
    assert described["parameters"] == pytest.approx(published.parameters, rel=0.02)
    assert described["macs"] == pytest.approx(published.macs, rel=0.01)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Only the nano rows, to be quick; the README's test goes through all."""
    rows = {name: entry for name, entry in CATALOGUE.items() if name.endswith("_nano")}
    monkeypatch.setattr(describe_module, "known_models", lambda: rows)
    return list(rows)


class TestSizes:
    def test_what_an_entry_does_not_take_stays_empty(self) -> None:
        row = describe("edaformer_nano", 3, (64, 48))
        assert row["macs"] is None and row["isr"] is None and row["size_multiple_px"] == 32

    def test_what_none_takes_is_refused(self, few: list[str]) -> None:
        with pytest.raises(RecipeError, match="no model takes 100x100 px: not a multiple of 32 px"):
            describe_all(3, (100, 100))

    def test_isr_choices_in_words(self) -> None:
        assert isr_text(()) is None and isr_text(None) is None
        assert isr_text(((1, 2), (1, 2))) == "2 stages: 1 2"
        assert isr_text(((1, 2), (1,))) == "1 2; 1"


class TestCommand:
    def test_json_holds_every_entry(self, few: list[str]) -> None:
        shown = CliRunner().invoke(command, ["--json", "--size-hw", "64", "128", "--classes", "5"])
        assert shown.exit_code == 0, shown.output
        document = json.loads(shown.stdout)
        assert [row["name"] for row in document["models"]] == few
        nano = next(row for row in document["models"] if row["name"] == "edaformer_nano")
        assert nano == {**describe("edaformer_nano", 5, (64, 128)), "isr": [[1, 2]] * 7}

    def test_the_table_names_every_entry(self, few: list[str]) -> None:
        shown = CliRunner().invoke(command, ["--size-hw", "64", "64"])
        assert shown.exit_code == 0, shown.output
        assert all(f" {name} " in shown.stdout for name in few)
