"""Torch-TensorRT's side of a build: an ONNX program as a torch program, and its compilation, in a process of
its own.
"""
