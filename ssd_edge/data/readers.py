"""Reading a dataset, whatever its format: COCO JSON, Pascal VOC or YOLO, recognised from the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ssd_edge.data.dataset import DetectionDataset, merge_datasets
from ssd_edge.data.formats import coco, voc, yolo
from ssd_edge.errors import DatasetError


class _Reader(Protocol):
    """What each format's module has."""

    LOOKED_FOR: str

    def recognises(self, path: Path) -> bool: ...

    def list_splits(self, path: Path) -> list[str]: ...

    def read(self, path: Path, splits: Sequence[str]) -> list[DetectionDataset]: ...


# A folder can hold several formats: COCO comes first, for it keeps the category ids. To read another one,
# give its own file (YOLO's YAML).
_READERS: tuple[_Reader, ...] = (coco, voc, yolo)


def read_dataset(path: Path, split: str | None = None) -> DetectionDataset:
    """Read a dataset as it is annotated; `lint` then names and leaves out what is unusable.

    Args:
        path: a COCO JSON file, a YOLO YAML file, or a folder in one of the three formats.
        split: such as `train`, or several as `train+val`; `train` also means `train2017`, and `val` `valid`.
            None: all there is. An image that is in several splits is taken once.

    Raises:
        DatasetError: nothing there, an unknown format or split, a file that cannot be parsed, or no images.
    """
    reader = _reader_of(Path(path))
    chosen = _choose(Path(path), reader.list_splits(Path(path)), split)
    name = f"{Path(path).name} {split}" if split else Path(path).name
    dataset = merge_datasets(name, reader.read(Path(path), chosen))
    if not len(dataset):
        raise DatasetError(
            f"{path}: no images{f' in split {split!r}' if split else ''}; check the folder and its lists"
        )
    return dataset


def list_splits(path: Path) -> list[str]:
    """Names of a dataset's splits; empty when it has none.

    Raises:
        DatasetError: nothing there, or an unknown format.
    """
    return _reader_of(Path(path)).list_splits(Path(path))


def find_split(splits: Sequence[str], name: str) -> str | None:
    """The split that `name` means, by its own name or the usual one: `val` is also `val2017`, `valid`; None if none.

    Raises:
        DatasetError: several fit.
    """
    matches = [s for s in splits if s == name] or [s for s in splits if _plain(s) == _plain(name)]
    if len(matches) > 1:
        raise DatasetError(f"split {name!r} fits {' and '.join(matches)}; name the one that is meant")
    return matches[0] if matches else None


def _reader_of(path: Path) -> _Reader:
    if not path.exists():
        raise DatasetError(f"no dataset at {path}: no such file or folder; check the path")
    for reader in _READERS:
        if reader.recognises(path):
            return reader
    expected = "".join(f"\n  {reader.LOOKED_FOR}" for reader in _READERS)
    raise DatasetError(f"{path} is not a dataset that can be read; looked for{expected}")


def _choose(path: Path, splits: Sequence[str], wanted: str | None) -> list[str]:
    """The splits that `wanted` names, none for None.

    Raises:
        DatasetError: one that does not exist.
    """
    chosen = []
    for name in wanted.split("+") if wanted is not None else ():
        found = find_split(splits, name)
        if found is None:
            there = f"there are {', '.join(splits)}" if splits else "this dataset has no splits"
            raise DatasetError(f"{path}: split {name!r} does not exist; {there}")
        chosen.append(found)
    return chosen


def _plain(split: str) -> str:
    """A split's name without its year and in the usual word."""
    word = split.lower().rstrip("0123456789")
    return "val" if word in ("valid", "validation") else word
