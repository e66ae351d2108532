"""The table of activation ranges: a JSON file that says of which model and which images it is."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ssd_edge.choices import METHODS
from ssd_edge.errors import ModelFileError, UsageError
from ssd_edge.files import atomic_path

TABLE_VERSION = 1
REMEDY = "delete the table and calibrate again"


@dataclass(frozen=True)
class CalibrationSettings:
    """What the ranges depend on besides model and images.

    Attributes:
        percentile: percent of a tensor's values that the method `percentile` keeps, two-sided where it has both signs.
        momentum: weight of the past in `moving_average`, 0 to below 1.
        bins: histogram bins on each side of zero, a power of two from 256 on.
        seed: of the choice of images.

    Raises:
        UsageError: a value out of range.
    """

    percentile: float = 99.99
    momentum: float = 0.9
    bins: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise UsageError(f"percentile {self.percentile}; expected above 50, up to 100")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum {self.momentum}; expected from 0 to below 1")
        if not 256 <= self.bins <= 1 << 16 or self.bins & (self.bins - 1):
            raise UsageError(f"{self.bins} histogram bins; expected a power of two from 256 to {1 << 16}")


@dataclass(frozen=True)
class CalibrationTable:
    """The range of each tensor by each method, with the fingerprints of what it was made from.

    Attributes:
        model_fingerprint: of the fp32 graph, as `graph_fingerprint` gives.
        images_fingerprint: of the chosen images and what is done to them, as `CalibrationImages.fingerprint` gives.
        images: how many images the ranges are of.
        ranges: tensor name -> method -> (low, high), with low <= 0 <= high and low < high.
        settings: what else the ranges depend on.

    Raises:
        ModelFileError: a range that is none, or a method that is missing.
    """

    model_fingerprint: str
    images_fingerprint: str
    images: int
    ranges: dict[str, dict[str, tuple[float, float]]]
    settings: CalibrationSettings = field(default_factory=CalibrationSettings)

    def __post_init__(self) -> None:
        checked = {name: _checked_methods(name, by_method) for name, by_method in self.ranges.items()}
        object.__setattr__(self, "ranges", checked)

    def range_of(self, tensor: str, method: str) -> tuple[float, float]:
        """(low, high) of a tensor, low <= 0 <= high.

        Raises:
            UsageError: no such method.
            ModelFileError: the table does not have the tensor.
        """
        if method not in METHODS:
            raise UsageError(f"calibration method {method!r}; expected one of {', '.join(METHODS)}")
        if tensor not in self.ranges:
            raise ModelFileError(
                f"the calibration table has ranges of {len(self.ranges)} tensors, but none of {tensor!r}; {REMEDY}"
            )
        return self.ranges[tensor][method]

    def check(
        self, model_fingerprint: str, images_fingerprint: str, settings: CalibrationSettings | None = None
    ) -> None:
        """Refuse to be used for another model, other images or, where given, other settings.

        Raises:
            ModelFileError: says which of them differ.
        """
        reasons = []
        if model_fingerprint != self.model_fingerprint:
            reasons.append(
                f"of another model (graph and weights {self.model_fingerprint:.12}, not {model_fingerprint:.12})"
            )
        if images_fingerprint != self.images_fingerprint:
            reasons.append(
                f"from other images or another preprocess ({self.images_fingerprint:.12}, not {images_fingerprint:.12})"
            )
        if settings is not None and settings != self.settings:
            reasons.append("with other settings (" + _differences(self.settings, settings) + ")")
        if reasons:
            raise ModelFileError(f"this calibration table was made {' and '.join(reasons)}; {REMEDY}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 (lower-case hex) of the whole content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The table as JSON text; equal tables give equal text."""
        return json.dumps({"table_version": TABLE_VERSION, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "calibration table") -> CalibrationTable:
        """Read a table; `source` names the file in messages.

        Raises:
            ModelFileError: not JSON, another version, missing or unknown fields, or values that are no ranges.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data.pop("table_version")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelFileError(f"{source}: not a calibration table, or cut off ({error!r:.100}); {REMEDY}") from error
        if version != TABLE_VERSION:
            raise ModelFileError(
                f"{source}: table version {version!r:.20}, this ssd-edge reads version {TABLE_VERSION}; {REMEDY}"
            )
        try:
            return cls(**{**_checked_fields(data), "settings": CalibrationSettings(**data["settings"])})
        except (ModelFileError, UsageError) as error:
            raise ModelFileError(f"{source}: {str(error).removesuffix(f'; {REMEDY}')}; {REMEDY}") from error
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise ModelFileError(f"{source}: not a whole calibration table ({error!r:.100}); {REMEDY}") from error

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Read a table's file.

        Raises:
            ModelFileError: no such file, or not a table.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ModelFileError(f"cannot read calibration table {path}: {error.strerror}; check the path") from error
        return cls.from_json(text, source=str(path))

    def save(self, path: Path) -> None:
        """Write the table's file; an old one stays until the new one is whole.

        Raises:
            SinkError: the file cannot be written.
        """
        with atomic_path(path) as part:
            part.write_text(self.to_json() + "\n", encoding="utf-8")


def _checked_methods(tensor: str, by_method: Any) -> dict[str, tuple[float, float]]:
    """The ranges of one tensor, as pairs of float.

    Raises:
        ModelFileError: a method too few or too many, or a range that is none.
    """
    if not isinstance(by_method, dict) or set(by_method) != set(METHODS):
        found = sorted(by_method) if isinstance(by_method, dict) else by_method
        raise ModelFileError(f"tensor {tensor!r} has ranges by {found!r:.100}, expected {list(METHODS)}; {REMEDY}")
    return {method: _checked_range(tensor, method, by_method[method]) for method in METHODS}


def _checked_range(tensor: str, method: str, pair: Any) -> tuple[float, float]:
    numbers = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(v) in (int, float) for v in pair)
    if not numbers or not all(map(math.isfinite, pair)) or not pair[0] <= 0 <= pair[1] or pair[0] == pair[1]:
        raise ModelFileError(
            f"the {method} range of tensor {tensor!r} is {pair!r:.60}, expected two finite numbers, "
            f"low <= 0 <= high and not equal; {REMEDY}"
        )
    return float(pair[0]), float(pair[1])


def _checked_fields(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a table as read, with the types that they must have.

    Raises:
        ModelFileError: a field too few, too many, or of another type.
    """
    known = {f.name for f in fields(CalibrationTable)}
    if set(data) != known:
        raise ModelFileError(f"fields {sorted(data)!r:.200}, expected {sorted(known)}; {REMEDY}")
    kinds = {"model_fingerprint": str, "images_fingerprint": str, "images": int, "ranges": dict, "settings": dict}
    for name, kind in kinds.items():
        if type(data[name]) is not kind:
            raise ModelFileError(f"{name} is {data[name]!r:.60}, expected {kind.__name__}; {REMEDY}")
    return data


def _differences(ours: CalibrationSettings, wanted: CalibrationSettings) -> str:
    pairs = ((f.name, getattr(ours, f.name), getattr(wanted, f.name)) for f in fields(CalibrationSettings))
    return ", ".join(f"{name} {our}, not {want}" for name, our, want in pairs if our != want)
