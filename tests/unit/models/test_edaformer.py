"""EDAFormer's properties: ISR plans, sizes, and loading of published weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.errors import DataError, RecipeError
from edgeseg.models import build_model, load_upstream
from edgeseg.models.segmentor import Segmentor
from edgeseg.specs import IsrPlan
from golden_rule import fill, upstream_state

BASE = IsrPlan()
NUM_CLASSES = 5


@pytest.fixture(scope="module")
def nano() -> Segmentor:
    return fill(build_model("edaformer_nano", NUM_CLASSES)).eval()


def image(height: int, width: int) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@torch.inference_mode()
def test_base_plan_is_the_model_as_built(nano: Segmentor) -> None:
    x = image(64, 96)
    expected = fill(build_model("edaformer_nano", NUM_CLASSES)).eval()(x)
    nano.set_isr(BASE)
    assert nano.isr_plan == BASE
    assert torch.equal(nano(x), expected)


@settings(max_examples=15)
@given(data=st.data())
@torch.inference_mode()
def test_every_legal_plan_keeps_shape_and_weights(nano: Segmentor, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([(64, 64), (64, 128), (128, 192)]))
    multipliers = [data.draw(st.sampled_from(choice)) for choice in nano.isr_choices(size)]
    before = {key: tensor.clone() for key, tensor in nano.state_dict().items()}
    nano.set_isr(IsrPlan(tuple(multipliers[:4]), tuple(multipliers[4:])))
    try:
        assert nano(image(*size)).shape == (1, NUM_CLASSES, size[0] // 8, size[1] // 8)
    finally:
        nano.set_isr(BASE)
    assert all(torch.equal(tensor, before[key]) for key, tensor in nano.state_dict().items())


@torch.inference_mode()
def test_set_isr_and_back_is_bit_equal(nano: Segmentor) -> None:
    x = image(64, 64)
    expected = nano(x)
    nano.set_isr(IsrPlan((2, 2, 1, 1), (2, 2, 2)))
    assert not torch.equal(nano(x), expected)
    nano.set_isr(BASE)
    assert torch.equal(nano(x), expected)


def test_choices_are_exactly_the_multipliers_that_run(nano: Segmentor) -> None:
    size = (64, 96)
    for position, choices in enumerate(nano.isr_choices(size)):
        for multiplier in {1, 2, 3, 4, 5, 8}:
            plan = [1] * 7
            plan[position] = multiplier
            nano.set_isr(IsrPlan(tuple(plan[:4]), tuple(plan[4:])))
            try:
                with torch.inference_mode():
                    nano(image(*size))
                runs = True
            except ValueError:
                runs = False
            assert runs == (multiplier in choices), f"multiplier {multiplier} at position {position}"
    nano.set_isr(BASE)


@pytest.mark.parametrize("size", [(48, 64), (64, 33), (31, 31), (63, 64)])
def test_a_size_that_would_lose_rows_is_refused(nano: Segmentor, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        nano(image(*size))


def test_size_multiple_follows_the_plan(nano: Segmentor) -> None:
    assert nano.size_multiple_px == 32
    nano.set_isr(IsrPlan((2, 2, 1, 1), (2, 2, 2)))
    try:
        assert nano.size_multiple_px == 64
        with pytest.raises(ValueError, match="not a multiple"):
            nano(image(96, 96))
    finally:
        nano.set_isr(BASE)


@pytest.mark.parametrize(
    "plan", [IsrPlan((1, 1, 1), (1, 1, 1)), IsrPlan((2, 2, 1, 1), (2,)), IsrPlan((2, 2, 1, 1), ())]
)
def test_a_plan_of_another_model_changes_nothing(nano: Segmentor, plan: IsrPlan) -> None:
    with pytest.raises(ValueError, match="multipliers"):
        nano.set_isr(plan)
    assert nano.isr_plan == BASE


def test_gradients_reach_every_parameter() -> None:
    model = build_model("edaformer_nano", NUM_CLASSES, drop_path=0.0, decoder_drop_path=0.0).train()
    model(image(64, 64).repeat(2, 1, 1, 1)).square().mean().backward()
    # A bias of keys that are nowhere normalised moves all scores of a query alike, but the values too: it has
    # a gradient.
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_unknown_model_and_option() -> None:
    with pytest.raises(RecipeError, match="edaformer_x") as unknown:
        build_model("edaformer_x", 2)
    assert "edaformer_" in unknown.value.hint
    with pytest.raises(RecipeError, match="droppath"):
        build_model("edaformer_nano", 2, droppath=0.1)


class TestUpstreamWeights:
    """What does not fit is named; what fits is loaded whole."""

    def test_a_module_prefix_is_allowed(self) -> None:
        state = upstream_state("edaformer_t")
        plain, wrapped = build_model("edaformer_t", 150), build_model("edaformer_t", 150)
        load_upstream(plain, state)
        load_upstream(wrapped, {f"module.{key}": tensor for key, tensor in state.items()})
        ours = plain.state_dict()
        assert all(torch.equal(tensor, ours[key]) for key, tensor in wrapped.state_dict().items())

    def test_missing_unexpected_and_misshaped_are_named_and_nothing_is_loaded(self) -> None:
        state = upstream_state("edaformer_t")
        gone = [key for key in state if key.startswith("backbone.block3.")]
        for key in gone[:-1]:
            del state[key]
        state["decode_head.bonus.weight"] = torch.zeros(3)
        state["decode_head.linear_pred.weight"] = torch.zeros(19, 128, 1, 1)
        model = build_model("edaformer_t", 150)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(DataError) as caught:
            load_upstream(model, state)
        message = str(caught.value)
        assert f"{len(gone) - 1} missing: " in message
        assert f"and {len(gone) - 11} more" in message
        assert "1 unexpected: decode_head.bonus.weight" in message
        assert "1 mis-shaped: decoder.classifier.weight (19, 128, 1, 1), model (150, 128, 1, 1)" in message
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    def test_a_classifier_of_other_classes_may_be_left_out(self) -> None:
        state = {key: t for key, t in upstream_state("edaformer_t").items() if "linear_pred" not in key}
        model = build_model("edaformer_t", 19)
        with pytest.raises(DataError, match=r"2 missing: decoder\.classifier\.weight"):
            load_upstream(model, state)
        load_upstream(model, state, allow_missing=("decoder.classifier.*",))
        assert torch.equal(model.encoder.stages[0][0].conv.weight, state["backbone.patch_embed1.proj.weight"])
