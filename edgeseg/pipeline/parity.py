"""Bundle -> the parity ladder of every program in it; nothing in the bundle changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.bundle import Bundle
from edgeseg.checkpoints.models import load_quantized, load_trained
from edgeseg.contracts import NoProgress, Progress
from edgeseg.engines.open import find_engine
from edgeseg.engines.table import backend
from edgeseg.errors import BundleError, ParityError, Unsupported
from edgeseg.pipeline.evaluate import evaluate_bundle
from edgeseg.recipe.schema import Recipe
from edgeseg.specs import Form, IsrPlan, Precision, Program, canonical_form

if TYPE_CHECKING:
    from edgeseg.export.parity.ladder import Rung
    from edgeseg.models.reference import TorchReference


@dataclass(frozen=True)
class Inputs:
    """What rungs need beside the bundle; what is not given, skips the rungs that need it.

    Attributes:
        checkpoint: the float checkpoint that the bundle was exported from: P0, P1 and P4.
        quantized: the quantized checkpoint: P0 and P1 of INT8 programs.
        data_root: where the recipe's data paths start: P4, with this device's engines.
        limit: images of the validation split, evenly spread.
    """

    checkpoint: Path | None = None
    quantized: Path | None = None
    data_root: Path | None = None
    limit: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Ladder:
    """The rungs of one program."""

    level: int
    isr: str
    precision: Precision
    rungs: Sequence[Rung]

    def to_json(self) -> dict[str, Any]:
        rungs = [rung.to_json() for rung in self.rungs]
        return {"level": self.level, "isr": self.isr, "precision": self.precision, "rungs": rungs}


def climb(
    bundle: Bundle,
    inputs: Inputs,
    *,
    level: int | None = None,
    precision: Precision | None = None,
    progress: Progress | None = None,
) -> list[Ladder]:
    """Climb the ladder of every program on the bundle's golden frames. What breaks is told in its rung;
    `check` raises it.

    Args:
        level, precision: these programs only.
    Raises:
        BundleError: the bundle is damaged, or holds no such program.
        DataError: a checkpoint or the data do not fit the bundle.
    """
    progress = progress or NoProgress()
    numbers = range(len(bundle.manifest.levels)) if level is None else [level]
    ladders = []
    for number in numbers:
        entry = bundle.level(number)
        for one in entry.programs if precision is None else [precision]:
            progress.message(f"level {number} {one}: climbing")
            rungs = tuple(_Climber(bundle, inputs, number, one, progress).rungs())
            ladders.append(Ladder(number, entry.isr, one, rungs))
    return ladders


def check(bundle: Bundle, ladders: Sequence[Ladder]) -> None:
    """Raise ParityError where a rung broke; its report has all ladders."""
    from edgeseg.export.parity.ladder import check as check_rungs

    for ladder in ladders:
        try:
            check_rungs(f"{bundle.path}, level {ladder.level} {ladder.precision}", ladder.rungs)
        except ParityError as error:
            error.report = {"ladders": [one.to_json() for one in ladders]}
            raise


class _Climber:
    """Climbs one program."""

    def __init__(
        self, bundle: Bundle, inputs: Inputs, level: int, precision: Precision, progress: Progress
    ) -> None:
        self._bundle, self._inputs, self._level, self._precision = bundle, inputs, level, precision
        self._recipe: Recipe = bundle.recipe()
        self._program = bundle.program(level, precision)
        self._frames = list(bundle.golden(level, precision))
        self._images = [frame.image_rgb for frame in self._frames]
        self._progress = progress

    def rungs(self) -> Iterator[Rung]:
        from edgeseg.export.parity import ladder
        from edgeseg.export.parity.runners import OTHERS

        reference = self._reference()
        option = "--quantized" if self._precision == "int8" else "--checkpoint"
        if isinstance(reference, str):
            yield ladder.Rung(
                "P0", f"{self._precision} torch module against golden frames", skipped=reference
            )
            yield ladder.Rung("P1", "torch model against ONNX Runtime unoptimised", skipped=f"no {option}")
        else:
            yield ladder.golden_rung(reference, self._frames, self._precision)
            yield ladder.graph_rung(reference, self._program, self._images)
        yield ladder.optimised_rung(self._program, self._forms(), self._images)
        for runtime in OTHERS:
            form = backend(runtime).form_for(self._precision)
            program = self._bundle.program(self._level, self._precision, form)
            yield ladder.runtime_rung(self._program, runtime, program, self._images)
        yield self._accuracy()

    def _reference(self) -> TorchReference | str:
        """The torch model that the program came from; or why there is none."""
        plan: IsrPlan = self._program.isr
        given = self._inputs
        if self._precision == "int8":
            if given.quantized is None:
                return "no --quantized: give the quantized checkpoint"
            return load_quantized(self._recipe, given.quantized, plan).reference(self._program.mask_stride)
        if given.checkpoint is None:
            return "no --checkpoint: give the float checkpoint"
        return load_trained(self._recipe, given.checkpoint, plan).reference(self._program.mask_stride)

    def _forms(self) -> dict[Form, Program]:
        entry = self._bundle.level(self._level).programs[self._precision]
        names = (canonical_form(self._precision), *map(Form, entry.forms))
        return {form: self._bundle.program(self._level, self._precision, form) for form in names}

    def _accuracy(self) -> Rung:
        from edgeseg.export.parity.ladder import Rung, accuracy_rung

        given, (gate, allowed) = self._inputs, self._recipe.miou_gate(self._precision)
        compares = f"compiled engine against float checkpoint, {gate}"
        if given.checkpoint is None or given.data_root is None:
            return Rung("P4", compares, skipped="it needs --checkpoint and --data-root")
        try:
            find_engine(self._bundle, self._level, precision=self._precision)
        except (BundleError, Unsupported) as missing:
            return Rung("P4", compares, skipped=f"{missing}: {missing.hint}")
        found = evaluate_bundle(
            self._bundle,
            self._recipe,
            given.data_root,
            level=self._level,
            precision=self._precision,
            checkpoint=given.checkpoint,
            limit=given.limit,
            threads=given.threads,
            gated=False,
            progress=self._progress,
        )
        assert found.torch is not None and found.drop is not None  # a checkpoint was given
        details = {
            "images": found.images,
            "engine_miou": found.engine.miou(),
            "torch_miou": found.torch.miou(),
        }
        return accuracy_rung(found.drop, gate, allowed, details)
