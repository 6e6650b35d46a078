"""Sweeps over ways to quantize: calibration methods, single layers, and what an accuracy budget costs."""
