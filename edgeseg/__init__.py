"""edgeseg: compact semantic-segmentation transformers, from a recipe to a camera.

The names below are the public interface; each is loaded on first use, so that importing edgeseg costs
nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime's wheels tell Microsoft of every session, and write to the home folder, unless this is set
# before they start. A camera tells nobody but its owner; who wants it otherwise sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_PUBLIC = {
    "open": "edgeseg.api:open_model",
    "Model": "edgeseg.api:Model",
    "Result": "edgeseg.results:Result",
    "train": "edgeseg.api:train",
    "Run": "edgeseg.api:Run",
    "open_run": "edgeseg.api:open_run",
    "load_recipe": "edgeseg.api:load_recipe",
    "open_bundle": "edgeseg.bundle:open_bundle",
    "Bundle": "edgeseg.bundle:Bundle",
    "open_session": "edgeseg.engines.open:open_session",
    "ConfusionMatrix": "edgeseg.metrics:ConfusionMatrix",
    "build_model": "edgeseg.models:build_model",
    "IsrPlan": "edgeseg.specs:IsrPlan",
    "EdgesegError": "edgeseg.errors:EdgesegError",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from edgeseg.api import Model as Model
    from edgeseg.api import Run as Run
    from edgeseg.api import load_recipe as load_recipe
    from edgeseg.api import open_model
    from edgeseg.api import open_run as open_run
    from edgeseg.api import train as train
    from edgeseg.bundle import Bundle as Bundle
    from edgeseg.bundle import open_bundle as open_bundle
    from edgeseg.engines.open import open_session as open_session
    from edgeseg.errors import EdgesegError as EdgesegError
    from edgeseg.metrics import ConfusionMatrix as ConfusionMatrix
    from edgeseg.models import build_model as build_model
    from edgeseg.results import Result as Result
    from edgeseg.specs import IsrPlan as IsrPlan

    open = open_model


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
