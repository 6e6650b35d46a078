"""What `edgeseg build` costs and finds: EDAFormer-T in every engine that this machine can run, built, kept,
and timed in turns.

python benchmarks/build.py [--bundle B] [--plan 1,1,1,1-1,1,1 --plan 2,2,1,1-2,2,2]... [--data-root DIR]
[--threads 2]
    [--repeat 3] [--card rtx4090]... [--runtime openvino]...

Each of `--repeat` rounds copies the bundle without its engines and runs the command twice, as a user does, in
processes of their own: the first build compiles, checks golden frames and times all engines in turns; the
second finds all there. The times of these two are the command's, with the start of Python. What one engine
took to compile and to open, its size and its milliseconds are those that the command reports: medians over
rounds, and for speed-ups, over ONNX Runtime in float, their range over rounds too, which tells what a
difference means on this machine. `spread` is (p90 - p10) / median of an engine's times, the worst round's;
beyond 0.2 something else was using the machine. `--card` compiles for an RTX card too, in half precision as
well.

Without a bundle one is exported from the shipped checkpoint, 512x384, with a program laid out for every
runtime, in float and in INT8: by calibration alone, no training, on CamVid's images with --data-root, else on
the four drawn scenes that ship in the demo bundle, which is little for accuracy and enough for time. No
engine is refused for what it agrees on. A given bundle is left as it is.

Tables go to stderr, as Markdown; JSON to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgeseg.bundle import Bundle, copy_bundle, create_bundle, open_bundle
from edgeseg.bundle.golden import png
from edgeseg.checkpoints.models import load_trained
from edgeseg.contracts import NoProgress
from edgeseg.data.calib import write_calib
from edgeseg.data.calib_choice import make_calib
from edgeseg.devices.cores import usable_cores
from edgeseg.export.levels import FloatJob, HalfJob, Int8Job, export_levels
from edgeseg.pipeline.demo import demo_bundle
from edgeseg.pipeline.export import export_bundle, level_plans, quantized_levels
from edgeseg.pipeline.quantize_model import calibrated
from edgeseg.recipe.load import dump_recipe, find_recipe, load_recipe
from edgeseg.specs import Form, IsrPlan

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
CHANGES = ["gate.min_mask_agreement=0", "quant.qat=null"]
RUNTIMES, CARDS = ("onnxruntime", "openvino"), ("tensorrt_rtx",)
CALIB = "frames.yaml"
COLUMNS = ("engine", "ms", "p90", "spread", "speed-up", "size", "compile", "open", "")


class Unheld(Int8Job):
    """An INT8 program to be that is not held to its model: on drawn scenes its rounding shows, and is not the
    question here.
    """

    def hold(self, reference: Any, programs: Any, images: Any) -> dict[str, Any]:
        return {}


def shipped(path: Path, plans: Sequence[str], data_root: Path | None, for_cards: bool) -> Bundle:
    """The shipped checkpoint at each plan, in float and INT8, in the form for each runtime; for cards in half
    precision, too.
    """
    root = data_root or framed(path.with_suffix(".data"))
    own = [] if data_root else [f"quant.calibration.images={root / CALIB}"]
    runtimes = (*RUNTIMES, *(CARDS if for_cards else ()))
    targets = f"targets=[{', '.join(f'{{runtime: {name}}}' for name in runtimes)}]"
    recipe = load_recipe(find_recipe("edaformer_t_camvid_int8"), [*CHANGES, targets, *own])
    if recipe.quant is None:
        raise SystemExit("the recipe does not quantize")
    folder = path.with_suffix(".quant")
    folder.mkdir()
    trained = load_trained(recipe, CHECKPOINT)
    levels = level_plans([IsrPlan.parse(plan) for plan in plans], recipe, trained)
    int8 = calibrated(recipe, recipe.quant, trained.at(levels[0]), root, folder, NoProgress()).path
    if data_root:
        return export_bundle(recipe, CHECKPOINT, path, quantized=[int8], levels=levels, data_root=root)[0]
    forms = [Form.CPU, Form.CPU_OPENVINO, *([Form.GPU] if for_cards else [])]
    floats = [FloatJob(trained.at(plan), forms, "fp32") for plan in levels]
    halves = [HalfJob(one.source) for one in floats] if for_cards else []
    quantized = [Unheld(one, half=for_cards) for one in quantized_levels(recipe, trained, [int8], levels)]
    images = [(frame.name, frame.image_rgb) for frame in open_bundle(demo_bundle()).golden()]
    made = export_levels(floats, [halves, quantized], recipe.export, images, folder, NoProgress())
    return create_bundle(path, recipe_text=dump_recipe(recipe), programs=made.programs, golden=made.golden)


def framed(root: Path) -> Path:
    """A data root laid out as CamVid's, of the scenes in the demo bundle, with a set that names all for
    calibration.
    """
    recipe = load_recipe(find_recipe("edaformer_t_camvid_int8"))
    frames = list(open_bundle(demo_bundle()).golden())
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for frame in frames:
            (root / "images" / split / f"{frame.name}.png").write_bytes(png(frame.image_rgb[:, :, ::-1]))
            (root / "labels" / split / f"{frame.name}.png").write_bytes(png(frame.mask))
    write_calib(
        make_calib(recipe.data, root, len(frames), Path(CALIB).stem),
        root / CALIB,
        "The demo bundle's frames.",
    )
    return root


def command(*arguments: object) -> tuple[float, dict[str, Any]]:
    """Seconds that an `edgeseg` command takes, and its JSON document."""
    line = [sys.executable, "-m", "edgeseg", *map(str, arguments), "--json"]
    started_s = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - started_s
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}: exit code {done.returncode}\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout)
    return took_s, document


def one_round(source: Bundle, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A first build, a second one, and one for each card."""
    bundle = copy_bundle(source, path)
    build = [
        "build",
        bundle.path,
        "--threads",
        options.threads,
        *(word for name in options.runtime for word in ("--runtime", name)),
    ]
    load = os.getloadavg()[0]
    first_s, first = command(*build, *(["--force"] if source.manifest.engines else []))
    second_s, second = command(*build)
    if any(level["built"] for level in second["engines"]):
        raise SystemExit(f"the second build built again: {[level['reason'] for level in second['engines']]}")
    cards = [
        {
            "card": card,
            **dict(zip(("s", "made"), command("build", bundle.path, "--device", card), strict=True)),
        }
        for card in options.card
    ]
    return {
        "first_s": first_s,
        "second_s": second_s,
        "load_before": load,
        "levels": first["engines"],
        "cards": cards,
    }


def rows(rounds: Sequence[Mapping[str, Any]], number: int) -> list[list[str]]:
    """One level's engines over all rounds."""
    found = []
    for index, candidate in enumerate(rounds[0]["levels"][number]["candidates"]):
        seen = [one["levels"][number]["candidates"][index] for one in rounds]
        figures = [one["measurements"] for one in seen]

        def told(
            name: str,
            form: str,
            unit: float = 1.0,
            of: Any = median,
            figures: Sequence[Mapping[str, Any]] = figures,
        ) -> str:
            values = [one[name] * unit for one in figures if name in one]
            return form.format(of(values)) if values else "-"

        speedup = told("speedup", "{:.2f}")
        if len(rounds) > 1 and speedup != "-":
            speedup += f" ({told('speedup', '{:.2f}', of=min)} to {told('speedup', '{:.2f}', of=max)})"
        verdicts = {one["verdict"]: None for one in seen}
        name = " ".join((candidate["runtime"], candidate["precision"], *options_of(candidate)))
        found.append(
            [
                name,
                told("median_ms", "{:.1f}"),
                told("p90_ms", "{:.1f}"),
                told("spread", "{:.2f}", of=max),
                speedup,
                told("bytes", "{:.1f} MB", 1e-6),
                told("compile_ms", "{:.1f} s", 1e-3),
                told("load_ms", "{:.2f} s", 1e-3),
                " / ".join(verdicts) + (f": {candidate['reason']}" if "not built" in verdicts else ""),
            ]
        )
    return found


def options_of(candidate: Mapping[str, Any]) -> list[str]:
    """What tells a candidate from others of its runtime and precision."""
    return [
        str(value) for name, value in candidate["options"].items() if name != "threads" and value != "f32"
    ]


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table that is readable as it is."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        for row in lines
    )


def between(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def show(levels: Sequence[str], rounds: Sequence[Mapping[str, Any]], threads: int) -> None:
    device = rounds[0]["levels"][0]["device"].partition(" with ")[0]
    load = max(one["load_before"] for one in rounds)
    print(
        f"{device}; {threads} threads; builds: {len(rounds)}, load of the machine before them up to"
        f" {load:.1f}",
        file=sys.stderr,
    )
    first, second = (between([one[name] for one in rounds]) for name in ("first_s", "second_s"))
    print(f"first build {first} s, second build {second} s", file=sys.stderr)
    for number, level in enumerate(levels):
        print(f"\nlevel {number} ({level})\n\n{markdown(COLUMNS, rows(rounds, number))}", file=sys.stderr)
    for index, card in enumerate(rounds[0]["cards"]):
        seconds = median(one["cards"][index]["s"] for one in rounds)
        made = [(e["runtime"], e["precision"], e["measurements"]) for e in card["made"]["engines"]]
        sizes = [f"{r} {p} {m['bytes'] / 1e6:.1f} MB in {m['compile_ms'] / 1000:.1f} s" for r, p, m in made]
        print(f"\nfor {card['card']}, compiled only, {seconds:.1f} s: {'; '.join(sizes)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--plan", action="append", default=[], help="ISR plan of a level; may be repeated")
    parser.add_argument(
        "--data-root", type=Path, help="of CamVid: calibrate on it, and take golden frames from it"
    )
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument(
        "--card", action="append", default=[], help="compile for this RTX card, too; may be repeated"
    )
    parser.add_argument(
        "--runtime", action="append", default=[], help="consider this runtime only; may be repeated"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        source = (
            open_bundle(options.bundle)
            if options.bundle
            else shipped(path / "made.edgeseg", options.plan, options.data_root, bool(options.card))
        )
        levels = [level.isr for level in source.manifest.levels]
        rounds = [one_round(source, path / f"{number}.edgeseg", options) for number in range(options.repeat)]
    show(levels, rounds, options.threads)
    print(json.dumps({"levels": levels, "threads": options.threads, "rounds": rounds}))


if __name__ == "__main__":
    main()
