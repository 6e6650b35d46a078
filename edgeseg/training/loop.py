"""The training loop, for a CPU, a GPU, or several processes under torchrun. A `Task` says what is trained:
float or INT8.

Data stream, optimiser steps, log, state, resume, validation and the best checkpoint are the loop's.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseg.contracts import NoProgress, Progress
from edgeseg.data.datasets import FolderDataset, open_dataset
from edgeseg.data.evaluate import evaluate
from edgeseg.data.loader import StepSampler, train_batches
from edgeseg.data.transforms import TrainTransform
from edgeseg.errors import BuildError, DataError, RecipeError
from edgeseg.files import Target, followed, refusals
from edgeseg.models.reference import TorchReference, normalise
from edgeseg.recipe.load import dump_recipe
from edgeseg.recipe.schema import Recipe
from edgeseg.training.distributed import Processes, processes
from edgeseg.training.interrupt import Stop, Stopped, stop_requests
from edgeseg.training.log import WAY_OUT, TrainLog, write_samples
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.optim import Ema, set_learning_rate
from edgeseg.training.resume import data_changes, data_facts, other_recipe
from edgeseg.training.state import Counters, OtherRecipe, latest_state, restore_state, save_state
from edgeseg.training.task import MakeTask

_LOG_EVERY = 50


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with. `best` holds the weights of the highest validation mIoU; at step 0, what it
    started from.
    """

    best: Path
    miou: float
    step: int
    best_step: int
    seconds: float


def run_task(
    make: MakeTask,
    recipe: Recipe,
    data_root: Path,
    run_dir: Path,
    *,
    device: str = "auto",
    workers: int = 2,
    fresh: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a task, or continue the run that lies in `run_dir`; see `float.train` for the arguments.

    Args:
        make: builds the task for the classes of the data, in each process.
        run_dir: gets recipe.yaml, metrics.jsonl, best.safetensors, state/ and samples/.
    Raises:
        RecipeError, DataError: see the message.
        BuildError: the loss became NaN or infinite; the last state is kept.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after the state of the last whole step was saved.
    """
    progress = progress or NoProgress()
    with processes(device) as here, stop_requests() as stop:
        if fresh and here.is_first and run_dir.exists():
            set_aside(run_dir)
        here.wait()
        loop = _Loop(make, recipe, data_root, run_dir, here)
        try:
            with contextlib.closing(loop.batches(workers)) as batches:
                loop.fit(stop, batches, progress if here.is_first else NoProgress())
        finally:
            loop.log.close()
        c = loop.counters
        return TrainResult(run_dir / "best.safetensors", c.best_miou, c.step, c.best_step, c.seconds)


class _Loop:
    """Task, optimiser and counters of one run in one process."""

    def __init__(
        self, make: MakeTask, recipe: Recipe, data_root: Path, run_dir: Path, here: Processes
    ) -> None:
        self.recipe, self.run_dir, self.here = recipe, run_dir, here
        self.train_set = open_dataset(recipe.data, "train", data_root)
        self.val_set = open_dataset(recipe.data, "val", data_root)
        self.task = make(self.train_set.labels, here)
        schedule = self.schedule = self.task.schedule
        if schedule.batch_size % (schedule.accumulate * here.world_size):
            raise RecipeError(
                f"batch_size {schedule.batch_size} is no multiple of accumulate {schedule.accumulate} x "
                f"{here.world_size} processes",
                hint="change batch_size in the recipe, or --nproc-per-node",
            )
        torch.manual_seed(schedule.seed + here.rank)
        self.optimizer = torch.optim.AdamW(self.task.parameter_groups(), betas=schedule.betas)
        self.ema = Ema(self.task.model, schedule.ema_decay) if schedule.ema_decay is not None else None
        self.cross_entropy = CrossEntropy(
            self.train_set.labels.ignore_index, schedule.ohem_keep, self._class_weights()
        )
        state = latest_state(run_dir / "state")
        self.counters = Counters()
        self.data = data_facts(self.train_set, self.val_set)
        self.changes: list[str] = []
        text, kept = dump_recipe(recipe), run_dir / "recipe.yaml"
        if state is not None:
            try:
                restored = restore_state(
                    state, self.task.model, self.optimizer, self.ema, self.task.digest, here
                )
            except OtherRecipe:
                raise other_recipe(run_dir, text, recipe) from None
            self.counters = restored[0]
            self.changes = data_changes(restored[1], self.data, run_dir)
        elif kept.exists() and kept.read_text() != text:
            raise other_recipe(run_dir, text, recipe)
        if here.is_first:
            Target(run_dir / "recipe.yaml", BuildError, WAY_OUT).write(dump_recipe(recipe).encode())
        here.wait()
        self.log = TrainLog(run_dir, self.counters.step) if here.is_first else _NoLog()

    def _class_weights(self) -> Tensor | None:
        weights, classes = self.schedule.class_weights, self.train_set.labels.num_classes
        if weights is None:
            return None
        if len(weights) != classes:
            raise RecipeError(
                f"train.class_weights has {len(weights)} values for {classes} classes",
                hint="one value a class",
            )
        return torch.tensor(weights, device=self.here.device)

    def batches(self, workers: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """What is left of the stream of micro-batches."""
        t, here = self.schedule, self.here
        sampler = StepSampler(
            len(self.train_set),
            t.batch_size,
            t.accumulate,
            t.steps,
            self.counters.step,
            t.seed,
            here.rank,
            here.world_size,
        )
        transform = TrainTransform(
            self.recipe.augment, self.task.image.mean_rgb, self.train_set.labels.ignore_index, t.seed
        )
        return train_batches(self.train_set, transform, sampler, workers)

    def fit(self, stop: Stop, batches: Iterator[tuple[Tensor, Tensor]], progress: Progress) -> None:
        t, c, here, task = self.schedule, self.counters, self.here, self.task
        network = task.model
        if here.world_size > 1:
            network = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
        amp = _amp(t.amp, here.device)
        if task.validate_first and c.best_miou < 0:
            self._validate(progress)
            self._save()
        for warning in self.train_set.warnings if isinstance(self.train_set, FolderDataset) else ():
            progress.message(f"warning: {warning}")
        if self.changes:
            progress.message(
                f"warning: the data is not what this run began with ({'; '.join(self.changes)}); going on"
                " with it"
            )
            self.log.write(c.step, data_changed=self.changes)
        progress.start("train", t.steps)
        progress.advance("train", c.step)
        window, window_steps, window_start = dict[str, float](), 0, time.monotonic()
        while c.step < t.steps:
            started = time.monotonic()
            task.set_mode()
            set_learning_rate(self.optimizer, c.step, t)
            for name, loss in self._step(network, [next(batches) for _ in range(t.accumulate)], amp).items():
                window[name] = window.get(name, 0.0) + loss
            window_steps += 1
            if self.ema is not None:
                self.ema.update(task.model, c.step)
            c.step += 1
            c.seconds += time.monotonic() - started
            means = {name: total / window_steps for name, total in window.items()}
            progress.advance("train", 1, **means)
            if c.step % _LOG_EVERY == 0 or c.step == t.steps:
                rate = window_steps * t.batch_size / (time.monotonic() - window_start)
                lr = self.optimizer.param_groups[0]["lr"]
                self.log.write(c.step, **means, lr=lr, images_per_s=round(rate, 2))
                progress.advance("train", 0, images_per_s=rate)
                window, window_steps, window_start = {}, 0, time.monotonic()
            validated = c.step % t.val_every == 0 or c.step == t.steps
            if validated:
                self._validate(progress)
                window_start = time.monotonic()
            stopping = bool(here.sum(torch.tensor([float(stop.requested)]))[0])
            if validated or stopping or c.step % t.checkpoint_every == 0:
                self._save()
            if stopping:
                progress.message(f"stopped at step {c.step}; the same command continues from here")
                raise Stopped(stop.signal)
            if t.patience is not None and c.stale >= t.patience:
                progress.message(f"no better mIoU in {c.stale} validations: stopped at step {c.step}")
                break
        progress.finish("train")

    def _step(self, network: nn.Module, batches: list[tuple[Tensor, Tensor]], amp: bool) -> dict[str, float]:
        """One optimiser step. Returns what was added up: the pixel losses, a mean over the counted pixels of
        all processes, as `loss`, and the task's further losses, means over images.
        """
        here = self.here
        counted = sum(self.cross_entropy.count(mask) for _, mask in batches)
        total_count = max(1.0, float(here.sum(torch.tensor([float(counted)], dtype=torch.float64))[0]))
        sums: dict[str, float] = {}
        for i, (image, mask) in enumerate(batches):
            images = normalise(image.to(here.device, non_blocking=True), self.task.image)
            labels = mask.to(here.device, non_blocking=True)
            last = i == len(batches) - 1
            hold = contextlib.nullcontext() if last or here.world_size == 1 else network.no_sync()  # type: ignore[operator]
            with hold:
                with torch.autocast(here.device.type, torch.bfloat16, enabled=amp):
                    pixels, further = self.task.losses(network, images, labels, self.cross_entropy)
                # DistributedDataParallel averages gradients over processes, which hold equally many images,
                # but not pixels.
                shares = {"loss": pixels * (here.world_size / total_count)}
                shares |= {name: value / len(batches) for name, value in further.items()}
                torch.stack(list(shares.values())).sum().backward()
            for name, share in shares.items():
                sums[name] = sums.get(name, 0.0) + float(share.detach())
        totals = here.sum(torch.tensor(list(sums.values()), dtype=torch.float64)) / here.world_size
        means = dict(zip(sums, totals.tolist(), strict=True))
        if not math.isfinite(total := sum(means.values())):
            raise BuildError(
                f"the loss is {total} at step {self.counters.step + 1}; the last saved state is kept in"
                f" {self.run_dir / 'state'}",
                hint="lower train.lr (of INT8: quant.qat.lr), set train.clip_norm: 1.0, or train.amp: off",
            )
        if self.schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.task.model.parameters(), self.schedule.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.stepped()
        return means

    def _validate(self, progress: Progress) -> None:
        """mIoU of the averaged weights (or the plain ones without EMA); the best so far is kept as
        best.safetensors.
        """
        c, here, model = self.counters, self.here, self.task.model
        plain = None
        if self.ema is not None:
            plain = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(self.ema.state)
        try:
            reference = TorchReference(model, self.task.image, self.recipe.export.mask_stride)
            mine = range(here.rank, len(self.val_set), here.world_size)
            confusion = evaluate(reference.segment, self.val_set, mine, progress)
            confusion.counts = here.sum_counts(confusion.counts)
            miou = confusion.miou()
            c.stale = 0 if miou > c.best_miou else c.stale + 1
            if here.is_first:
                report = confusion.report(self.val_set.labels.names)
                self.log.write(c.step, miou=miou, seconds=round(c.seconds, 1), classes=report["classes"])
                write_samples(self.run_dir / "samples" / f"step_{c.step:08d}.png", reference, self.val_set)
                progress.message(f"step {c.step}: mIoU {miou:.4f} (best {max(miou, c.best_miou):.4f})")
            if c.stale == 0:
                c.best_miou, c.best_step = miou, c.step
                if here.is_first:
                    self.task.save_best(self.run_dir / "best.safetensors", c)
        finally:
            if plain is not None:
                model.load_state_dict(plain)

    def _save(self) -> None:
        save_state(
            self.run_dir / "state",
            self.task.model,
            self.optimizer,
            self.ema,
            self.counters,
            self.task.digest,
            self.here,
            self.data,
        )
        self.here.wait()


def _amp(choice: str, device: torch.device) -> bool:
    """Whether to compute in bf16. `auto` asks the hardware: emulated bf16 is slower than float32."""
    if choice != "auto":
        return choice == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def _text_in(path: Path) -> str:
    """A recipe of an earlier sitting; empty where there is none, or where a power cut left nothing of it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", hint="choose another folder with --out, or use --fresh"
        ) from error


class _NoLog:
    def write(self, step: int, **figures: Any) -> None: ...

    def close(self) -> None: ...


def set_aside(run_dir: Path) -> Path:
    """Rename a run's folder with the first free number appended; the new name. Of a link, the folder that it
    leads to.

    Raises:
        BuildError: it cannot be renamed.
    """
    with refusals(run_dir, BuildError, "choose another folder with --out"):
        folder = followed(run_dir)
        free = next(
            p for n in range(1, 10_000) if not os.path.lexists(p := folder.with_name(f"{folder.name}.{n}"))
        )
        folder.rename(free)
        if run_dir.is_symlink():
            folder.mkdir()  # or the link would lead nowhere
    return free
