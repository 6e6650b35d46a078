"""edgeseg: compact semantic-segmentation transformers, from a recipe to a camera.

The names below are the public interface; each is loaded on first use, so that importing edgeseg costs
nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# ONNX Runtime's wheels tell Microsoft of every session, and write to the home folder, unless this is set
# before they start. A camera tells nobody but its owner; who wants it otherwise sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_PUBLIC = {
    "open_bundle": "edgeseg.bundle",
    "Bundle": "edgeseg.bundle",
    "open_session": "edgeseg.engines.open",
    "load_recipe": "edgeseg.pipeline.recipes",
    "ConfusionMatrix": "edgeseg.metrics",
    "build_model": "edgeseg.models",
    "IsrPlan": "edgeseg.specs",
    "EdgesegError": "edgeseg.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
