"""Recipes: the one file that users edit."""
