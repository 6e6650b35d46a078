"""NVIDIA's runtimes: TensorRT, TensorRT-RTX, Torch-TensorRT, and what their engines share."""
