"""How much accuracy and time each ISR plan of a trained model costs on this machine: the search's table, for
at least 24 plans.

python benchmarks/isr.py --data-root DIR [--recipe edaformer_t_camvid] [--checkpoint FILE] [--limit N]
[--rounds 30]
    [--max-plans 24] [--threads 2] [--size 384 512]... [-o DIR]

For each size: the paper's plans, a greedy walk and its surroundings; then the time and the multiply-adds that
the paper's optimal plan saves, and whether it loses less than 0.2 points of mIoU. Tables are printed as text
(stderr) and as JSON (stdout). Without --data-root there is nothing to measure, and that is said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgeseg.cli.render import RichProgress
from edgeseg.isr.search import SearchOptions, search
from edgeseg.recipe.load import load_recipe

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "edaformer_t_camvid" / "weights.safetensors"
OPTIMAL = "2,2,1,1-2,2,2"
CLAIM = 0.002
"""The paper's: mIoU lost at its optimal plan, without training."""


def lines(table: dict[str, Any]) -> list[str]:
    rows = table["candidates"]
    base_macs = max(row["macs"] for row in rows)
    width = max(len(row["plan"]) for row in rows)
    text = [f"{'plan':<{width}}  mIoU %   lost     ms   time  10-90 %    GMAC   MACs  from"]
    for row in rows:
        figures = (
            f"{100 * row['miou']:>6.2f} {100 * row['drop']:>6.2f} {row['ms']:>6.1f} {row['ratio']:>6.3f}"
        )
        spread = f"{row['ratio_p10']:.2f}-{row['ratio_p90']:.2f}"
        cost = f"{row['macs'] / 1e9:>6.2f} {row['macs'] / base_macs:>6.3f}"
        text.append(
            f"{row['plan']:<{width}}  {figures}  {spread} {cost} "
            f" {row['origin']:<7}{'front' if row['on_front'] else ''}"
        )
    height, width = table["size_hw"]
    text.append(
        f"{table['recipe']} {width}x{height}, {table['images']} images, {table['rounds']} rounds,"
        f" {table['threads']} threads; times within {100 * table['noise']:.1f} % are equal"
    )
    optimal = next((row for row in rows if row["plan"] == OPTIMAL), None)
    if optimal:
        saved = (
            f"time -{100 * (1 - optimal['ratio']):.1f} %, MACs"
            f" -{100 * (1 - optimal['macs'] / base_macs):.1f} %"
        )
        holds = f"less than {100 * CLAIM:.1f} lost: {'yes' if optimal['drop'] < CLAIM else 'no'}"
        text.append(f"{OPTIMAL}: {saved}, mIoU {0.0 - 100 * optimal['drop']:+.2f} points; {holds}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--recipe", default="edaformer_t_camvid")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--max-plans", type=int, default=24)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        action="append",
        metavar=("H", "W"),
        help="default: the recipe's; repeatable",
    )
    parser.add_argument("-o", "--out", type=Path, help="keep the results here, and continue from them")
    arguments = parser.parse_args()
    if arguments.data_root is None:
        print("bench_isr: needs --data-root DIR with the recipe's validation images", file=sys.stderr)
        return
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.size or [load_recipe(arguments.recipe).export.size_hw]:
            recipe = load_recipe(arguments.recipe, [f"export.size_hw={list(size)}"])
            options = SearchOptions(
                limit=arguments.limit,
                rounds=arguments.rounds,
                max_plans=arguments.max_plans,
                threads=arguments.threads,
                levels=3,
            )
            out = (arguments.out or Path(folder)) / f"{size[0]}x{size[1]}"
            with RichProgress() as progress:
                found = search(
                    recipe, arguments.checkpoint, arguments.data_root, out, options, progress=progress
                )
            print("\n".join(lines(found.table)), file=sys.stderr)
            tables.append(found.table)
    print(json.dumps(tables))


if __name__ == "__main__":
    main()
