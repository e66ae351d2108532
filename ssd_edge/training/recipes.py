"""Recipes: everything about a training that papers and reference scripts publish, under a name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssd_edge.choices import PAPER, PRESETS, SMALL, TORCHVISION
from ssd_edge.data.augment import TrainTransform
from ssd_edge.errors import UsageError
from ssd_edge.models.ssd import SSD

SMALL_DATASET = 5000  # images; below it `small` is the default, from it on `torchvision`
FINE_TUNE_FACTOR = 0.25  # of `small`'s learning rate when starting from trained weights


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        optimizer: `sgd` or `adamw`.
        lr: highest learning rate, at `lr_batch` images a step; it scales linearly with the batch.
        momentum: SGD's, or AdamW's beta 1; `one_cycle` moves it between 0.95 and 0.85.
        weight_decay: of the weights of convolutions; of biases and norms too where `decay_all`.
        schedule: `one_cycle`, `steps` (a tenth at each of `milestones`) or `cosine`.
        milestones: shares of the training.
        warmup: steps of linear rise at most, within the first epoch.
        epochs, batch: passes over the data; images a step (of all processes together).
        ema: decay of the moving average of the weights that is evaluated and saved; 0: none.
        clip: largest norm of the gradient; 0: unlimited.
        hflip, zoom_out: probability of mirroring and of zooming out.
        iou_crop: crop to random patches.
        photometric: probability of each change of colour.
        fit_boxes: fit the default boxes to the data where no trained head is kept.
    """

    optimizer: str
    lr: float
    lr_batch: int
    schedule: str
    epochs: int
    batch: int
    weight_decay: float
    momentum: float = 0.9
    decay_all: bool = False
    milestones: tuple[float, ...] = ()
    warmup: int = 0
    ema: float = 0.0
    clip: float = 0.0
    hflip: float = 0.5
    zoom_out: float = 0.0
    iou_crop: bool = True
    photometric: float = 0.5
    fit_boxes: bool = False


# Section 3 of the paper: SGD at 1e-3, momentum 0.9, weight decay 5e-4, batch 32; on COCO 160k iterations, then 40k at a
# tenth and 40k at a hundredth (section 3.4): 65 passes over train2017, of which 2/3 and 5/6 are the steps; the same
# shares as 40k, 10k and 10k on VOC. Zoom-out is section 3.6. The original solver clips nothing.
_PAPER = Recipe(
    optimizer="sgd",
    lr=1e-3,
    lr_batch=32,
    schedule="steps",
    epochs=65,
    batch=32,
    weight_decay=5e-4,
    milestones=(2 / 3, 5 / 6),
    zoom_out=0.5,
)

# https://github.com/pytorch/vision/tree/main/references/detection: the commands of its README, 8 GPUs together; norms
# and biases decay too, and the first epoch begins with a linear rise.
_TORCHVISION_SSD = Recipe(
    optimizer="sgd",
    lr=2e-3,
    lr_batch=32,
    schedule="steps",
    epochs=120,
    batch=32,
    weight_decay=5e-4,
    decay_all=True,
    milestones=(80 / 120, 110 / 120),
    warmup=1000,
    zoom_out=0.5,
)
_TORCHVISION_SSDLITE = Recipe(
    optimizer="sgd",
    lr=0.15,
    lr_batch=192,
    schedule="cosine",
    epochs=660,
    batch=192,
    weight_decay=4e-5,
    decay_all=True,
    warmup=1000,
    photometric=0.0,
)

# Found on BCCD (292 images): many small steps, a moving average, and default boxes of the objects' own sizes.
_SMALL = Recipe(
    optimizer="adamw",
    lr=2e-3,
    lr_batch=8,
    schedule="one_cycle",
    epochs=60,
    batch=8,
    weight_decay=0.02,
    ema=0.998,
    clip=10.0,
    fit_boxes=True,
)
SMALL_LR_WITHOUT_NORM = 1e-4  # VGG-16 has no batch norm and diverges at the rate of those that have


def recipe_for(preset: str, arch: str, *, batch_norm: bool = True, fine_tune: bool = False) -> Recipe:
    """The recipe of that name for an architecture.

    Args:
        preset: one of `ssd_edge.choices.PRESETS`.
        arch: as `create_model` takes it.
        batch_norm: whether the architecture has batch norm.
        fine_tune: whether training starts from a trained detector; only `small` makes a difference.

    Raises:
        UsageError: no preset of that name, or none for this architecture.
    """
    lite = arch.startswith("ssdlite")
    if preset == TORCHVISION:
        return _TORCHVISION_SSDLITE if lite else _TORCHVISION_SSD
    if preset == PAPER:
        if lite:
            raise UsageError("the SSD paper has no recipe for SSDlite; use --preset torchvision or small")
        return _PAPER
    if preset != SMALL:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    lr = _SMALL.lr if batch_norm else SMALL_LR_WITHOUT_NORM
    return replace(_SMALL, lr=lr * FINE_TUNE_FACTOR if fine_tune else lr)


def default_preset(images: int | None) -> str:
    """`small` for fewer than 5,000 images and for the endless `codes` scenes (None), else `torchvision`."""
    return SMALL if images is None or images < SMALL_DATASET else TORCHVISION


def transform_of(recipe: Recipe, model: SSD) -> TrainTransform:
    """The recipe's augmentation at the model's size."""
    return TrainTransform(
        model.config.size_hw,
        model.config.mean,
        zoom_out=recipe.zoom_out,
        iou_crop=recipe.iou_crop,
        photometric=recipe.photometric,
        hflip=recipe.hflip,
    )
