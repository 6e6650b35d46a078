"""Programs that a runtime could use and a bundle does not hold, because nobody named the runtime when it was
exported.
"""

from __future__ import annotations

from typing import get_args

from edgeseg.bundle import Bundle
from edgeseg.contracts import EngineBackend
from edgeseg.specs import (
    DIALECTS,
    Form,
    Precision,
    canonical_form,
)


def lacking(bundle: Bundle, level: int, backend: EngineBackend) -> str:
    """One line for people: the programs that a runtime wants here and has to do without, and how they come
    into the bundle.

    Empty where nothing is missing. Whether a bundle has INT8 programs, the recipe's section `quant` says;
    only their form can be missing here.
    """
    programs = bundle.level(level).programs
    missing: dict[Precision, str] = {}
    for precision in get_args(Precision):
        form, entry = backend.form_for(precision), programs.get(precision)
        if form is None:
            continue
        if entry is not None and form not in (
            entry.spec.get("form", canonical_form(precision)),
            *entry.forms,
        ):
            missing[precision] = f"{precision} laid out for {form}"
        elif entry is None and precision == "fp16":
            missing[precision] = "fp16"
    if not missing:
        return ""
    told = f"{bundle.name} was exported without what {backend.name} wants: {', '.join(missing.values())}"
    if set(missing) == {"int8"} and backend.form_for("int8") in DIALECTS:
        return (
            f"{told}; edgeseg export RECIPE writes it now, whatever the targets; until then the"
            f" {Form.QDQ} form runs"
        )
    if any(backend.exports.get(precision) == backend.form_for(precision) for precision in missing):
        return f"{told}; write - runtime: {backend.name} under targets in the recipe, and export again"
    return f"{told}; export again with --precision fp16"
