"""`Family`: what the detectors of one project have in common, and the four steps that take one in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from ssd_edge.importers.state_dicts import SUFFIXES, StateDict, read_state_dict
from ssd_edge.models.ssd import SSDConfig

Source = TypeVar("Source")


@dataclass(frozen=True)
class Facts:
    """What the user says about a model; None where nothing is said.

    Attributes:
        class_names: in label order, with or without the background.
        mean, std: of RGB in 0–255 units.
        bgr: the network was trained on BGR.
        background: where the background column is: `first`, `last` or `none`.
        size_hw: the network's input in pixels.
        default_boxes: a preset's name, or a JSON file of default boxes.
        entry: the entry of a checkpoint that holds the weights, such as `model_ema`.
        score_threshold, nms_iou, candidates, detections: as `ModelCard` has them.
    """

    class_names: tuple[str, ...] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    bgr: bool | None = None
    background: str | None = None
    size_hw: tuple[int, int] | None = None
    default_boxes: str | None = None
    entry: str | None = None
    score_threshold: float | None = None
    nms_iou: float | None = None
    candidates: int | None = None
    detections: int | None = None


class Assumption(NamedTuple):
    """Something that the file does not say: what was taken, and the option that changes it (None: nothing does)."""

    text: str
    option: str | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.option} changes it)" if self.option else self.text


class Normalisation(NamedTuple):
    """Mean and standard deviation of RGB in 0–255 units."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Settings:
    """What a detector is besides its tensors.

    Attributes:
        config: the model's; `mean` and `std` are replaced by what `Family.preprocess` gives.
        num_classes: without the background.
        class_names: where the family's own are known, as many as `num_classes`.
        assumptions: what neither file nor project says for sure.
    """

    config: SSDConfig
    num_classes: int
    class_names: tuple[str, ...] | None = None
    assumptions: tuple[Assumption, ...] = ()


class Files:
    """The files that the user gave. What several families read of them is read once."""

    def __init__(self, paths: Sequence[Path], facts: Facts) -> None:
        self.paths, self.facts = tuple(paths), facts

    @cached_property
    def state_dict(self) -> StateDict:
        """The tensors of a PyTorch or safetensors file.

        Raises:
            ModelFileError: as `read_state_dict`.
        """
        return read_state_dict(self.paths[0], entry=self.facts.entry)


class Family(ABC, Generic[Source]):
    """The detectors of one project; an instance holds nothing.

    Attributes:
        name: as `ssd-edge import --family` takes it.
        about: what belongs to it, for messages.
        labels_file: the name of the file that the project writes class names to, next to its checkpoints.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    labels_file: ClassVar[str | None] = None

    @abstractmethod
    def open(self, files: Files) -> Source | None:
        """What this family reads, None where the files are of another kind.

        Raises:
            ModelFileError: they are of this kind, but not readable.
        """

    @abstractmethod
    def recognise(self, source: Source) -> Sequence[str]:
        """Step 1: the variants of the family that names and shapes fit; none for a detector of another family."""

    @abstractmethod
    def rename(self, name: str, variant: str) -> str:
        """Step 2: the file's name of the tensor that has this name in our model."""

    @abstractmethod
    def configure(self, source: Source, variant: str, facts: Facts) -> Settings:
        """Step 3: the architecture with its default boxes, box coding and suppression, and the number of classes.

        Raises:
            ModelFileError: the file is a detector of this family, but one that ssd-edge cannot run; the message says
                what does not fit.
        """

    @abstractmethod
    def preprocess(self, source: Source, variant: str, facts: Facts) -> tuple[Normalisation, tuple[Assumption, ...]]:
        """Step 4: how the network's images are normalised, where the user has not said."""

    @abstractmethod
    def tensors(self, source: Source) -> dict[str, Tensor]:
        """All tensors under the file's names, in the channel order of RGB and with the background column first."""

    def unused(self, name: str) -> bool:
        """Whether a tensor of the file is one that the detector has no use for: anything else is a reason to refuse."""
        return name.endswith(".num_batches_tracked")


class StateDictFamily(Family[StateDict]):
    """A family whose detectors come as one file of named tensors."""

    def open(self, files: Files) -> StateDict | None:
        if len(files.paths) != 1 or files.paths[0].suffix not in SUFFIXES:
            return None
        return files.state_dict

    def tensors(self, source: StateDict) -> dict[str, Tensor]:
        return source.tensors


def classes_of(cls_outputs: int, offset_outputs: int) -> int | None:
    """Real classes by the outputs of one level's class and box layers; None where the numbers do not fit together.

    The box layer has 4 outputs a default box, the class layer one a class and one for the background.
    """
    boxes, rest = divmod(offset_outputs, 4)
    if rest or not boxes or cls_outputs % boxes or cls_outputs // boxes < 2:
        return None
    return cls_outputs // boxes - 1
