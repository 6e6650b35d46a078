"""Engines of one model at any plan, and what a plan costs in multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeseg import __version__
from edgeseg.checkpoints.models import Trained
from edgeseg.contracts import Session
from edgeseg.devices.machine import detect
from edgeseg.devices.probe import place
from edgeseg.engines import table
from edgeseg.isr.measure import Built
from edgeseg.isr.plans import PlanSpace
from edgeseg.isr.programs import FloatPrograms, Programs
from edgeseg.models.segmentor import Segmentor
from edgeseg.recipe.schema import Export
from edgeseg.specs import IsrPlan, canonical_form


class PlanEngines:
    """Engines of a trained model on one runtime of this device; `measure.Engines`.

    Args:
        trained: the float model; its plan in force is changed by `build`.
        export: size, layout, mask stride and opset of the programs.
        runtime: a row of the engine table.
        threads: default: the physical cores that this process may use.
        programs: default: those of the float model.
    Raises:
        Unsupported: there is no such runtime, or it is not installed.
    """

    def __init__(
        self,
        trained: Trained,
        export: Export,
        runtime: str,
        threads: int | None = None,
        programs: Programs | None = None,
    ) -> None:
        self._model, self._size_hw = trained.model, export.size_hw
        self._programs = programs or FloatPrograms(trained, export)
        machine = detect()
        self._backend = table.backend(runtime, machine)
        self._form = self._backend.form_for(self._programs.precision) or canonical_form(
            self._programs.precision
        )
        self.device = table.fingerprint(runtime, machine)
        self.space = plan_space(trained.model, export.size_hw)
        self.options: Mapping[str, Any] = {"threads": threads or machine.cores}
        self.identity: Mapping[str, Any] = {
            "edgeseg": __version__,
            **self._programs.identity,
            "export": export.model_dump(mode="json"),
            "precision": self._programs.precision,
            "form": self._form,
            "device": self.device.key,
            **({"machine": place(machine)} if self.device.moves else {}),  # times are a machine's
        }

    def build(self, plan: IsrPlan, folder: Path) -> Built:
        """Export the program at a plan and compile it, into `folder`. Raises BuildError."""
        folder.mkdir(parents=True, exist_ok=True)
        program = self._programs.write(plan, self._form, folder)
        return Built(program, self._backend.compile(program, folder, self.options))

    def open(self, built: Built) -> Session:
        return self._backend.load(built.program, built.files, self.options)

    def macs(self, plan: IsrPlan) -> int:
        """Multiply-adds for one image: convolutions, linear layers and both products of attention, nothing
        else.
        """
        model = copy.deepcopy(self._model).to("meta")
        model.set_isr(plan)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, *self._size_hw, device="meta"))
        return counter.get_total_flops() // 2


def plan_space(model: Segmentor, size_hw: tuple[int, int]) -> PlanSpace:
    """The plans that a model takes at an image size."""
    choices, stages = model.isr_choices(size_hw), len(model.isr_plan.encoder)
    return PlanSpace(choices[:stages], choices[stages:], size_hw)
