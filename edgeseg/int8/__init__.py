"""INT8: what is quantized and why not, calibration, coverage, sensitivity. On nvidia-modelopt; knows no model
of ours.
"""
