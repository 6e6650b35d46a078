"""Machines: what they are, and how they are set."""
