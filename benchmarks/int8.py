"""INT8 against float, ours against other people's: EDAFormer-T with the shipped weights, all in one run,
taking turns.

python benchmarks/int8.py [--rounds 30] [--threads 2] [--size 512 512]... [--plan 2,2,1,1-2,2,2]...
[--data-root DIR]
    [--profile] [--only TEXT]...

For each size (default: 512x512 with a mask at stride 8, and the recipe's, full mask) and ISR plan (default:
the recipe's):

    torch eager
    onnxruntime    float as exported plainly; our float form; its own quantizer, S8S8 and U8S8; our INT8 form
    openvino       the plain export and our float form in float32 and bfloat16; NNCF's INT8 (skipped where it
                   is not installed); our canonical INT8 program, the rest in float32 and in bfloat16

Every program takes the uint8 image and ends at the class map. Calibration images are CamVid's where
--data-root is given, else drawn scenes: that does not change the time. `agreement` is the share of mask
pixels as torch in float32 has them, on one image that is not among them; `memory_mib` is the peak of a
process that opens the file and runs it, `file_mib` that file. --profile adds the time by operator, before and
after. Tables are printed as text (stderr) and as JSON (stdout).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.int8_rivals import quantize
from common.interleave import interleave, openvino_hints, table
from common.op_profile import op_profile
from edgeseg.images import resize_image
from edgeseg.recipe.load import load_recipe
from edgeseg.specs import Form, ImageU8, IsrPlan, Program
from edgeseg.synthetic.scene import Scene

ROOT = Path(__file__).parents[1]
RECIPE = "edaformer_t_camvid"
CHECKPOINT = ROOT / "checkpoints" / RECIPE / "weights.safetensors"
IMAGES = 16
PLAIN, OURS = "onnxruntime float, plain", "onnxruntime INT8, ours"
Run = Callable[[], Any]


@dataclass(frozen=True)
class Candidate:
    """A file and who runs it: "onnxruntime", or OpenVINO's precision hint."""

    path: Path
    runner: str

    def open(self, pixels: ImageU8, threads: int) -> Run:
        if self.runner == "onnxruntime":
            import onnxruntime as ort

            settings = ort.SessionOptions()
            settings.log_severity_level = 3
            settings.intra_op_num_threads = threads
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
            if self.path.suffix == ".ort":
                settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(self.path), settings, providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {"image": pixels})[0]
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": self.runner,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        request = openvino.Core().compile_model(str(self.path), "CPU", settings).create_infer_request()
        return lambda: request.infer({0: pixels})[0]


def scenes(data_root: Path | None, size_hw: tuple[int, int], count: int) -> list[ImageU8]:
    """Images of a size, (H, W, 3) RGB."""
    if data_root is None:
        return [Scene(seed, size_hw).frame(0)[0] for seed in range(count)]
    from edgeseg.data.datasets import open_dataset

    data = open_dataset(load_recipe(RECIPE).data, "train", data_root)
    return [resize_image(data.load(int(index))[0], size_hw) for index in np.linspace(0, len(data) - 1, count)]


def candidates(
    size_hw: tuple[int, int], stride: int, plan: IsrPlan, images: list[ImageU8], folder: Path, threads: int
) -> Iterator[tuple[str, Any]]:
    """Every way to run the model, by name; torch's is a reference, all others are `Candidate`s."""
    from edgeseg.checkpoints.models import load_trained
    from edgeseg.export.program import export_program

    calibration = folder / "images.npy"
    np.save(calibration, np.stack(images))
    recipe = load_recipe(RECIPE, overrides=(f"export.size_hw=[{size_hw[0]},{size_hw[1]}]",))
    trained = load_trained(recipe, CHECKPOINT, plan)

    def exported(form: Any) -> Program:
        facts = {
            "image": trained.image,
            "labels": trained.labels,
            "mask_stride": stride,
            "arch": trained.arch,
            "form": form,
        }
        return export_program(trained.model, **facts, out=folder / f"float-{form}.onnx")

    plain, canonical = exported(Form.PLAIN).onnx_path, int8_program(trained, plan, stride, images, folder)
    yield "torch eager", trained.reference(stride)
    yield PLAIN, Candidate(plain, "onnxruntime")
    yield "onnxruntime float, ours", engine(exported(Form.CPU), folder, threads)
    for kind in ("s8", "u8"):
        rival = quantize(f"onnxruntime-{kind}", plain, calibration, folder / f"onnxruntime-{kind}.onnx")
        yield f"onnxruntime quantizer {kind.upper()}S8", Candidate(rival, "onnxruntime")
    yield OURS, engine(dialect_of(canonical, folder), folder, threads)
    if not available("openvino"):
        return
    for hint in openvino_hints():
        yield f"openvino {hint}, plain", Candidate(plain, hint)
        yield f"openvino {hint}, ours", Candidate(exported(Form.CPU_OPENVINO).onnx_path, hint)
        yield f"openvino INT8 canonical, {hint}", Candidate(canonical.onnx_path, hint)
    if available("nncf"):
        rival = quantize("nncf", plain, calibration, folder / "nncf.xml")
        for hint in openvino_hints():
            yield f"openvino INT8 by NNCF, {hint}", Candidate(rival, hint)
    else:
        print("no row for NNCF: pip install 'edgeseg[bench]'", file=sys.stderr)


def int8_program(trained: Any, plan: IsrPlan, stride: int, images: list[ImageU8], folder: Path) -> Program:
    """The canonical INT8 program, calibrated by the largest value; attention in INT8."""
    from edgeseg.checkpoints.int8_file import prepare
    from edgeseg.checkpoints.models import Quantized, calibration_tensors
    from edgeseg.export.onnx_qdq import export_qdq
    from edgeseg.int8.calibrate import calibrate
    from edgeseg.recipe.schema import Calibration, Quant

    calibration = Calibration(images="none", method="max")
    settings = Quant(
        calibration=calibration, attention="int8", min_coverage=0.9, max_miou_drop=0.01, qat=None
    )
    made = prepare(trained.model, trained.image, settings)
    calibrate(made.model, calibration_tensors(images, made.image), settings)
    facts = (trained.labels, trained.arch, plan, settings, "", {})
    return export_qdq(
        Quantized(made.model, made.hints, made.image, *facts), mask_stride=stride, out=folder / "qdq.onnx"
    )


def dialect_of(canonical: Program, folder: Path) -> Program:
    from edgeseg.engines.onnxruntime.backend import OnnxRuntime
    from edgeseg.export.graph.dialects import write_dialect

    form = OnnxRuntime().form_for("int8")
    return write_dialect(canonical, form, folder / f"{form}.onnx")


def engine(program: Program, folder: Path, threads: int) -> Candidate:
    """The engine file that `edgeseg build` would make."""
    from edgeseg.engines.onnxruntime.backend import OnnxRuntime

    out = folder / f"engine-{program.precision}"
    out.mkdir()
    (file,) = OnnxRuntime().compile(program, out, {"threads": threads})
    return Candidate(file, "onnxruntime")


def available(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def footprint(candidate: Candidate, pixels: Path, threads: int) -> dict[str, float]:
    """Peak memory of a process that opens and runs a file, and what the file takes."""
    command = [
        sys.executable,
        __file__,
        "--child",
        candidate.runner,
        str(candidate.path),
        str(pixels),
        "--threads",
        str(threads),
    ]
    peak_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {
        "memory_mib": round(peak_kib / 1024, 1),
        "file_mib": round(_size_bytes(candidate.path) / 2**20, 2),
    }


def _size_bytes(path: Path) -> int:
    """Of a model; OpenVINO's comes in two files."""
    return sum(part.stat().st_size for part in {path, path.with_suffix(".bin")} if part.exists())


def child(runner: str, path: Path, pixels: Path, threads: int) -> None:
    run = Candidate(path, runner).open(np.load(pixels), threads)
    for _ in range(5):
        run()
    # Not getrusage: its peak includes that of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(status["VmHWM"].split()[0])


def measure(
    size_hw: tuple[int, int], stride: int, plan: IsrPlan, arguments: argparse.Namespace
) -> dict[str, Any]:
    *images, held_out = scenes(arguments.data_root, size_hw, IMAGES + 1)
    pixels, threads = np.ascontiguousarray(held_out[np.newaxis]), arguments.threads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "pixels.npy", pixels)
        found = dict(candidates(size_hw, stride, plan, images, folder, threads))
        reference = found.pop("torch eager")
        expected = reference.infer(held_out)
        if arguments.only:
            found = {
                name: one
                for name, one in found.items()
                if name == PLAIN or any(text in name for text in arguments.only)
            }
        runs: dict[str, Run] = {name: one.open(pixels, threads) for name, one in found.items()}
        runs["torch eager"] = lambda: reference.infer(held_out)
        print(f"{len(runs)} rows, {arguments.rounds} rounds", file=sys.stderr)
        rows: dict[str, dict[str, Any]] = interleave(runs, arguments.rounds)
        for row, one in found.items():
            agreement = round(float((np.squeeze(runs[row]()) == expected).mean()), 4)
            rows[row] |= {"agreement": agreement, **footprint(one, folder / "pixels.npy", threads)}
        rows["torch eager"] |= {"agreement": 1.0, "memory_mib": float("nan"), "file_mib": float("nan")}
        profiles = {}
        if arguments.profile:
            for row in (PLAIN, OURS):
                profiles[row] = op_profile(found[row].path, pixels, threads)
    return {"rows": rows, "profiles": profiles}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("H", "W"))
    parser.add_argument("--plan", action="append", help="ISR plan; may be repeated")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", action="append", help="rows whose name holds this text; may be repeated")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        runner, path, pixels = arguments.child
        child(runner, Path(path), Path(pixels), arguments.threads)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    sizes = [((height, width), 8) for height, width in arguments.size or ()] or [
        ((512, 512), 8),
        ((384, 512), 1),
    ]
    results: dict[str, Any] = {}
    for plan in arguments.plan or ["1,1,1,1-1,1,1"]:
        for size_hw, stride in sizes:
            title = f"{size_hw[0]}x{size_hw[1]}, mask 1/{stride}, {plan}"
            results[title] = measure(size_hw, stride, IsrPlan.parse(plan), arguments)
            print(table(title, results[title]["rows"]), file=sys.stderr)
            for row, profile in results[title]["profiles"].items():
                print(table(f"{row}: ms by operator", profile), file=sys.stderr)
    print(json.dumps({"rounds": arguments.rounds, "threads": arguments.threads, "results": results}))


if __name__ == "__main__":
    main()
