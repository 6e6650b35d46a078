"""A data format: `photos/SPLIT/NAME.jpg` with `marks/SPLIT/NAME.png`, whose values are 10, 20 and 30.

Torch is not needed here: `edgeseg recipe check` and `edgeseg data check` run where it is not installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg.data.formats import NO_MEANING, Folders, Format
from edgeseg.recipe.schema import Data
from edgeseg.specs import LabelSpace

LABELS = LabelSpace(("ground", "path", "machine"), ((110, 90, 60), (160, 160, 160), (240, 170, 0)))


def yard(data: Data, root: Path) -> Format:
    """Return where files lie, and what label values mean.

    Args:
        data: the recipe's `data` section.
        root: data root; a format may look there, to tell two releases of a data set apart.
    """
    table = np.full(257, NO_MEANING, np.int16)
    table[[10, 20, 30, 255]] = 0, 1, 2, LABELS.ignore_index
    train, val = (Folders(f"photos/{split}", f"marks/{split}") for split in ("train", "val"))
    return Format(LABELS, table, train=(train,), val=(val,))
