"""ONNX graphs without the onnx package: read, and edited in the bytes of the file."""
