"""What each release of Torch-TensorRT can be told about a build, of what edgeseg has to tell.

These are the keyword parameters of `torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine`,
read from torch_tensorrt/dynamo/_compiler.py in the wheels on PyPI: torch-tensorrt 2.8.0, 2.9.0, 2.10.0,
2.11.0, 2.12.1, 2.13.0, 2.14.0; torch-tensorrt-rtx 2.13.0 and 2.14.0 have the same. All of them take
`**kwargs` too, and ignore what they do not know.
"""

from __future__ import annotations

_ALWAYS = {"arg_inputs", "workspace_size", "optimization_level", "timing_cache_path"}
_STRONG = {"use_explicit_typing"}  # False by default in 2.8 and 2.9; gone with everything else in 2.13
_BIAS = {"attn_bias_is_causal"}  # True by default
_NAMES = {"arg_input_binding_names", "output_binding_names"}

RELEASES: dict[str, set[str]] = {
    "2.8": _ALWAYS | _STRONG,
    "2.9": _ALWAYS | _STRONG,
    "2.10": _ALWAYS | _STRONG,
    "2.11": _ALWAYS | _STRONG | _BIAS,
    "2.12": _ALWAYS | _STRONG | _BIAS,
    "2.13": _ALWAYS | _BIAS,
    "2.14": _ALWAYS | _BIAS | _NAMES,
}
KNOWN = set().union(*RELEASES.values())
WEAK_BY_CHOICE = {"2.8", "2.9", "2.10", "2.11", "2.12"}
"""Releases whose networks are strongly typed only where that is asked for."""
SILENT = {"2.8", "2.9", "2.10", "2.11"}
"""Releases that log why a program cannot be converted, and then fail on an unbound name."""
