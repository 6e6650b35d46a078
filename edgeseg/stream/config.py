"""What a run is, as one file: `edgeseg run --config streams.yaml`. Strict and frozen, read as recipes are.

Unknown keys are errors, and all mistakes are told at once with file and line. `${NAME}` in a text is the
variable of that name in the environment, so that passwords need not stand in the file. Paths are relative to
where the run is started.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from edgeseg.errors import RecipeError, StreamError
from edgeseg.recipe.explain import explain
from edgeseg.recipe.load import is_unread, locate, read_text, refusal
from edgeseg.recipe.schema import Section
from edgeseg.recipe.strict_yaml import KeyPath, Mistake, read_yaml
from edgeseg.specs import Precision
from edgeseg.stream.run import supervisor
from edgeseg.stream.run.mailbox import Drop, Policy, by_kind
from edgeseg.stream.uris import Connection
from edgeseg.stream.watch import regions

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HINT = "correct these lines; `edgeseg run --help` says what each setting does"


class ThresholdSection(Section):
    """When the share of some classes in a region is an alarm."""

    name: str = Field(description="what is the matter, e.g. road blocked")
    classes: tuple[str, ...] = Field(min_length=1, description="classes whose shares are added up")
    others: bool = Field(
        default=False, description="the share of all that is not of these classes counts instead"
    )
    above: Share | None = Field(default=None, description="raised over this share")
    below: Share | None = Field(default=None, description="raised under this share")
    clear: Share | None = Field(
        default=None, description="cleared here; null: a tenth back from where it is raised"
    )
    for_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="seconds without a break"
    )

    @model_validator(mode="after")
    def _one_side(self) -> ThresholdSection:
        if (self.above is None) == (self.below is None):
            raise ValueError("needs above or below, one of them")
        _as_stated(lambda: self.build("region"))
        return self

    def build(self, region: str) -> regions.Threshold:
        """As the runner takes it."""
        above = self.above is not None
        limit = self.above if self.above is not None else self.below
        raise_at = limit if limit is not None else 0.0
        clear_at = self.clear if self.clear is not None else regions.default_clear(raise_at, above=above)
        return regions.Threshold(
            self.name, region, self.classes, above, raise_at, clear_at, self.for_s, self.others
        )


class RegionSection(Section):
    """A polygon in the picture, and what is too much in it."""

    name: str = Field(description="how results call it")
    polygon: tuple[tuple[float | str, float | str], ...] = Field(
        min_length=3,
        description=(
            "corners [x, y]: shares of width and height, 0.5 or 50%, or pixels, 640px or whole numbers"
        ),
    )
    size: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$",
        description="picture that pixels are of, e.g. 1920x1080; null: the source's first",
    )
    thresholds: tuple[ThresholdSection, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> RegionSection:
        _as_stated(self.build)
        return self

    def build(self) -> regions.Region:
        """As the runner takes it."""
        width, _, height = (self.size or "").partition("x")
        return regions.read_region(self.name, self.polygon, (int(height), int(width)) if self.size else None)


class Source(Section):
    """A camera, a clip or a folder."""

    uri: str = Field(min_length=1, description="where the frames come from; what follows a # are options")
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="how results call it; null: its URI",
    )
    drop: Drop | None = Field(
        default=None, description="what goes when frames come too fast; null: by kind of source"
    )
    queue: Count | None = Field(default=None, description="frames that wait at most; null: by kind of source")
    max_age_ms: Positive | None = Field(default=None, description="older frames are dropped")
    transport: Literal["tcp", "udp"] | None = Field(
        default=None, description="of rtsp://, where the URI does not say it; null: tcp"
    )
    timeout_s: Positive | None = Field(
        default=None, description="silence that a network stream may keep, where the URI does not say it"
    )
    regions: tuple[RegionSection, ...] = ()

    def connection(self) -> Connection:
        """How it is reached."""
        return Connection(self.transport, self.timeout_s)

    def mailbox(self, is_live: bool) -> Policy:
        """What its mailbox does."""
        kind = by_kind(is_live)
        return Policy(self.drop or kind.drop, self.queue or kind.queue, self.max_age_ms)


class PatienceSection(Section):
    """How long a live source may be silent, and how soon it is tried again. In seconds."""

    connect_s: Positive = 10.0
    stall_s: Positive = 1.0
    watchdog_s: Positive = 5.0
    retry_s: Positive = 0.5
    retry_cap_s: Positive = 30.0
    start_s: Positive | None = Field(default=30.0, description="null: waits for the first frame for ever")

    def build(self) -> supervisor.Patience:
        """As the runner takes it."""
        return supervisor.Patience(**self.model_dump())


class Web(Section):
    """The live page."""

    listen: str = Field(description="address, e.g. 127.0.0.1:8080")
    token: str | None = Field(default=None, description="what visitors must know; needed beyond this machine")


class Streams(Section):
    """One run."""

    bundle: str = Field(description="folder of the bundle")
    sources: tuple[Source, ...] = Field(min_length=1)
    sinks: tuple[str, ...] = Field(
        default=(), description="where results go; {source} stands for each source's name"
    )
    level: Annotated[int, Field(ge=0)] = 0
    precision: Precision | None = Field(
        default=None, description="of the engine; null: whatever a build found fastest"
    )
    threads: Count | None = None
    deadline_ms: Positive | None = Field(
        default=None, description="choose levels so that a frame's latency stays within"
    )
    target_fps: Positive | None = Field(
        default=None, description="choose levels so that the engine keeps up with this rate"
    )
    opacity: Share = 0.5
    limit: Count | None = Field(default=None, description="stop after so many frames")
    report: str | None = Field(default=None, description="file for the end report")
    patience: PatienceSection = Field(default_factory=PatienceSection)
    web: Web | None = None
    log: Literal["text", "json"] = Field(default="text", description="what stderr gets")

    @model_validator(mode="after")
    def _together(self) -> Streams:
        if self.deadline_ms and self.target_fps:
            raise ValueError("deadline_ms and target_fps are two targets; give one of them")
        names = [source.name for source in self.sources if source.name]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]}")
        return self


def load_streams(path: Path, environment: Mapping[str, str] = os.environ) -> Streams:
    """Read and check a configuration.

    Raises:
        RecipeError: the file cannot be read, or is wrong; the message names every mistake with its line, and
            no secret.
    """
    where = os.fspath(path)
    reading = read_yaml(read_text(path, "configuration"), where)
    told = list(reading.mistakes)
    if () not in reading.unread and not isinstance(reading.data, dict):
        told.append(
            Mistake(
                where,
                1,
                "",
                "empty" if reading.data is None else "a configuration is made of `key: value` lines",
            )
        )
        reading.unread.add(())
    streams: Streams | None = None
    if () not in reading.unread:
        # Checked as it is written: a message that quotes a value must not quote a password.
        found = _explained(reading.data) + list(_missing_variables(reading.data, environment, ()))
        told += [
            locate(key, message, where, reading, {}) for key, message in found if not is_unread(key, reading)
        ]
        if not told:
            reading.data = _filled_in(reading.data, environment)
            try:
                streams = Streams.model_validate_json(json.dumps(reading.data), strict=True)
            except ValidationError:
                told.append(
                    Mistake(
                        where,
                        1,
                        "",
                        "a variable of the environment holds a value that does not fit where it stands",
                    )
                )
    if streams is None or told:
        raise refusal(told, where, _HINT)
    return streams


def read_streams(data: Mapping[str, Any]) -> Streams:
    """Check settings that a caller made, in the form of a configuration.

    Raises:
        RecipeError: they are wrong; the message names every mistake with its key.
    """
    try:
        return Streams.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        found = explain(error, dict(data), Streams)
        mistakes = "\n".join(f"{'.'.join(map(str, key))}: {message}" for key, message in found)
        raise RecipeError(mistakes, hint="`edgeseg run --help` says what each setting does") from None


def _explained(data: dict[str, Any]) -> list[tuple[KeyPath, str]]:
    try:
        Streams.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        return explain(error, data, Streams)
    return []


def _missing_variables(
    value: Any, environment: Mapping[str, str], path: KeyPath
) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        for name in _VARIABLE.findall(value):
            if name not in environment:
                yield path, f"the environment has no variable {name}"
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _missing_variables(item, environment, (*path, key))


def _filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: environment[match[1]], value)
    if isinstance(value, dict):
        return {key: _filled_in(item, environment) for key, item in value.items()}
    return [_filled_in(item, environment) for item in value] if isinstance(value, list) else value


def _as_stated(build: Any) -> None:
    """Let the runner's own classes check a section; pydantic takes a ValueError for its own."""
    try:
        build()
    except StreamError as error:
        raise ValueError(str(error)) from error
