"""The live page: the newest frame and mask of every source, how the run is doing, and the same figures for
Prometheus.
"""
