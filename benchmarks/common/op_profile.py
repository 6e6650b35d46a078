"""Where ONNX Runtime spends its time: the smallest time that each node took, summed by operator."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime as ort

RUNS, WARMUP = 25, 3


def op_profile(path: Path, pixels: Any, threads: int) -> dict[str, dict[str, float]]:
    """Operator -> milliseconds, share of all and number of nodes; the costliest first. A busy machine
    disturbs minima least.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        if path.suffix == ".ort":
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        for _ in range(WARMUP + RUNS):
            session.run(None, {session.get_inputs()[0].name: pixels})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [
        event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    nodes = len(kernels) // (WARMUP + RUNS)
    best = [
        min(event["dur"] for event in kernels[WARMUP * nodes + node :: nodes]) / 1000 for node in range(nodes)
    ]
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event, time_ms in zip(kernels, best, strict=False):
        operator = event["args"]["op_name"]
        times[operator] += time_ms  # type: ignore[assignment]  # a Counter of floats
        counts[operator] += 1
    total = sum(times.values())
    rows = {
        name: {"ms": round(ms, 3), "share": round(ms / total, 4), "nodes": counts[name]}
        for name, ms in times.most_common()
    }
    return {"all": {"ms": round(total, 3), "share": 1.0, "nodes": nodes}, **rows}
