"""The library's face: what each command does, as a call.

    model = edgeseg.open("street.edgeseg")          # an engine is built on first use
    result = model("crossing.jpg")                  # result.mask, result.share["Road"], result.overlay()
    run = edgeseg.train("edaformer_t_camvid", data="~/data/camvid", train={"steps": 200})
    plans = run.search_isr(levels=3)
    bundle = run.export("street.edgeseg", levels=plans)

What computes on a device imports no torch; what trains, quantizes and exports asks for it when it is called.
"""

from edgeseg.api.model import EngineRow, EngineTable, Model, open_model
from edgeseg.api.runs import Run, TrainedRun, load_recipe, open_run, train

__all__ = [
    "EngineRow",
    "EngineTable",
    "Model",
    "Run",
    "TrainedRun",
    "load_recipe",
    "open_model",
    "open_run",
    "train",
]
