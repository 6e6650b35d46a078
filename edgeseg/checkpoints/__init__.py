"""Weights on disk and in memory: float models and INT8 models at an ISR plan."""
