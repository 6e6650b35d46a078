"""Bundles: folders that hold all a device needs."""

from edgeseg.bundle.bundle import Bundle, Verification, copy_bundle, create_bundle, open_bundle

__all__ = ["Bundle", "Verification", "copy_bundle", "create_bundle", "open_bundle"]
