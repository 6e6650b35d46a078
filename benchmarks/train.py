"""Training speed: optimiser steps of EDAFormer-T on generated crops already in memory, float32 and bf16, side
by side.

    python benchmarks/train.py [--crop-hw 256 320] [--batch 8] [--threads 2]

What the loader adds is measured by bench_loader.py: workers run beside the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from edgeseg.models import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop-hw", type=int, nargs=2, default=(256, 320))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_model("edaformer_t", 11).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    height, width = args.crop_hw
    image = torch.randn(args.batch, 3, height, width)
    mask = torch.randint(0, 11, (args.batch, height, width))

    def step(bf16: bool) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(image)
        resized = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
        F.cross_entropy(resized, mask).backward()
        optimizer.step()
        optimizer.zero_grad()
        return args.batch / (time.perf_counter() - started)

    rates: dict[str, list[float]] = {"float32": [], "bf16": []}
    for round_ in range(args.rounds + 2):
        for name in rates:
            rate = step(name == "bf16")
            if round_ >= 2:  # warm-up
                rates[name].append(rate)
    figures = {
        name: {
            "images_per_s": round(statistics.median(r), 2),
            "min": round(min(r), 2),
            "max": round(max(r), 2),
        }
        for name, r in rates.items()
    }
    ratio = statistics.median(b / a for a, b in zip(rates["float32"], rates["bf16"], strict=True))
    setting = {
        "crop_hw": args.crop_hw,
        "batch": args.batch,
        "threads": args.threads,
        "torch": torch.__version__,
    }
    print(json.dumps({**setting, **figures, "bf16_over_float32": round(ratio, 3)}, indent=2))


if __name__ == "__main__":
    main()
