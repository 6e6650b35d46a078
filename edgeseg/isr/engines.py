"""Programs and engines of one model at any plan, and what a plan costs in multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg import __version__
from edgeseg.contracts import Session
from edgeseg.deploy.form import Form
from edgeseg.devices.probe import usable_cores
from edgeseg.engines import table
from edgeseg.export.program import export_program
from edgeseg.isr.measure import Built
from edgeseg.isr.plans import PlanSpace
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe.schema import Export
from edgeseg.specs import IsrPlan
from edgeseg.trained import Trained


class PlanEngines:
    """Engines of a trained model on one runtime of this device; `measure.Engines`.

    Args:
        trained: its plan in force is changed by `build`.
        export: size, layout, mask stride and opset of the programs.
        runtime: a row of the engine table.
        threads: default: the physical cores that this process may use.
    Raises:
        Unsupported: there is no such runtime, or it is not installed.
    """

    def __init__(self, trained: Trained, export: Export, runtime: str, threads: int | None = None) -> None:
        self._trained, self._model, self._export = trained, trained.model, export
        self._backend = table.backend(runtime)
        self._form: Form = runtime if runtime in get_args(Form) else "plain"  # type: ignore[assignment]  # it is one of Form
        self.device = table.fingerprint(runtime)
        self.space = plan_space(trained.model, export.size_hw)
        self.options: Mapping[str, Any] = {"threads": threads or usable_cores()}
        self.identity: Mapping[str, Any] = {
            "edgeseg": __version__,
            "checkpoint": trained.sha256,
            "export": export.model_dump(mode="json"),
            "form": self._form,
            "device": self.device.key,
        }

    def build(self, plan: IsrPlan, folder: Path) -> Built:
        """Export the program at a plan and compile it, into `folder`. Raises BuildError."""
        self._model.set_isr(plan)
        export = self._export
        program = export_program(
            self._model,
            image=self._model.image_spec(export.size_hw, export.layout),
            labels=self._trained.labels,
            mask_stride=export.mask_stride,
            arch=self._trained.arch,
            opset=export.opset,
            out=folder / "program.onnx",
            form=self._form,
        )
        return Built(program, self._backend.compile(program, folder, self.options))

    def open(self, built: Built) -> Session:
        return self._backend.load(built.program, built.files, self.options)

    def macs(self, plan: IsrPlan) -> int:
        """Multiply-adds for one image: convolutions, linear layers and both products of attention, nothing else."""
        model = copy.deepcopy(self._model).to("meta")
        model.set_isr(plan)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, *self._export.size_hw, device="meta"))
        return counter.get_total_flops() // 2


def plan_space(model: Segmentor, size_hw: tuple[int, int]) -> PlanSpace:
    """The plans that a model takes at an image size."""
    choices, stages = model.isr_choices(size_hw), len(model.isr_plan.encoder)
    return PlanSpace(choices[:stages], choices[stages:], size_hw)
