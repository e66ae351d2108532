"""`Optimisation`: what the user asks for on top of a preset's recipe, and the recipe that results."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf

from ssd_edge.choices import PRESETS
from ssd_edge.errors import UsageError
from ssd_edge.training.initial_model import ModelSettings, has_batch_norms, starts_from_detector
from ssd_edge.training.recipes import Recipe, default_preset, recipe_for


@dataclass(frozen=True)
class Optimisation:
    """How to train. Where the recipe says something, None leaves it to the recipe.

    Attributes:
        preset: `small`, `paper` or `torchvision`, see `recipes`; None: `small` for fewer than 5,000 images.
        epochs: passes over the data.
        batch: images per step, of all processes together.
        accumulate: parts in which a batch goes through the network, for lack of memory; the gradient stays the same
            but for batch norm, which sees a part at a time.
        lr: peak learning rate; None: the recipe's, in proportion to the batch.
        weight_decay, ema, clip, warmup, hflip, zoom_out: as in `Recipe`.
        augment: False shows the images as they are: whether a model can learn them by heart, say.
        trainable_layers: stages of the backbone that are trained, counted from its end; None: all.
        amp: mixed precision; None: where it makes training faster.
        compile: `torch.compile` the network. Not by itself: on a CPU it was slower, and starts two minutes late.

    Raises:
        UsageError: a value out of range.
    """

    preset: str | None = None
    epochs: int | None = None
    batch: int | None = None
    accumulate: int = 1
    lr: float | None = None
    weight_decay: float | None = None
    ema: float | None = None
    clip: float | None = None
    warmup: int | None = None
    hflip: float | None = None
    zoom_out: float | None = None
    augment: bool = True
    trainable_layers: int | None = None
    amp: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.preset not in (None, *PRESETS):
            raise UsageError(f"unknown preset {self.preset!r}; there are {', '.join(PRESETS)}")
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.lr is not None and not self.lr > 0:
            raise UsageError(f"lr is {self.lr}; expected a positive number")
        for name, largest in (("ema", 1.0), ("hflip", 1.0), ("zoom_out", 1.0), ("clip", inf), ("weight_decay", inf)):
            value = getattr(self, name)
            if value is not None and not (0 <= value <= largest and value != inf and (name, value) != ("ema", 1)):
                raise UsageError(
                    f"{name} is {value}; expected a number from 0{f' to {largest:g}' if largest < inf else ''}"
                )
        if self.warmup is not None and self.warmup < 0:
            raise UsageError(f"warmup is {self.warmup}; expected a number of steps")

    def changes(self, recipe: Recipe) -> Recipe:
        """The recipe with what is asked for instead."""
        names = {field.name for field in fields(Recipe)} - {"lr"}
        return replace(recipe, **{name: value for name in names if (value := getattr(self, name, None)) is not None})


def choose_recipe(optimisation: Optimisation, model: ModelSettings, images: int | None) -> Recipe:
    """The recipe for so many images (None: endless `codes` scenes), with what is asked for instead.

    Raises:
        UsageError: as `recipe_for`; or a warm-up for a schedule that has its own.
    """
    recipe = recipe_for(
        optimisation.preset or default_preset(images),
        model.arch,
        batch_norm=has_batch_norms(model),
        fine_tune=starts_from_detector(model),
    )
    if optimisation.warmup is not None and recipe.schedule == "one_cycle":
        raise UsageError("--warmup: the one-cycle schedule of this preset rises over its first tenth; leave it out")
    return optimisation.changes(recipe)
