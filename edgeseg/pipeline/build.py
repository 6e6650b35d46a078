"""Bundle -> engines for this device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeseg.bundle import Bundle
from edgeseg.contracts import NO_OPTIONS, Progress, Session
from edgeseg.data.evaluate import evaluate
from edgeseg.engines.choose.choice import LevelBuild, build_level
from edgeseg.engines.options import Wanted
from edgeseg.pipeline.evaluate import validation_split


def build_bundle(
    bundle: Bundle,
    *,
    runtimes: Sequence[str] = (),
    options: Wanted = NO_OPTIONS,
    threads: int | None = None,
    data_root: Path | None = None,
    limit: int | None = None,
    memory: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> list[LevelBuild]:
    """Find this device's best engine for every level; see `engines.choose.build_level`.

    Args:
        options: of runtimes, by name: {"tensorrt": {"dla_core": 0}}.
        data_root: measure every engine's mIoU on the recipe's validation split, and hold it to the gate for
            its precision.
        limit: of that split, use this many images, evenly spread.
        memory: also measure every engine's peak memory.
    Raises:
        DataError: the data do not fit the bundle.
    """
    accuracy = None
    if data_root is not None:
        dataset, indices = validation_split(bundle.recipe(), data_root, bundle.any_program().labels, limit)

        def accuracy(session: Session) -> float:
            return evaluate(session.segment, dataset, indices, progress).miou()

    return [
        build_level(
            bundle,
            level,
            runtimes=runtimes,
            options=options,
            threads=threads,
            force=force,
            accuracy=accuracy,
            memory=memory,
            progress=progress,
        )
        for level in range(len(bundle.manifest.levels))
    ]
