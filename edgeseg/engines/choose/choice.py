"""Choice of a device's engine: every candidate is built, checked, and timed against the others in turns; the
fastest stays.

The first candidate is the reference: ONNX Runtime in float, which runs everywhere. Speed-ups refer to it, and
no other engine may lose more mIoU against it than the recipe's gate for its precision, where validation data
is at hand.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from edgeseg.bundle import Bundle
from edgeseg.bundle.files import check_writable
from edgeseg.bundle.manifest import CandidateEntry, ChoiceEntry, EngineEntry
from edgeseg.contracts import NO_OPTIONS, NoProgress, Progress, Session
from edgeseg.devices.local import timed_otherwise
from edgeseg.devices.machine import Machine, detect
from edgeseg.devices.power import PowerMeter
from edgeseg.devices.probe import place
from edgeseg.engines.choose.accuracy_gate import MiouGate
from edgeseg.engines.choose.build import RUNS, WARMUP, check_golden
from edgeseg.engines.choose.candidates import Trial, candidates
from edgeseg.engines.choose.latency import measure_power, measure_together
from edgeseg.engines.choose.memory import peak_memory_bytes
from edgeseg.engines.choose.spec import EngineSpec
from edgeseg.engines.options import Wanted
from edgeseg.errors import BuildError, BundleError, GateFailed, IntegrityError, OutOfRoom, Unsupported
from edgeseg.files import json_digest


@dataclass(frozen=True, slots=True)
class LevelBuild:
    """Result of `build_level`.

    Attributes:
        choice: all candidates, and the key of the default engine.
        engine: the default engine.
        built: False where nothing had to be built or timed.
        reason: why it was built, or kept; one clause.
    """

    choice: ChoiceEntry
    engine: EngineEntry
    built: bool
    reason: str


def build_level(
    bundle: Bundle,
    level: int = 0,
    *,
    runtimes: Sequence[str] = (),
    options: Wanted = NO_OPTIONS,
    threads: int | None = None,
    force: bool = False,
    accuracy: Callable[[Session], float] | None = None,
    memory: bool = False,
    progress: Progress | None = None,
    machine: Machine | None = None,
) -> LevelBuild:
    """Find this device's best engine for a level of a bundle, and pack it with all others that pass.

    Args:
        runtimes: consider these only, and the reference; default: every runtime that is installed.
        options: of runtimes, by name: {"tensorrt": {"optimization_level": 5}}. What each takes:
            `EngineBackend.options`.
        threads: default: the physical cores that this process may use.
        force: build and time all anew. Without it, what is there is kept; an engine that was compiled
            elsewhere is checked and timed, not compiled.
        accuracy: mIoU of a session, a fraction; where it is given, engines that are there are checked and
            timed anew. Without it, what was measured the last time holds, and what was refused for it stays
            refused.
        memory: also measure each engine's peak memory, in a process of its own; engines that are there are
            timed anew too.
        machine: None: this one.
    Raises:
        GateFailed, BuildError: no float engine came through; the reference's error. The bundle is as it was.
        OptionError: a runtime does not take what `options` has for it, or is not considered.
        Unsupported: one of `runtimes` does not exist, is not installed, or cannot do here what `options` ask
            of it.
        BundleError: the bundle is damaged, or cannot be written.
    """
    progress, machine = progress or NoProgress(), machine or detect()
    trials = candidates(
        bundle,
        level,
        runtimes=runtimes,
        wanted=options,
        threads=threads,
        machine=machine,
        progress=progress,
    )
    no_twin = BuildError(
        f"{bundle.path} has no float program at level {level} that other engines could be compared with",
        hint="edgeseg export RECIPE",
    )
    if not trials:
        raise no_twin
    key, here = _key(trials, machine), place(machine)
    kept, reason = _kept(bundle, level, key, here, trials)
    if kept and not force and accuracy is None and not memory:
        engine = next(engine for engine in bundle.manifest.engines if engine.key == kept.engine)
        if told := timed_otherwise(engine.clocks, machine):
            progress.message(f"level {level} {engine.runtime} {engine.kind}: {told}; --force times all anew")
        return LevelBuild(kept, engine, built=False, reason=reason)
    measured = " and ".join(name for name, wanted in (("mIoU", accuracy), ("memory", memory)) if wanted)
    reason = "--force" if kept and force else f"to measure {measured}" if kept else reason
    check_writable(bundle.path)
    with tempfile.TemporaryDirectory(prefix="edgeseg-build-") as folder, ExitStack() as stack:
        for number, trial in enumerate(
            trials
        ):  # all before the first is opened: builders get the memory to themselves
            home = Path(folder) / str(number)
            home.mkdir()
            _build(trial, bundle, home, force, progress)
        gate = MiouGate(bundle, level, trials[0], accuracy)
        for trial in trials:
            _check(trial, bundle, stack, gate, progress)
        _time(trials, bundle, level, progress)
        if memory:
            _weigh(trials, progress)
        rows = select([trial.row() for trial in trials])
        chosen = next((row for row in rows if row.verdict == "default"), None)
        if chosen is None or chosen.key is None:
            raise next((trial.error for trial in trials if trial.error), no_twin)
        tried_again = any(isinstance(trial.error, OutOfRoom) for trial in trials)
        choice = ChoiceEntry(
            level=level,
            key=_unfinished(key) if tried_again else key,
            engine=chosen.key,
            candidates=tuple(rows),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            machine=here,
        )
        through = [(trial, trial.plan) for trial in trials if trial.session and trial.plan]
        passed = [
            (plan.entry(trial.files, trial.figures, kept=trial.kept), trial.files) for trial, plan in through
        ]
        engines = bundle.add_engines(passed, choice)
    return LevelBuild(
        choice, next(engine for engine in engines if engine.key == choice.engine), built=True, reason=reason
    )


def select(candidates: Sequence[CandidateEntry]) -> list[CandidateEntry]:
    """Name the default among candidates that passed: the fastest. Others keep their verdict.

    What counts is the speed-up, which compares times of one round, where all have one; else the median. An
    INT8 engine must be faster than every other, in float or half precision, by both, and there must be one:
    an engine that nothing was compared with may be the slow one. Where only INT8 passed there is no default.

    Args:
        candidates: "passed" ones have `measurements["median_ms"]`, of one run in turns.
    """
    passed = [candidate for candidate in candidates if candidate.verdict == "passed"]
    floats = [candidate for candidate in passed if candidate.precision != "int8"]
    if not floats:
        return list(candidates)
    cost = (
        _inverse_speedup if all("speedup" in candidate.measurements for candidate in passed) else _median_ms
    )
    twin, least_ms = min(floats, key=cost), min(map(_median_ms, floats))
    faster = [
        c for c in passed if c.precision == "int8" and cost(c) < cost(twin) and _median_ms(c) < least_ms
    ]
    best = min([twin, *faster], key=cost)  # of equal ones the first
    judged = []
    for candidate in candidates:
        if candidate is best:
            candidate = candidate.model_copy(update={"verdict": "default", "reason": ""})
        elif candidate.verdict == "passed":
            reason = f"{100 * (cost(candidate) / cost(best) - 1):.0f} % slower than the default"
            if candidate.precision == "int8" and candidate not in faster:
                reason = f"INT8, and not faster than {twin.runtime} {twin.kind}"
            candidate = candidate.model_copy(update={"reason": reason})
        judged.append(candidate)
    return judged


def _median_ms(candidate: CandidateEntry) -> float:
    return float(candidate.measurements["median_ms"])


def _inverse_speedup(candidate: CandidateEntry) -> float:
    return 1 / max(float(candidate.measurements["speedup"]), 1e-4)  # which is 0 where it was rounded away


def _key(trials: Sequence[Trial], machine: Machine) -> str:
    """Hash over all that is compared, and NVIDIA's driver where anything runs by it: it decides times, and
    what runs at all.
    """
    by_driver = any(trial.plan and trial.plan.backend.on_accelerator for trial in trials)
    compared = [(trial.name, trial.plan and trial.plan.key) for trial in trials]
    return json_digest([*compared, *([machine.driver] if by_driver else [])])


def _unfinished(key: str) -> str:
    """Key of a choice among candidates of which some may come through another time: never met again."""
    return hashlib.sha256(f"{key} unfinished".encode()).hexdigest()


def _kept(
    bundle: Bundle, level: int, key: str, here: str, trials: Sequence[Trial]
) -> tuple[ChoiceEntry | None, str]:
    """The choice that was made here among just these candidates, if its engines are intact; and why it can be
    kept or cannot.

    One that was compiled elsewhere is tried until it was checked: it costs nothing, and it may be the driver
    that was missing.

    Args:
        here: this machine.
    """
    same = [choice for choice in bundle.manifest.choices if (choice.level, choice.key) == (level, key)]
    found = next((choice for choice in same if choice.machine in ("", here)), None)
    verdicts = {candidate.key: candidate.verdict for candidate in found.candidates} if found else None
    for trial, plan in ((trial, trial.plan) for trial in trials if trial.plan):
        verdict = verdicts.get(plan.key) if verdicts is not None else "passed"
        engine, reason = plan.built(bundle)
        if engine is None and verdict in ("default", "passed"):
            return None, f"{trial.name}: {reason}"
        if engine and not engine.checked and verdict != "refused":
            return None, f"{trial.name}: compiled elsewhere, and never checked"
    if found:
        return found, "same program, runtimes, device and options"
    return (
        None,
        "timed against each other on another machine only" if same else "never timed against each other",
    )


def _build(trial: Trial, bundle: Bundle, folder: Path, force: bool, progress: Progress) -> None:
    """Build a candidate, or take what the bundle holds. What stops it becomes its `error`."""
    plan = trial.plan
    if plan is None:
        progress.message(f"{trial.name}: {trial.error}")
        return
    engine, reason = plan.built(bundle)
    with _stopped(trial, plan, progress):
        if engine and not force:
            _, trial.files, compile_ms = plan.kept(bundle, engine, progress)
            trial.kept = engine
        else:
            trial.files, compile_ms = plan.compile(bundle, folder, "--force" if engine else reason, progress)
        trial.figures |= {"compile_ms": compile_ms}


def _check(trial: Trial, bundle: Bundle, stack: ExitStack, gate: MiouGate, progress: Progress) -> None:
    """Open what was built, and put it to the gates. What stops it becomes its `error`."""
    plan = trial.plan
    if plan is None or trial.error:
        return
    with _stopped(trial, plan, progress):
        session, load_ms = stack.enter_context(plan.open(trial.files))
        trial.figures |= {"load_ms": load_ms, "bytes": sum(file.stat().st_size for file in trial.files)}
        trial.figures |= {"mask_agreement": check_golden(bundle, plan, session)}
        gate.judge(trial, session)
        trial.session = session


@contextmanager
def _stopped(trial: Trial, plan: EngineSpec, progress: Progress) -> Iterator[None]:
    """Keep what stops a candidate as its error; a damaged bundle stops all."""
    try:
        yield
    except IntegrityError:
        raise
    except (BuildError, BundleError, Unsupported) as error:
        if isinstance(error, GateFailed):
            trial.figures |= error.report
        trial.error = error
        progress.message(f"level {plan.level} {plan.name}: {error}")


def _weigh(trials: Sequence[Trial], progress: Progress) -> None:
    """Measure the memory of all that are open. What cannot be measured has no figure."""
    for trial in trials:
        if trial.session and trial.plan:
            progress.message(f"level {trial.plan.level} {trial.name}: measuring memory")
            try:
                peak = peak_memory_bytes(trial.runtime, trial.plan.program, trial.files, trial.plan.options)
            except BuildError as error:
                progress.message(str(error))
                continue
            trial.figures |= {} if peak is None else {"peak_memory_bytes": peak}


def _time(trials: Sequence[Trial], bundle: Bundle, level: int, progress: Progress) -> None:
    """Time all that are open, in turns."""
    image = next(bundle.golden(level, trials[0].precision)).image_rgb
    sessions = {number: trial.session for number, trial in enumerate(trials) if trial.session}
    if not sessions:
        return
    progress.message(
        f"level {level}: timing {', '.join(trials[number].name for number in sessions)} in turns"
    )
    calls = {number: partial(session.infer, image) for number, session in sessions.items()}
    meter = PowerMeter()
    meter.read()
    for number, latency in measure_together(calls, RUNS, WARMUP).items():
        figures = latency.to_json()
        if 0 not in sessions:
            del figures["speedup"]  # over the reference, which was not there
        trials[number].figures |= figures | measure_power(calls[number], meter)
