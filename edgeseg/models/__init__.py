"""Segmentation models by catalogue name, and published checkpoints for them."""

from edgeseg.models.catalog import build_model
from edgeseg.models.weights import load_upstream

__all__ = ["build_model", "load_upstream"]
