"""What values of a recipe must be to each other, to the model that it names, and to what this version knows
by name.

Rules look at data as it was read, which may be wrong in any other way: a rule says nothing about values that
are missing or of another type, since the schema does. So every mistake is told in one run, each at its own
line.

`across` follows from the text and from this package alone. `names` is about what another machine may know,
where a package adds a runtime; a recipe that was kept (in a bundle, a checkpoint) is not held to it, nor to
rules that came later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgeseg.recipe.architectures import STRIDE_PX, unknown_in
from edgeseg.recipe.labels import difference, order_in
from edgeseg.recipe.schema import DATA_FORMATS
from edgeseg.recipe.strict_yaml import KeyPath
from edgeseg.recipe.values import Values
from edgeseg.registry import ENGINES_GROUP, Table
from edgeseg.specs import RUNTIMES, IsrPlan

Told = tuple[KeyPath, str]
"""The path of a value, and what is wrong with it."""


def across(data: Any) -> Iterator[Told]:
    """Every rule that a recipe breaks, whatever the machine."""
    values = Values(data)
    for rule in _RULES:
        yield from rule(values)


def names(data: Any) -> Iterator[Told]:
    """Models, data formats and runtimes that nobody here knows."""
    values = Values(data)
    arch = values.get("model", "arch")
    if isinstance(arch, str) and values.entry is None:
        kind, name, near = unknown_in(arch)
        hint = f"did you mean {near}?" if near else "`edgeseg models` lists them"
        yield ("model", "arch"), f"there is no {kind} {name!r}; {hint}"
    form = values.get("data", "format")
    if isinstance(form, str) and form not in DATA_FORMATS:
        known = DATA_FORMATS.names()
        near = _nearest(form, known, f"known: {', '.join(known)}")
        yield ("data", "format"), f"there is no data format {form!r}; {near}"
    runtimes = known_runtimes()
    for index, target in enumerate(values.items("targets")):
        runtime = target.get("runtime") if isinstance(target, Mapping) else None
        if isinstance(runtime, str) and runtime not in runtimes:
            near = _nearest(runtime, runtimes, f"known: {', '.join(runtimes)}")
            yield ("targets", index, "runtime"), f"there is no runtime {runtime!r}; {near}"


def known_runtimes() -> list[str]:
    """Ours, and those that installed packages add."""
    return [*RUNTIMES, *Table(ENGINES_GROUP, "runtime", {}, taken=RUNTIMES).plugins()]


def _nearest(word: str, known: Collection[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise


# --- model, image sizes, ISR
# ----------------------------------------------------------------------------------------------------


def _options(values: Values) -> Iterator[Told]:
    if values.entry is not None:
        for option, problem in values.entry.problems(values.section("model", "options")):
            yield ("model", "options", option), f"{values.get('model', 'arch')}: {problem}"


def _plan(values: Values) -> Iterator[Told]:
    for part, stages in (values.entry.stages if values.entry else {}).items():
        plan = values.get("isr", part)
        if isinstance(plan, list) and len(plan) != len(stages):
            arch = values.get("model", "arch")
            wanted = (
                f"strides {', '.join(str(stride) for stride, _ in stages)}"
                if stages
                else "it has no ISR there: []"
            )
            yield (
                ("isr", part),
                f"{arch}'s {part} takes {len(stages)} multipliers, not {len(plan)} ({wanted})",
            )


def _sides(values: Values) -> Iterator[Told]:
    plan = _fitting_plan(values)
    base = (values.entry.multiple_px() if values.entry else STRIDE_PX, "")
    at_plan = (values.entry.multiple_px(*plan), _at(plan)) if values.entry and plan else base
    # Quantization-aware training runs with the plan in force; float training at the ratios of the model.
    crop = at_plan if values.section("quant", "qat") and at_plan[0] != base[0] else base
    told = "" if crop is base else f"{crop[1]}, at which quant.qat trains"
    yield from _multiples(values, ("augment", "crop_hw"), crop[0], told)
    yield from _multiples(values, ("export", "size_hw"), *at_plan)


def _fitting_plan(values: Values) -> tuple[list[int], list[int]] | None:
    """The recipe's ISR plan, if it is one of this model."""
    stages = values.entry.stages if values.entry else {}
    plan = {part: values.get("isr", part) for part in stages}
    if not stages or any(
        not isinstance(one, list) or len(one) != len(stages[part]) for part, one in plan.items()
    ):
        return None
    if any(
        type(multiplier) is not int or not 1 <= multiplier <= 16384
        for one in plan.values()
        for multiplier in one
    ):
        return None
    return plan["encoder"], plan["decoder"]


def _at(plan: tuple[Sequence[int], Sequence[int]] | None) -> str:
    if plan is None or all(multiplier == 1 for part in plan for multiplier in part):
        return ""
    return f" at the ISR plan {IsrPlan(*map(tuple, plan))}"


def _multiples(values: Values, path: tuple[str, str], multiple: int, told: str) -> Iterator[Told]:
    for index, side in enumerate(values.items(*path)):
        if type(side) is int and side > 0 and side % multiple:
            low = side - side % multiple
            near = f"{low} or {low + multiple}" if low else str(multiple)
            yield (*path, index), f"must be a multiple of {multiple} px, e.g. {near}, not {side}{told}"


# --- data
# ----------------------------------------------------------------------------------------------------


def _classes(values: Values) -> Iterator[Told]:
    path = ("data", "classes")
    class_names, palette = values.items(*path, "names"), values.items(*path, "palette_rgb")
    for index, name in enumerate(class_names):
        if name in class_names[:index]:
            yield (*path, "names", index), f"{name!r} is class {class_names.index(name)} already"
        elif isinstance(name, str) and name and not name.strip():
            yield (*path, "names", index), "a name that nobody can see"
    if class_names and palette and len(palette) != len(class_names):
        yield (*path, "palette_rgb"), f"{len(palette)} colours for {len(class_names)} class names"
    ignore = values.integer(*path, "ignore_index")
    if ignore is not None and class_names and ignore < len(class_names) <= 255:
        yield (
            (*path, "ignore_index"),
            f"must lie beyond the classes, from {len(class_names)} to 255, not {ignore}",
        )


def _format(values: Values) -> Iterator[Told]:
    form, own = values.get("data", "format"), values.own_labels
    if form == "folders":
        missing = [name for name in ("classes", "train", "val") if values.get("data", name) is None]
        missing = [name for name in missing if name in values.section("data")]
        for name in missing:
            yield ("data", name), "format folders has no default: give it"
        return
    given = values.section("data", "classes")
    class_names = values.items("data", "classes", "names")
    if form == "synthetic":
        for name in ("classes", "train", "val"):
            if isinstance(values.get("data", name), Mapping):
                yield ("data", name), "format synthetic draws its own scenes: null"
    elif own is not None and given:
        if class_names and len(class_names) != own.num_classes:
            yield (
                ("data", "classes", "names"),
                f"{len(class_names)} names, and format {form} has {own.num_classes} classes",
            )
        elif all(isinstance(name, str) for name in class_names):
            order = order_in(own.names, class_names)
            if order is not None and list(order) != sorted(order):
                told = difference(class_names, own.names, "this list", f"format {form}")
                yield ("data", "classes", "names"), f"{told}; names rename classes, and do not move them"
        ignore = values.integer("data", "classes", "ignore_index")
        if ignore is not None and ignore != own.ignore_index:
            yield (
                ("data", "classes", "ignore_index"),
                f"format {form} ignores {own.ignore_index}, not {ignore}",
            )
    for key, idle in (("encoding", "index"), ("index_map", {})):
        if isinstance(form, str) and key in values.section("data") and values.get("data", key) != idle:
            yield ("data", key), f"format {form} has its own encoding: only format folders reads this"


def _label_values(values: Values) -> Iterator[Told]:
    if values.get("data", "format") != "folders":
        return
    count, ignore = (
        len(values.items("data", "classes", "names")),
        values.integer("data", "classes", "ignore_index"),
    )
    index_map = values.section("data", "index_map")
    by_colour = values.get("data", "encoding") == "palette"
    if by_colour and index_map:
        yield (
            ("data", "index_map"),
            "coloured label files have no values to map: drop it, or use encoding: index",
        )
        return
    for raw, index in index_map.items():
        if str(raw).lstrip("-").isdigit() and not 0 <= int(raw) <= 65535:
            yield ("data", "index_map", raw), "label values are 0 to 65535"
        elif type(index) is int and count and not (0 <= index < count or index == ignore):
            yield (
                ("data", "index_map", raw),
                f"must be a class, 0 to {count - 1}, or the ignored {ignore}; not {index}",
            )
    palette = values.items("data", "classes", "palette_rgb")
    for index, colour in enumerate(palette):
        if by_colour and colour in palette[:index]:
            message = f"the colour of class {palette.index(colour)}: coloured label files would be ambiguous"
            yield ("data", "classes", "palette_rgb", index), message


def _folders(values: Values) -> Iterator[Told]:
    for split in ("train", "val"):
        for key in ("images", "labels"):
            folder = values.get("data", split, key)
            if isinstance(folder, str) and (folder.startswith(("/", "~")) or ".." in folder.split("/")):
                yield ("data", split, key), f"must be a folder below the data root, not {folder}"


# --- training
# ----------------------------------------------------------------------------------------------------


def _ranges(values: Values) -> Iterator[Told]:
    for name in ("scale_range", "contrast", "saturation"):
        pair = values.items("augment", name)
        if len(pair) == 2 and all(type(one) in (int, float) for one in pair) and pair[0] > pair[1]:
            yield ("augment", name), f"from low to high, not from {pair[0]} to {pair[1]}"


def _schedule(values: Values) -> Iterator[Told]:
    for path in (("train",), ("quant", "qat")):
        steps, warmup = values.integer(*path, "steps"), values.integer(*path, "warmup_steps")
        if steps is not None and warmup is not None and steps >= 1 and warmup >= steps:
            default = "" if "warmup_steps" in values.section(*path) else " (its default)"
            yield (*path, "warmup_steps"), f"{warmup}{default} must be fewer than steps, {steps}"
    batch, accumulate = values.integer("train", "batch_size"), values.integer("train", "accumulate")
    if batch and accumulate and min(batch, accumulate) > 0:
        if batch % accumulate:
            yield ("train", "batch_size"), f"must be a multiple of accumulate, {accumulate}; not {batch}"
        elif batch == accumulate and values.options.get("image_pool") is True:
            told = (
                "pools one vector an image, which BatchNorm cannot train on one image: at least 2 times"
                " accumulate"
            )
            yield ("train", "batch_size"), f"{values.get('model', 'arch')} {told}"


def _rates(values: Values) -> Iterator[Told]:
    lr = values.number("train", "lr")
    if lr is None or not 1e-9 <= lr <= 1:
        return
    decoder = values.number("train", "decoder_lr_factor")
    if decoder and not 1e-9 <= lr * decoder <= 1:
        yield (
            ("train", "decoder_lr_factor"),
            f"gives the decoder a learning rate of {lr * decoder:g}: 1e-09 to 1",
        )
    tuned, steps = values.number("isr", "finetune_lr_factor"), values.integer("isr", "finetune_steps")
    if tuned and steps and not 1e-9 <= lr * tuned <= 1:
        yield ("isr", "finetune_lr_factor"), f"gives a learning rate of {lr * tuned:g}: 1e-09 to 1"


def _weights(values: Values) -> Iterator[Told]:
    weights, classes = values.items("train", "class_weights"), values.num_classes
    if not weights:
        if values.get("train", "class_weights") == []:
            yield ("train", "class_weights"), "no weights: one for each class, or null"
        return
    if classes is not None and len(weights) != classes:
        whose = (
            "data.classes.names" if values.own_labels is None else f"format {values.get('data', 'format')}"
        )
        yield ("train", "class_weights"), f"{len(weights)} weights for {classes} classes ({whose})"
    if all(type(weight) in (int, float) and weight <= 0 for weight in weights):
        yield ("train", "class_weights"), "no weight is above 0: nothing would be learned"


# --- ISR's rule, INT8, targets
# ----------------------------------------------------------------------------------------------------


def _choose(values: Values) -> Iterator[Told]:
    choose = values.get("isr", "choose")
    if isinstance(choose, Mapping):
        given = [name for name in ("max_miou_drop", "latency_ms") if choose.get(name) is not None]
        given += ["knee"] if choose.get("knee") is True else []
        if len(given) != 1 and choose.keys() <= {"max_miou_drop", "latency_ms", "knee"}:
            yield (
                ("isr", "choose"),
                (
                    "give exactly one of max_miou_drop, latency_ms, knee: true; not"
                    f" {' and '.join(given) or 'none'}"
                ),
            )


def _targets(values: Values) -> Iterator[Told]:
    runtimes = [
        target.get("runtime") if isinstance(target, Mapping) else None for target in values.items("targets")
    ]
    for index, runtime in enumerate(runtimes):
        if runtime is not None and runtime in runtimes[:index]:
            yield ("targets", index, "runtime"), f"{runtime} is named twice"


_RULES: Iterable[Callable[[Values], Iterator[Told]]] = (
    *(_options, _plan, _sides),
    *(_classes, _format, _label_values, _folders),
    *(_ranges, _schedule, _rates, _weights),
    *(_choose, _targets),
)
