"""The model that a training starts with: weights, default boxes, and what of another model fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ssd_edge.card import SOFTMAX, ModelCard
from ssd_edge.checkpoint import Checkpoint, load_checkpoint
from ssd_edge.choices import DEFAULT_ARCH
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import DatasetError, ModelFileError, UsageError
from ssd_edge.models.architecture import ARCHITECTURES, PublishedWeights, find_architecture
from ssd_edge.models.batch_norms import batch_norms
from ssd_edge.models.create import COCO, IMAGENET, create_from_card, create_model
from ssd_edge.models.default_box_presets import PRESETS
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.layer_graph import DESCRIBED
from ssd_edge.models.ssd import SSD
from ssd_edge.models.weights import fetch_weights, load_fitting
from ssd_edge.training.boxes import BoxComparison, coverage_of, fit_to
from ssd_edge.training.distributed import Group, say
from ssd_edge.training.recipes import Recipe, transform_of

OWN_BOXES, FITTED_BOXES = "own", "fit"
PUBLISHED = (COCO, IMAGENET)  # words that are no file names


@dataclass(frozen=True)
class ModelSettings:
    """The model to train, and what it starts from.

    Attributes:
        arch: as `create_model` takes it.
        weights: what to start from: None (random), `imagenet` or `coco` (as `create_model` takes them) or the path of
            a checkpoint of the same architecture, of which the classes that both have are kept by name.
        default_boxes: `own`, the architecture's; `fit`, fitted to the training images; a name of
            `default_box_presets.PRESETS`; or a JSON file that `ssd-edge boxes --json` wrote. None: those of the
            detector to start from, else as the recipe says.

    Raises:
        UsageError: an unknown architecture, weights that are not published for it, unknown default boxes.
    """

    arch: str = DEFAULT_ARCH
    weights: str | None = None
    default_boxes: str | None = None

    def __post_init__(self) -> None:
        architecture = None if self.arch == DESCRIBED else find_architecture(self.arch)
        known = (OWN_BOXES, FITTED_BOXES, *PRESETS)
        if self.default_boxes not in (None, *known) and not str(self.default_boxes).endswith(".json"):
            raise UsageError(
                f"unknown default_boxes {self.default_boxes!r}; there are {', '.join(known)}, or a .json file"
            )
        published = architecture.weights if architecture else {}
        if self.weights in PUBLISHED and self.weights not in published:
            there_are = ", ".join(sorted(published)) or "none"
            raise UsageError(f"no weights {self.weights} are published for {self.arch}; there are {there_are}")
        if architecture is None and self.weights is None:
            raise UsageError(f"--arch {self.arch} is what a checkpoint describes: give that with --weights")


def start_model(
    settings: ModelSettings,
    recipe: Recipe,
    group: Group,
    train_set: DetectionDataset | None,
    val_set: DetectionDataset,
    *,
    augment: bool,
    seed: int,
) -> SSD:
    """The model to train; says how well its default boxes cover the data.

    Args:
        train_set: None stands for the endless scenes of `codes`.
        augment: whether default boxes are fitted to the images as the recipe's augmentation shows them too.
        seed: of random weights.

    Raises:
        DatasetError: no box to train on.
        ModelFileError: the weights to start from are not there, or of another architecture.
    """
    classes = val_set.class_names
    detector = _trained_detector(settings, classes)
    boxes = _named_boxes(settings, detector)
    model = _make(settings, detector, len(classes), boxes)
    # The scenes of `codes` are endless; those to evaluate on stand for them.
    dataset = train_set or val_set
    if all(record.crowd.all() for record in dataset.records):
        raise DatasetError(f"{dataset.name}: all boxes are crowds or difficult ones; there is nothing to learn")
    if _is_fitted(settings, recipe):
        augmented = train_set is not None and augment
        comparison = fit_to(dataset, transform_of(recipe, model) if augmented else None, model)
        boxes = group.broadcast(comparison.config)  # another processor may round to another fit
    else:
        comparison = BoxComparison(coverage_of(dataset, model.config.default_boxes, model))
    say(comparison.table())
    torch.manual_seed(seed)  # the same weights, whatever has been drawn so far
    if detector:
        model = _make(settings, detector, len(classes), boxes)
        load_detector(model, detector, classes)
        if model.config.default_boxes != (
            detector.default_boxes or find_architecture(settings.arch).config.default_boxes
        ):
            say("warning: the head of the weights was trained on other default boxes, and has to learn these")
        return model
    return create_model(settings.arch, len(classes), default_boxes=boxes, weights=settings.weights)


def _make(
    settings: ModelSettings, detector: TrainedDetector | None, num_classes: int, boxes: DefaultBoxConfig | None
) -> SSD:
    """A model with random weights: what the card of the detector to start from says, or the architecture's own."""
    if detector is None or detector.card is None:
        return create_model(settings.arch, num_classes, default_boxes=boxes)
    card = replace(detector.card, score_function=SOFTMAX)  # which the loss is for
    return create_from_card(card, num_classes=num_classes, default_boxes=boxes)


def resumed_model(earlier: Checkpoint) -> SSD:
    """The model of a run to go on with, whose weights are still to be loaded."""
    return create_from_card(earlier.card)


def arch_of_weights(weights: str | None) -> str | None:
    """The architecture of the checkpoint to start from; None where that is none."""
    if weights is None or weights in PUBLISHED or not Path(weights).is_file():
        return None
    return load_checkpoint(Path(weights), class_names=()).card.arch


def has_batch_norms(settings: ModelSettings) -> bool:
    """Whether the model to train has some."""
    if settings.arch == DESCRIBED:
        model = create_from_card(load_checkpoint(Path(str(settings.weights)), class_names=()).card)
    else:
        model = create_model(settings.arch, 1)
    return bool(batch_norms(model))


def starts_from_detector(settings: ModelSettings) -> bool:
    """Whether training starts from a trained detector, of which the head is kept too."""
    published = _published(settings)
    return settings.weights is not None and (published is None or published.rename is None)


def _published(settings: ModelSettings) -> PublishedWeights | None:
    return None if settings.arch == DESCRIBED else ARCHITECTURES[settings.arch].weights.get(settings.weights or "")


@dataclass(frozen=True)
class TrainedDetector:
    """What another training has left: weights, class names in label order, default boxes (None: the architecture's).

    Attributes:
        card: what it is; None of published weights, which the architecture's own settings are for.
    """

    state_dict: dict[str, Tensor]
    class_names: tuple[str, ...]
    default_boxes: DefaultBoxConfig | None = None
    card: ModelCard | None = None


def load_detector(model: SSD, detector: TrainedDetector, classes: Sequence[str]) -> None:
    """Load what fits of another detector; of the class heads the columns of those classes that both have.

    What starts anew is said.
    """
    own = model.state_dict()
    old_names = ("", *detector.class_names)  # the background comes first
    new_names = ("", *classes)
    columns = [(new_names.index(name), old) for old, name in enumerate(old_names) if name in new_names]
    state = dict(detector.state_dict)
    if old_names != new_names:
        names = _class_layers(model, len(classes))
        for name in names:
            old = state.get(name)
            if old is not None and old.shape[1:] == own[name].shape[1:]:
                state[name] = _with_columns(own[name], old, columns, len(new_names), len(old_names))
        kept = [name for name in classes if name in old_names]
        say(
            f"other classes than those of the weights: {', '.join(kept) or 'none'} kept, "
            f"{', '.join(name for name in classes if name not in kept) or 'none'} start anew"
        )
    load_fitting(model, state)


def _class_layers(model: SSD, classes: int) -> list[str]:
    """Names of the tensors whose size depends on the number of classes."""
    own = model.state_dict()
    card = model.make_card(tuple(map(str, range(classes))), tuple(range(classes)))
    other = create_from_card(card, num_classes=classes + 1).state_dict()
    return [name for name, value in other.items() if value.shape != own[name].shape]


def _with_columns(own: Tensor, old: Tensor, columns: list[tuple[int, int]], new_count: int, old_count: int) -> Tensor:
    """A class layer's tensor with the columns of another's; both are [boxes a cell × class columns, …].

    Where the boxes a cell differ, nothing fits and the result is `own`.
    """
    mine = own.clone().unflatten(0, (-1, new_count))
    theirs = old.to(own.dtype).unflatten(0, (-1, old_count))
    if len(mine) == len(theirs):
        for new_column, old_column in columns:
            mine[:, new_column] = theirs[:, old_column]
    return mine.flatten(0, 1)


def _trained_detector(settings: ModelSettings, classes: tuple[str, ...]) -> TrainedDetector | None:
    """The detector to start from, published or from a checkpoint; None: random weights, or a backbone's.

    Raises:
        ModelFileError: as `load_checkpoint` and `fetch_weights`, or it is of another architecture.
    """
    if not starts_from_detector(settings):
        return None
    if published := _published(settings):
        return TrainedDetector(fetch_weights(published), published.class_names or ())
    start = load_checkpoint(Path(str(settings.weights)), class_names=classes)
    if start.card.arch != settings.arch:
        raise ModelFileError(
            f"{settings.weights} is of another architecture, {start.card.arch}; expected {settings.arch}: "
            "give its name with --arch, or start from other weights"
        )
    boxes = DefaultBoxConfig.from_dict(start.card.default_boxes) if start.card.default_boxes else None
    return TrainedDetector(start.state_dict, start.card.class_names, boxes, start.card)


def _named_boxes(settings: ModelSettings, detector: TrainedDetector | None) -> DefaultBoxConfig | None:
    """Default boxes from a preset or a file, else those of the detector to start from; None: the architecture's own.

    Raises:
        ModelFileError: the file is not there, or holds no default boxes.
    """
    wanted = settings.default_boxes
    if wanted in PRESETS:
        return PRESETS[wanted]
    if wanted in (None, FITTED_BOXES):
        return detector.default_boxes if detector else None
    if wanted == OWN_BOXES and detector and settings.arch == DESCRIBED:
        return detector.default_boxes
    if wanted == OWN_BOXES:
        return find_architecture(settings.arch).config.default_boxes if detector else None
    try:
        values = json.loads(Path(str(wanted)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read default boxes from {wanted} ({error}); expected JSON") from error
    if isinstance(values, dict) and "default_boxes" in values:  # what `ssd-edge boxes --json` writes
        values = values["default_boxes"]
    return DefaultBoxConfig.from_dict(values, source=str(wanted))


def _is_fitted(settings: ModelSettings, recipe: Recipe) -> bool:
    """Whether default boxes are fitted: where asked for, else where the recipe does and no trained head is kept."""
    if settings.default_boxes is not None:
        return settings.default_boxes == FITTED_BOXES
    return recipe.fit_boxes and not starts_from_detector(settings)
