"""The options of `edgeseg run` as the settings that a configuration file would hold, so that there is one way
from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgeseg.errors import StreamError

if TYPE_CHECKING:
    from edgeseg.stream import config
    from edgeseg.stream.watch import regions

_Named = TypeVar("_Named", "regions.Region", "regions.Threshold")

BESIDE_A_FILE = frozenset(
    {"config_path", "limit", "report_path", "sheet_path", "web_token", "log_json", "as_json"}
)
"""Options that may stand beside --config; what runs is what the file says."""


def read_settings(context: click.Context) -> config.Streams:
    """What a command line asks for.

    Raises:
        UsageError: options that exclude each other, or no source or bundle.
        RecipeError: the configuration is wrong.
        StreamError: a malformed region or threshold.
    """
    from edgeseg.stream.config import load_streams

    given = context.params
    if given["config_path"] is None:
        return _from_options(given)
    stated = [name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    also = [
        param for param in context.command.params if param.name in stated and param.name not in BESIDE_A_FILE
    ]
    if also:
        names = ", ".join(param.opts[-1] if isinstance(param, click.Option) else "BUNDLE" for param in also)
        raise click.UsageError(f"--config says what runs; write {names} into {given['config_path']}")
    settings = load_streams(Path(given["config_path"]))
    web = settings.web
    changes: dict[str, Any] = {}
    if web and given["web_token"]:
        changes["web"] = web.model_copy(update={"token": given["web_token"]})
    if given["limit"]:
        changes["limit"] = given["limit"]
    if given["report_path"]:
        changes["report"] = str(given["report_path"])
    if given["log_json"]:
        changes["log"] = "json"
    return settings.model_copy(update=changes)


def _from_options(given: Mapping[str, Any]) -> config.Streams:
    from edgeseg.stream import config
    from edgeseg.stream.uris import named, redact

    if given["bundle"] is None:
        raise click.UsageError("Missing argument 'BUNDLE' (or --config FILE).")
    if not given["sources"]:
        raise click.UsageError("Missing option '--source' (or --config FILE).")
    if given["deadline_ms"] and given["target_fps"]:
        raise click.UsageError("--deadline-ms and --target-fps are two targets; give one of them")
    pairs = [named(text) for text in given["sources"]]
    areas = _regions(given["regions"], given["thresholds"], [name for name, _ in pairs])
    sources = []
    for name, uri in pairs:
        source = config.Source(
            uri=uri,
            name=name if name != redact(uri) else None,
            transport=None if given["tcp"] is None else "tcp" if given["tcp"] else "udp",
            timeout_s=given["read_timeout_s"],
            drop=given["drop"],
            queue=given["queue"],
            max_age_ms=given["max_age_ms"],
            regions=areas[name],
        )
        sources.append(source)
    names = [source.name for source in sources if source.name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise click.UsageError(f"two sources are called {twice}")
    times = {"connect_s": given["open_timeout_s"], "watchdog_s": given["read_timeout_s"]}
    return config.Streams(
        bundle=str(given["bundle"]),
        sources=tuple(sources),
        sinks=given["sinks"],
        level=given["level"],
        precision=given["precision"],
        threads=given["threads"],
        deadline_ms=given["deadline_ms"],
        target_fps=given["target_fps"],
        opacity=given["opacity"],
        limit=given["limit"],
        report=str(given["report_path"]) if given["report_path"] else None,
        patience=config.PatienceSection(**{key: value for key, value in times.items() if value}),
        web=config.Web(listen=given["web"], token=given["web_token"]) if given["web"] else None,
        log="json" if given["log_json"] else "text",
    )


def _regions(
    region_texts: Sequence[str], threshold_texts: Sequence[str], sources: Sequence[str]
) -> dict[str, tuple[config.RegionSection, ...]]:
    """What is watched, by source. What is for one source takes the place of what is for all under the same
    name.

    Raises:
        StreamError: a malformed region or threshold, two of one name, or one of a source or a region that is
            not there.
    """
    from edgeseg.stream.watch.regions import THRESHOLD_HINT, parse_region, parse_threshold

    areas = _by_source("region", region_texts, parse_region, sources)
    thresholds = _by_source("threshold", threshold_texts, parse_threshold, sources)
    for source, group in thresholds.items():
        named = {name for scope in ([source, ""] if source else areas) for name in areas.get(scope, {})}
        for one in group.values():
            if one.region not in named:
                whose = f" of source {source}" if source else ""
                raise StreamError(
                    f"threshold {one.name}: there is no --region {one.region}{whose}", hint=THRESHOLD_HINT
                )
    found = {}
    for source in sources:
        wanted = {**thresholds.get("", {}), **thresholds.get(source, {})}.values()
        found[source] = tuple(
            _region(area, [one for one in wanted if one.region == area.name])
            for area in {**areas.get("", {}), **areas.get(source, {})}.values()
        )
    return found


def _by_source(
    kind: str, texts: Sequence[str], parse: Callable[[str], _Named], sources: Sequence[str]
) -> dict[str, dict[str, _Named]]:
    """Regions or thresholds by source ("" for all) and name."""
    from edgeseg.stream.watch.regions import of_source

    found: dict[str, dict[str, _Named]] = {}
    for text in texts:
        source, rest = of_source(text)
        one = parse(rest)
        if source and source not in sources:
            raise StreamError(
                f"{kind} {one.name}: there is no source {source}",
                hint=f"sources are: {', '.join(sources)}; name them as in --source gate=URI",
            )
        if one.name in found.setdefault(source, {}):
            raise StreamError(f"two {kind}s are called {one.name}", hint="give each a name of its own")
        found[source][one.name] = one
    return found


def _region(area: regions.Region, thresholds: Sequence[regions.Threshold]) -> config.RegionSection:
    from edgeseg.stream import config

    return config.RegionSection(
        name=area.name, polygon=area.corners, thresholds=tuple(_threshold(one) for one in thresholds)
    )


def _threshold(one: regions.Threshold) -> config.ThresholdSection:
    from edgeseg.stream import config

    side = {"above" if one.above else "below": one.raise_at}
    return config.ThresholdSection(
        name=one.name, classes=one.classes, others=one.others, clear=one.clear_at, for_s=one.for_s, **side
    )
