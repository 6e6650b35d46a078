"""ONNX Runtime, on processors and through its execution providers."""
