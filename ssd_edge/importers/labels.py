"""Class names of imported models: from a file or a list, with or without the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssd_edge.errors import ModelFileError, UsageError

BACKGROUND_NAMES = ("background", "__background__", "bg", "none of the above")
MOST_BYTES = 1 << 20  # of a file of class names
REPEATABLE = ("N/A", "unused")  # what COCO's gaps are called: names of nothing, which may repeat

# The classes of VOC in the order that all SSD projects give them, and that of labelmap_voc.prototxt.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def parse_classes(text: str) -> tuple[str, ...]:
    """Class names of `--classes`: a file with one name a line, or names with commas between.

    Raises:
        ModelFileError: the file is not there, no text, too large, or has an empty line between names.
        UsageError: no name.
    """
    path = Path(text)
    if path.is_file() or ("," not in text and path.suffix in (".txt", ".names", ".labels")):
        return read_labels(path)
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"--classes {text!r} has an empty name; expected a file, or names such as cat,dog")
    return names


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names of a file, one a line.

    Raises:
        ModelFileError: the file is not there, no text, too large, or has an empty line between names.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelFileError(f"{path} has {path.stat().st_size:,} bytes; expected class names, one a line")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelFileError(f"cannot read class names from {path} ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is no UTF-8 text; expected class names, one a line") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise ModelFileError(f"{path} is empty; expected class names, one a line")
    if "" in lines:
        raise ModelFileError(
            f"{path}: line {lines.index('') + 1} is empty, though names follow; which class would it be? Remove the "
            "line, or give the class a name"
        )
    return tuple(lines)


def without_background(names: Sequence[str], count: int, source: str) -> tuple[str, ...]:
    """The names of `count` classes, of a list that may name the background too.

    Raises:
        UsageError: another number of names, or a name that stands for two classes.
    """
    background = [index for index, name in enumerate(names) if name.strip().lower() in BACKGROUND_NAMES]
    kept = tuple(name for index, name in enumerate(names) if index not in background)
    if len(kept) != count:
        known = f"{len(names)} class names" + (f", {names[background[0]]!r} among them" if background else "")
        raise UsageError(
            f"{source}: {known}; the model has {count} class{'es' if count > 1 else ''} without the background"
        )
    repeated = [name for name, times in Counter(kept).items() if times > 1 and name not in REPEATABLE]
    if repeated:
        raise UsageError(f"{source}: the name {repeated[0]!r} stands for two classes; give each its own")
    return kept


def made_up(count: int) -> tuple[str, ...]:
    """Names for classes of which nothing is known: `class 1` and so on, by the column of the logits."""
    return tuple(f"class {number}" for number in range(1, count + 1))
