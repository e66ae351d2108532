"""`TrainConfig`: what to train, on what, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from ssd_edge.choices import DEFAULT_ARCH
from ssd_edge.errors import UsageError
from ssd_edge.models.architecture import find_architecture
from ssd_edge.models.create import COCO, IMAGENET
from ssd_edge.models.default_box_presets import PRESETS as BOX_PRESETS
from ssd_edge.training.recipes import PRESETS, Recipe

CODES = "codes"  # the word that stands for the synthetic scenes where a dataset is asked for
OWN_BOXES, FITTED_BOXES = "own", "fit"
PUBLISHED = (COCO, IMAGENET)  # words that are no file names

_OF_DATASETS = ("split", "val_split", "hflip", "zoom_out")  # that the scenes of `codes` have no use for

# What may differ between a run and its continuation.
_FREE = {
    "output",
    "data",
    "split",
    "val_split",
    "workers",
    "threads",
    "device",
    "compile",
    "tensorboard",
    "eval_every",
    "strict",
    "resume",
}


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how. Where the recipe says something, None leaves it to the recipe.

    Attributes:
        data: a dataset in any format that `read_dataset` knows, or `codes`.
        output: folder for `best.pt`, `last.pt`, `history.jsonl`.
        arch: as `create_model` takes it.
        preset: `small`, `paper` or `torchvision`, see `recipes`; None: `small` for fewer than 5,000 images.
        epochs: passes over the data.
        batch: images a step, of all processes together.
        accumulate: parts in which a batch goes through the network, for lack of memory; the gradient stays the same
            but for batch norm, which sees a part at a time.
        lr: peak learning rate; None: the recipe's, in proportion to the batch.
        weight_decay, ema, clip, warmup, hflip, zoom_out: as in `Recipe`.
        augment: False shows the images as they are: whether a model can learn them by heart, say.
        seed: same seed, same run (bit-equal on the CPU with the same number of threads).
        split, val_split: names such as `train` or `train+val`; None: train, and val or else a tenth held out.
        scenes: with `codes`, scenes an epoch.
        weights: what to start from: None (random), `imagenet` or `coco` (as `create_model` takes them) or the path of
            a checkpoint of the same architecture, of which the classes that both have are kept by name.
        trainable_layers: stages of the backbone that are trained, counted from its end; None: all.
        default_boxes: `own`, the architecture's; `fit`, fitted to the training images; a name of
            `default_box_presets.PRESETS`; or a JSON file that `ssd-edge boxes --json` wrote. None: those of the
            detector to start from, else as the recipe says.
        eval_every: epochs from one evaluation to the next; the last one is always evaluated.
        workers: processes that load data; None: one on up to four cores, else a quarter of the cores.
        threads: PyTorch's threads; None leaves its choice.
        device: `cpu`, `cuda`, `cuda:1`; None: CUDA where there is one.
        amp: mixed precision; None: where it makes training faster.
        compile: `torch.compile` the network. Not by itself: on a CPU it was slower, and starts two minutes late.
        tensorboard: write TensorBoard's files to `output` too.
        strict: a finding of the lint pass is an error.
        resume: go on from `output/last.pt`.

    Raises:
        UsageError: a value out of range.
    """

    data: str
    output: Path
    arch: str = DEFAULT_ARCH
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
    seed: int = 0
    split: str | None = None
    val_split: str | None = None
    scenes: int = 4000
    weights: str | None = None
    trainable_layers: int | None = None
    default_boxes: str | None = None
    eval_every: int = 1
    workers: int | None = None
    threads: int | None = None
    device: str | None = None
    amp: bool | None = None
    compile: bool = False
    tensorboard: bool = False
    strict: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        architecture = find_architecture(self.arch)
        if self.preset not in (None, *PRESETS):
            raise UsageError(f"unknown preset {self.preset!r}; there are {', '.join(PRESETS)}")
        known = (OWN_BOXES, FITTED_BOXES, *BOX_PRESETS)
        if self.default_boxes not in (None, *known) and not str(self.default_boxes).endswith(".json"):
            raise UsageError(
                f"unknown default_boxes {self.default_boxes!r}; there are {', '.join(known)}, or a .json file"
            )
        if self.weights in PUBLISHED and self.weights not in architecture.weights:
            there_are = ", ".join(sorted(architecture.weights)) or "none"
            raise UsageError(f"no weights {self.weights} are published for {self.arch}; there are {there_are}")
        for name in ("epochs", "batch", "scenes", "accumulate", "eval_every"):
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
        if self.data == CODES and (given := [n for n in _OF_DATASETS if getattr(self, n) is not None]):
            raise UsageError(f"{', '.join(given)}: the scenes of {CODES} have no splits and come with their variety")

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the run it continues, besides the data themselves."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def changes(self, recipe: Recipe) -> Recipe:
        """The recipe with what this configuration says otherwise."""
        names = {field.name for field in fields(Recipe)} - {"lr"}
        return replace(recipe, **{name: value for name in names if (value := getattr(self, name, None)) is not None})
