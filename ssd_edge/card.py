"""`ModelCard`: what a model is. The same JSON travels in checkpoint, ONNX file and beside an engine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ssd_edge.box_coding import BoxCoding
from ssd_edge.errors import ModelFileError
from ssd_edge.option_checks import is_number, is_text, is_whole

CARD_VERSION = 1
CHECKPOINT_FORMAT = "ssd-edge checkpoint"  # `format` of a checkpoint
ONNX_METADATA_KEY = "ssd_edge_card"  # in the ONNX file's metadata_props
CALIBRATION_METADATA_KEY = "ssd_edge_calibration"  # there too, of an int8 file: fingerprint of the table of ranges
SOFTMAX, SIGMOID = SCORE_FUNCTIONS = ("softmax", "sigmoid")
INT8_METADATA_KEY = "ssd_edge_int8"  # there too, of an int8 file: JSON with the target that it was made for, and how


@dataclass(frozen=True)
class ModelCard:
    """What a model is and how its outputs are to be read.

    Attributes:
        arch: architecture name, as `ssd_edge.create_model` takes it.
        height, width: input size in pixels.
        class_names: one name a class, in label order; the background is not among them.
        category_ids: the dataset's category id of each class (COCO's have gaps).
        mean, std: normalisation of RGB in 0–255 units.
        score_threshold: detections need a score above it.
        nms_iou: a box is suppressed when its IoU with a better box of its class is above it.
        candidates: best boxes a class that enter the suppression.
        detections: most detections an image.
        precision: `fp32`, `fp16` or `int8`.
        parent_sha256: SHA-256 of the file this one was made from, or None.
        training_data: fingerprint of the training data, or None.
        metrics: measured figures by name, such as `val_AP`.
        default_boxes: None for the architecture's own; else a JSON object, as
            `ssd_edge.models.default_boxes.DefaultBoxConfig` reads it.
        box_coding: None for the paper's variances and torchvision's limit; else a JSON object, as
            `ssd_edge.box_coding.BoxCoding` reads it.
        score_function: how logits become scores, `softmax` or `sigmoid`; either way the first column, the background,
            is dropped.
        clip_before_nms: boxes are clipped to the image before the suppression, as torchvision does; if not, only what
            is kept is, as in most other SSDs.
        iou_epsilon: what is added to the union of two boxes when their IoU is taken, as a fraction of the image's area.
        network: of an architecture that is described and not registered, its layers, as
            `ssd_edge.models.layer_graph` reads them.

    Raises:
        ModelFileError: a value is of another type, or values do not fit together.
    """

    arch: str
    height: int
    width: int
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    score_threshold: float
    nms_iou: float
    candidates: int
    detections: int
    precision: str = "fp32"
    parent_sha256: str | None = None
    training_data: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    default_boxes: dict[str, Any] | None = None
    box_coding: dict[str, Any] | None = None
    score_function: str = SOFTMAX
    clip_before_nms: bool = True
    iou_epsilon: float = 0.0
    network: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"{name} is {getattr(self, name)!r:.100}, expected {expected}"
            for expected, fits, names in _TYPES
            for name in names
            if not fits(getattr(self, name))
        ]
        if wrong:
            raise ModelFileError("the model card is not valid: " + "; ".join(wrong))
        for name in ("class_names", "category_ids", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = []
        if not self.class_names:
            problems.append("class_names is empty")
        if len(self.class_names) != len(self.category_ids):
            problems.append(f"{len(self.class_names)} class_names but {len(self.category_ids)} category_ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            problems.append("category_ids repeat")
        if not 1 <= self.height <= 8192 or not 1 <= self.width <= 8192:
            problems.append(f"input size {self.height}×{self.width} is not within 1–8192 pixels")
        if min(self.std) <= 0:
            problems.append("std must be positive")
        if not 0 <= self.score_threshold < 1 or not 0 < self.nms_iou <= 1:
            problems.append(f"score_threshold {self.score_threshold} or nms_iou {self.nms_iou} out of range")
        if self.iou_epsilon < 0:
            problems.append(f"iou_epsilon {self.iou_epsilon} is negative")
        if self.candidates < 1 or self.detections < 1:
            problems.append("candidates and detections must be at least 1")
        if self.score_function not in SCORE_FUNCTIONS:
            problems.append(f"score_function {self.score_function!r} is not {' or '.join(SCORE_FUNCTIONS)}")
        if problems:
            raise ModelFileError("the model card is not valid: " + "; ".join(problems))

    def to_json(self) -> str:
        """The card as JSON text, with its version."""
        values = asdict(self)
        for name in _ADDED:  # left out, so that readers from before they came read the card too
            if values[name] == _DEFAULTS[name]:
                del values[name]
        return json.dumps({"card_version": CARD_VERSION, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "model card") -> ModelCard:
        """Read a card; `source` names the file in messages.

        Raises:
            ModelFileError: not JSON, another version, missing or unknown fields, or invalid values.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data.pop("card_version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelFileError(f"{source}: not a model card ({error!r}); export the checkpoint again") from error
        if version != CARD_VERSION:
            raise ModelFileError(
                f"{source}: card version {version}, this ssd-edge reads version {CARD_VERSION}; "
                "export the checkpoint again with this version"
            )
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelFileError(f"{source}: unknown card fields {unknown}; export the checkpoint again")
        try:
            return cls(**data)
        except TypeError as error:
            raise ModelFileError(f"{source}: incomplete card ({error}); export the checkpoint again") from error
        except ModelFileError as error:
            raise ModelFileError(f"{source}: {error}; export the checkpoint again") from error


def _is_finite(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(map(fits, value))


def _is_metrics(value: Any) -> bool:
    """A metric may be NaN: what there was nothing to measure on."""
    return isinstance(value, dict) and all(map(is_number, value.values()))


def _is_default_boxes(value: Any) -> bool:
    """Of the right shape; whether the numbers fit together is for `DefaultBoxConfig.from_dict`."""
    numbers = _is_list_of(_is_finite)
    return (
        isinstance(value, dict)
        and value.keys() - {"shapes", "offset"} == {"aspect_ratios", "scales", "steps", "clip"}
        and _is_list_of(numbers)(value["aspect_ratios"])
        and numbers(value["scales"])
        and (value["steps"] is None or numbers(value["steps"]))
        and isinstance(value["clip"], (bool, str))
        and _is_list_of(_is_list_of(numbers))(value.get("shapes", []))
        and _is_finite(value.get("offset", 0.5))
    )


def _is_box_coding(value: Any) -> bool:
    try:
        BoxCoding.from_dict(value)
    except ModelFileError:
        return False
    return True


# A card comes out of a file, where any value can have any type: (what is expected, its test, the fields).
_TYPES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("text", is_text, ("arch", "precision", "score_function")),
    ("true or false", lambda value: isinstance(value, bool), ("clip_before_nms",)),
    ("text or null", lambda value: value is None or is_text(value), ("parent_sha256", "training_data")),
    ("a whole number", is_whole, ("height", "width", "candidates", "detections")),
    ("a finite number", _is_finite, ("score_threshold", "nms_iou", "iou_epsilon")),
    ("a list of names", _is_list_of(is_text), ("class_names",)),
    ("a list of whole numbers", _is_list_of(is_whole), ("category_ids",)),
    ("three finite numbers", lambda value: _is_list_of(_is_finite)(value) and len(value) == 3, ("mean", "std")),
    ("numbers by name", _is_metrics, ("metrics",)),
    (
        "null or an object with aspect_ratios, scales, steps and clip",
        lambda value: value is None or _is_default_boxes(value),
        ("default_boxes",),
    ),
    ("null or an object with variances and limits", _is_box_coding, ("box_coding",)),
    ("null or an object", lambda value: value is None or isinstance(value, dict), ("network",)),
)
# Fields that came later than version 1 of the card
_ADDED = ("default_boxes", "box_coding", "score_function", "clip_before_nms", "iou_epsilon", "network")
_DEFAULTS = {field.name: field.default for field in fields(ModelCard)}


def int8_target(metadata: Mapping[str, str]) -> str | None:
    """Whose kernels an int8 file was made for, `tensorrt` or `cpu`, by the ONNX file's metadata; None: not told."""
    try:
        target = json.loads(metadata.get(INT8_METADATA_KEY, "{}")).get("target")
    except (ValueError, AttributeError):
        return None
    return target if isinstance(target, str) else None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
