"""What the loop trains: the door between `loop.py` and float training or QAT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from edgeseg.recipe.schema import Train
from edgeseg.specs import ImageSpec, LabelSpace
from edgeseg.training.distributed import Processes
from edgeseg.training.losses import CrossEntropy
from edgeseg.training.state import Counters


class Task(Protocol):
    """What is trained.

    Attributes:
        model: on the training device; its state_dict is the run's state, and what is validated.
        image: what the model takes, in training and validation.
        schedule: length, batch, learning rate and the like.
        digest: of all that the run depends on; a state of another digest is refused.
        validate_first: the model is worth keeping before the first step; where no step is better, it is the
            best.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def image(self) -> ImageSpec: ...

    @property
    def schedule(self) -> Train: ...

    @property
    def digest(self) -> str: ...

    @property
    def validate_first(self) -> bool: ...

    def parameter_groups(self) -> list[dict[str, object]]:
        """Groups for AdamW, as `optim.parameter_groups` makes them."""
        ...

    def losses(
        self, network: nn.Module, images: Tensor, labels: Tensor, cross_entropy: CrossEntropy
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of one micro-batch: the pixel losses, summed; further losses by name, each a mean over images. All
        are weighted.

        Args:
            network: the model, or what wraps it for several processes.
            images: (B, 3, H, W), normalised.
            labels: (B, H, W) class indices.
        """
        ...

    def set_mode(self) -> None:
        """Called before each step: the mode to train in."""
        ...

    def stepped(self) -> None:
        """Called after each step of the optimiser."""
        ...

    def save_best(self, path: Path, counters: Counters) -> None:
        """Write the model as it is now, the best so far."""
        ...


MakeTask = Callable[[LabelSpace, Processes], Task]
