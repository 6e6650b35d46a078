"""What is said of models without torch, against the models themselves."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.checkpoints.models import Trained
from edgeseg.errors import RecipeError
from edgeseg.models import parts, upsample
from edgeseg.models.catalog import build_model
from edgeseg.recipe.architectures import CATALOGUE, Entry
from edgeseg.recipe.parts import DECODERS, ENCODERS, Option, Part
from edgeseg.specs import IsrPlan, LabelSpace

FULL = [pytest.param(name, marks=pytest.mark.slow) for name in CATALOGUE if not name.endswith("_nano")]
NANO = [name for name in CATALOGUE if name.endswith("_nano")]


@pytest.mark.parametrize(
    "facts, builders", [(ENCODERS, parts.ENCODERS), (DECODERS, parts.DECODERS)], ids=["encoders", "decoders"]
)
def test_options_and_their_defaults_are_those_of_the_parts(
    facts: dict[str, Part], builders: dict[str, object]
) -> None:
    assert facts.keys() == builders.keys()
    for name, build in builders.items():
        parameters = inspect.signature(build).parameters.values()  # type: ignore[arg-type]
        taken = {one.name: one.default for one in parameters if isinstance(one.default, (int, float, str))}
        assert {option: one.default for option, one in facts[name].options.items()} == taken, name
        assert all(type(one.default) is type(taken[option]) for option, one in facts[name].options.items())


def test_choices_are_those_of_the_parts() -> None:
    assert DECODERS["repsep"].options["upsample"].choices == upsample.KINDS


@pytest.mark.parametrize("name", [*NANO, *FULL])
def test_stages_and_image_sizes_are_those_of_the_models(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 2)
    entry = CATALOGUE[name]
    for part, held in (("encoder", model.encoder), ("decoder", model.decoder)):
        ratios = [stage[0].ratio for stage in held.attention()]
        assert entry.stages[part] == tuple(zip(held.attention_strides, ratios, strict=True))
    plan = IsrPlan(*(tuple(range(2, 2 + len(entry.stages[part]))) for part in ("encoder", "decoder")))
    assert entry.multiple_px() == model.size_multiple_px
    model.set_isr(plan)
    assert entry.multiple_px(plan.encoder, plan.decoder) == model.size_multiple_px


@st.composite
def options_of(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """A small model, and values for some of its options, most of them possible."""

    def value(option: Option) -> st.SearchStrategy[object]:
        if isinstance(option.default, bool):
            return st.booleans()
        if isinstance(option.default, str):
            return st.sampled_from([*option.choices, "lda"])
        if isinstance(option.default, int):
            return st.sampled_from([1, 2, 3, 8, 12, 16, 64, 128, 0, -1])
        return st.floats(-0.1, 1.1)

    name = draw(st.sampled_from(NANO))
    chosen = draw(st.sets(st.sampled_from(sorted(CATALOGUE[name].options)), max_size=4))
    return name, {option: draw(value(CATALOGUE[name].options[option])) for option in sorted(chosen)}


@settings(deadline=None, max_examples=50)
@given(drawn=options_of())
def test_what_has_no_problem_can_be_built_and_run(drawn: tuple[str, dict[str, object]]) -> None:
    name, options = drawn
    if list(CATALOGUE[name].problems(options)):
        with pytest.raises(RecipeError, match=f"model '{name}': option "):
            build_model(name, 3, **options)
        return
    with torch.device("meta"):
        model = build_model(name, 3, **options).eval()
        assert model(torch.empty(1, 3, 64, 64)).shape[1] == 3


@pytest.mark.parametrize("name", [*NANO, *FULL])
def test_every_decoder_takes_its_upsampling(name: str) -> None:
    with torch.device("meta"):
        build_model(name, 3, upsample="lda_aqu")


def test_every_mistake_is_told_at_once() -> None:
    told = dict(
        CATALOGUE["repsep_nano"].problems(
            {"width": 12, "upsample": "lda_aqu", "sasm": "unifrom", "dca": 1, "wdith": 3}
        )
    )
    assert told == {
        "width": "must be a multiple of 8 with upsample: lda_aqu, not 12",
        "sasm": "must be none, uniform or attention, not 'unifrom'; did you mean uniform?",
        "dca": "must be true or false, not 1",
        "wdith": "no such option; did you mean width?",
    }


def test_an_entry_without_isr_takes_any_multiple_of_its_stride() -> None:
    assert Entry("mobilenet_v2", "segformer_256", "", "").multiple_px((), ()) == 32


def test_a_crop_that_a_plan_does_not_take_is_known_without_training() -> None:
    model = build_model("edaformer_nano", 2).eval()
    trained = Trained(
        model, "edaformer_nano", LabelSpace(("a", "b"), ((0, 0, 0),) * 2), model.image_spec((128, 128)), ""
    )
    trained.check_crop((96, 96))
    with pytest.raises(
        RecipeError, match=r"augment\.crop_hw, ISR 2,1,1,1-1,1,1: 96x96 px is not a multiple of 64 px"
    ):
        trained.at(IsrPlan((2, 1, 1, 1), (1, 1, 1))).check_crop((96, 96))
