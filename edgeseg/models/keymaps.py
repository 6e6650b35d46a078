"""Names of published checkpoints for our parameters: one function an upstream, upstream key -> our key, None to drop the tensor.

Keys that a function does not know keep their name, so that strict loading can report them.
"""

from __future__ import annotations

import re

_EFFICIENTNET_CONVS = {"_expand_conv": "expand.conv", "_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv"}
_EFFICIENTNET_NORMS = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}


def efficientnet_lite_key(key: str) -> str | None:
    """ImageNet classifiers of `efficientnet-lite-pytorch` 0.1.0; the classifier and its wide convolution are dropped."""
    part, _, rest = key.partition(".")
    if part in ("_conv_head", "_bn1", "_fc"):
        return None
    if part in ("_conv_stem", "_bn0"):
        return f"encoder.stem.{'conv' if part == '_conv_stem' else 'norm'}.{rest}"
    if match := re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", key):
        name = {**_EFFICIENTNET_CONVS, **_EFFICIENTNET_NORMS}.get(match[2], match[2])
        return f"encoder.blocks.{match[1]}.{name}.{match[3]}"
    return key


def mobilenet_v2_key(key: str) -> str | None:
    """ImageNet classifiers of torchvision's mobilenet_v2; the classifier and its wide convolution are dropped."""
    if re.match(r"classifier\.|features\.18\.", key):
        return None
    layers = ("conv", "norm")
    if match := re.fullmatch(r"features\.0\.([01])\.(\w+)", key):
        return f"encoder.stem.{layers[int(match[1])]}.{match[2]}"
    if match := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
        # The first block does not widen, so its sequence starts with the depthwise convolution.
        names = ("depthwise", "project") if match[1] == "1" else ("expand", "depthwise", "project")
        place = [int(number) for number in match[2].split(".")]
        if len(place) == 2:
            name, layer = names[place[0]], place[1]
        else:  # the last convolution and its norm stand in the sequence themselves
            name, layer = names[-1], place[0] - len(names) + 1
        return f"encoder.blocks.{int(match[1]) - 1}.{name}.{layers[layer]}.{match[3]}"
    return key
