"""The curve of a recovery is written beside the model, and an older one is removed."""

import importlib.util
import json
from pathlib import Path

import pytest

from ssd_edge.calib.recovery import Point, Recovery, Sensitivity
from ssd_edge.calib.recovery_report import remove_recovery, write_recovery
from ssd_edge.errors import SinkError

RECOVERY = Recovery(
    reference_ap=0.5,
    floor=0.495,
    chosen=Point(("stem",), 0.497, 11.0),
    curve=(Point((), 0.4, 10.0), Point(("stem",), 0.497, 11.0), Point(("stem", "head"), 0.499, 13.0)),
    ranking=(Sensitivity("stem", 0.2), Sensitivity("head", 0.1)),
)


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_curve_is_written_beside_the_model(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_recovery(tmp_path / "model.onnx", RECOVERY, title="a model")
    assert written(tmp_path) == ["model.recovery.json", "model.recovery.png"]
    assert (tmp_path / "model.recovery.json").read_text() == RECOVERY.to_json() + "\n"
    assert (tmp_path / "model.recovery.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_recovery(tmp_path / "model.onnx", RECOVERY, title="a model")
    assert written(tmp_path) == ["model.recovery.json"]
    assert json.loads((tmp_path / "model.recovery.json").read_text())["chosen"]["kept_float"] == ["stem"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError):
        write_recovery(tmp_path / "file" / "model.onnx", RECOVERY, title="a model")


def test_an_older_curve_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.recovery.json", "model.recovery.png", "other.recovery.json"):
        (tmp_path / name).touch()
    for _ in range(2):  # it may be gone already
        remove_recovery(tmp_path / "model.onnx")
    assert written(tmp_path) == ["model.onnx", "other.recovery.json"]
