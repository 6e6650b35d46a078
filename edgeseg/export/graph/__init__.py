"""Exact edits of ONNX graphs: layout, integer operators, half precision, shared weights."""
