"""The fingerprint of a dataset."""

from pathlib import Path

import pytest

from ssd_edge.data.readers import read_dataset
from tests.ssd_edge.data.dataset_files import voc_object, write_coco, write_image, write_voc


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    fingerprints = []
    for folder, xmax in (("one", 9), ("two", 9), ("three", 8)):
        (tmp_path / folder).mkdir()
        for stem in ("a", "b"):
            write_voc(tmp_path / folder, stem, voc_object("dog", 1, 1, xmax, 9))
        fingerprints.append(read_dataset(tmp_path / folder).fingerprint())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert len(fingerprints[0]) == 64


def test_fingerprint_of_relative_paths_and_of_some_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fingerprints = []
    for first in ("a.png", str(tmp_path / "data" / "a.png")):
        images = [{"id": i, "file_name": n, "width": 9, "height": 9} for i, n in enumerate((first, "b.png"))]
        for name in ("a.png", "b.png"):
            write_image(tmp_path / "data" / name)
        write_coco(tmp_path / "data" / "annotations.json", images, [])
        fingerprints.append(read_dataset(Path("data")).fingerprint())
    fingerprints.append(read_dataset(tmp_path / "data").fingerprint())
    assert len(set(fingerprints)) == 1
