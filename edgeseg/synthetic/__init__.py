"""Seeded street scenes with exact masks, as images and as video. numpy only."""
