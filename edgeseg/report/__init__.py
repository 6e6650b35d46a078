"""Measurements as JSON, and what draws them."""
