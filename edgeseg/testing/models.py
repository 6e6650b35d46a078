"""The check of models; needs torch."""

from __future__ import annotations

import io

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.models.catalog import build_model, find_entry, model_options
from edgeseg.models.segmentor import Segmentor
from edgeseg.rewrite.form import deploy
from edgeseg.specs import Form, IsrPlan
from edgeseg.testing.expect import expect, refused

_DROPS = ("drop_path", "decoder_drop_path", "dropout")


def check_model(arch: str, *, num_classes: int = 5, size_hw: tuple[int, int] = (64, 128)) -> None:
    """Check that the parts of a model keep their contract (`models.segmentor`), and are what their facts say.

    Args:
        arch: as in a recipe: a name, or "ENCODER+DECODER". Small, since it is trained for some steps.
        size_hw: an image size that it takes.
    Raises:
        AssertionError: they do not.
    """
    model = build_model(arch, num_classes).eval()
    check_facts(arch, model)
    with torch.inference_mode():
        check_shapes(model, size_hw)
        _check_weights(arch, model, size_hw)
        _check_deployed(model, size_hw)
    _check_learning(arch, num_classes, size_hw)


def check_facts(arch: str, model: Segmentor) -> None:
    """Check what `recipe.parts` says of a model against the model. Raises AssertionError."""
    entry = find_entry(arch)
    for role, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        ratios = (stage[0].ratio for stage in part.attention())
        found = tuple(zip(part.attention_strides, ratios, strict=True))
        expect(entry.stages[role] == found, f"the stages of the {role} are those of its facts")
    expect(entry.multiple_px() == model.size_multiple_px, "image sides are multiples of what the facts say")
    for option, default in model_options(arch).items():
        expect(build_model(arch, 2, **{option: default}), f"the option {option} takes its default")


def check_shapes(model: Segmentor, size_hw: tuple[int, int]) -> None:
    """Check the shapes of maps and logits, at every ISR plan and size. Raises AssertionError."""
    height, width = size_hw
    device = next(model.parameters()).device
    image = torch.rand(2, 3, *size_hw, device=device)
    maps = [tuple(one.shape) for one in model.encoder(image)]
    encoder = model.encoder
    wanted = [
        (2, channels, height // stride, width // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    expect(maps == wanted, f"maps are (B, C, H / stride, W / stride): {wanted}, not {maps}")
    shape = (2, model.num_classes, height // model.output_stride, width // model.output_stride)
    base, plan = model(image), model.isr_plan
    expect(tuple(base.shape) == shape, f"logits are {shape}, not {tuple(base.shape)}")
    choices = model.isr_choices(size_hw)
    expect(len(choices) == len(plan.encoder) + len(plan.decoder), "every stage of attention has its choices")
    largest = [choice[-1] for choice in choices]
    model.set_isr(IsrPlan(tuple(largest[: len(plan.encoder)]), tuple(largest[len(plan.encoder) :])))
    expect(tuple(model(image).shape) == shape, "a plan changes no shape")
    model.set_isr(plan)
    if device.type != "meta":
        expect(torch.equal(model(image), base), "a plan that is taken back leaves no trace")
    multiple = model.size_multiple_px
    for wrong in ((multiple + 1, multiple), (multiple, multiple // 2)):
        with refused(ValueError, f"a size that is no multiple of {multiple} is a ValueError"):
            model(torch.empty(1, 3, *wrong, device=device))


def _check_weights(arch: str, model: Segmentor, size_hw: tuple[int, int]) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = build_model(arch, model.num_classes).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    image = _noise(size_hw)
    expect(torch.equal(fresh(image), model(image)), "weights travel through a file")


def _check_deployed(model: Segmentor, size_hw: tuple[int, int]) -> None:
    image, spec = 50 * _noise(size_hw), model.image_spec(size_hw)
    wanted = model(image / torch.tensor(spec.std_rgb)[:, None, None])
    for form in (Form.CPU, Form.CPU_OPENVINO, Form.GPU, Form.QDQ):
        made = deploy(model, spec, form)
        found = made.model(image / torch.tensor(made.image.std_rgb)[:, None, None])
        error = float((found - wanted).abs().max()) / float(wanted.abs().max())
        expect(error < 1e-3, f"the form {form} says what the model says: off by {error:.1e}")


def _check_learning(arch: str, num_classes: int, size_hw: tuple[int, int]) -> None:
    """Twenty steps on one batch."""
    torch.manual_seed(0)
    drops = {option: 0.0 for option in model_options(arch) if option in _DROPS}
    model = build_model(arch, num_classes, **drops).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images = _noise(size_hw, batch=2)
    coarse = torch.arange(16).reshape(2, 2, 4) % num_classes
    mask = F.interpolate(coarse[:, None].float(), size_hw, mode="nearest")[:, 0].long()
    losses = []
    for _ in range(20):
        logits, extra = model(images, mask)
        loss = F.cross_entropy(F.interpolate(logits, mask.shape[1:], mode="bilinear"), mask)
        loss = loss + sum(extra.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expect(losses[-1] < 0.9 * losses[0], f"20 steps learn one batch: {losses[0]:.3f} to {losses[-1]:.3f}")


def _noise(size_hw: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size_hw, generator=torch.Generator().manual_seed(sum(size_hw)))
