"""Where the repository and its parts are, for tests at any depth."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
REPOSITORY = TESTS.parent
RECIPES = REPOSITORY / "recipes"
FIXTURES = TESTS / "parity" / "fixtures"
