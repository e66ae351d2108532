"""The table's file: read back as written, refused when damaged or made from something else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.calib.table import CalibrationSettings, CalibrationTable
from ssd_edge.choices import METHODS
from ssd_edge.errors import ModelFileError, SinkError, UsageError

RANGES = {method: (-0.1 * i, 1 / 3 + i) for i, method in enumerate(METHODS)}


def make_table() -> CalibrationTable:
    return CalibrationTable("a" * 64, "b" * 64, 7, {"conv": RANGES, "relu": dict.fromkeys(METHODS, (0.0, 6.0))})


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.json"
    make_table().save(path)
    assert CalibrationTable.load(path) == make_table()
    assert [file.name for file in path.parent.iterdir()] == ["table.json"]


def test_range_of() -> None:
    table = make_table()
    assert table.range_of("conv", "minmax") == (0.0, 1 / 3)
    assert table.range_of("conv", "percentile") == (-0.2, 1 / 3 + 2)
    with pytest.raises(ModelFileError, match="ranges of 2 tensors, but none of 'pool'; delete the table"):
        table.range_of("pool", "minmax")
    with pytest.raises(UsageError, match="'max'; expected one of minmax, moving_average, percentile, entropy, mse"):
        table.range_of("conv", "max")


def test_the_fingerprint_is_of_the_content_alone() -> None:
    table = make_table()
    reordered = replace(table, ranges=dict(reversed(table.ranges.items())))
    assert table.fingerprint == reordered.fingerprint == CalibrationTable.from_json(table.to_json()).fingerprint
    changed = replace(table, ranges={**table.ranges, "relu": dict.fromkeys(METHODS, (0.0, 6.000001))})
    others = [changed, replace(table, images=8), replace(table, settings=CalibrationSettings(seed=1))]
    assert len({table.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert len(table.fingerprint) == 64


def test_check_says_what_differs() -> None:
    table = make_table()
    table.check("a" * 64, "b" * 64)
    table.check("a" * 64, "b" * 64, CalibrationSettings())
    with pytest.raises(ModelFileError, match="another model") as model:
        table.check("c" * 64, "b" * 64)
    with pytest.raises(ModelFileError, match="other images or another preprocess") as images:
        table.check("a" * 64, "c" * 64)
    with pytest.raises(
        ModelFileError, match=r"other settings \(percentile 99.99, not 99.9, seed 0, not 3\)"
    ) as settings:
        table.check("a" * 64, "b" * 64, CalibrationSettings(percentile=99.9, seed=3))
    with pytest.raises(ModelFileError, match=r"another model .* and from other images"):
        table.check("c" * 64, "c" * 64)
    assert "images" not in str(model.value)
    assert "model" not in str(images.value)
    for error in (model, images, settings):
        assert str(error.value).endswith("; delete the table and calibrate again")


def damaged(**changes: Any) -> str:
    data = json.loads(make_table().to_json())
    for name, value in changes.items():
        if value is None:
            del data[name]
        else:
            data[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a calibration table, or cut off"),
        (make_table().to_json()[:-20], "not a calibration table, or cut off"),
        ("[1, 2]", "not a calibration table, or cut off"),
        ("[" * 100_000, "not a calibration table, or cut off"),
        (damaged(table_version=2), "table version 2, this ssd-edge reads version 1"),
        (damaged(images=None), r"fields \[.*expected"),
        (damaged(more=1), "fields .*'more'"),
        (damaged(images="7"), "images is '7', expected int"),
        (damaged(images=True), "images is True, expected int"),
        (damaged(ranges=[1]), r"ranges is \[1\], expected dict"),
        (damaged(ranges={"conv": {"minmax": [0, 1]}}), r"'conv' has ranges by \['minmax'\], expected"),
        (damaged(ranges={"conv": 3}), "'conv' has ranges by 3"),
        (damaged(ranges={"conv": {**RANGES, "mse": [0.5, 1]}}), r"mse range of tensor 'conv' is \[0.5, 1\]"),
        (damaged(ranges={"conv": {**RANGES, "mse": [0, 0]}}), r"is \[0, 0\], expected two finite numbers"),
        (damaged(ranges={"conv": {**RANGES, "mse": [0, float("nan")]}}), r"is \[0, nan\]"),
        (damaged(ranges={"conv": {**RANGES, "mse": ["0", 1]}}), r"is \['0', 1\]"),
        (damaged(ranges={"conv": {**RANGES, "mse": [0, True]}}), r"is \[0, True\]"),
        (damaged(ranges={"conv": {**RANGES, "mse": [-1, 0, 1]}}), "expected two finite numbers"),
        (damaged(settings={"percentile": 20.0, "momentum": 0.9, "bins": 4096, "seed": 0}), "percentile 20.0"),
        (damaged(settings={"percentile": "a", "momentum": 0.9, "bins": 4096, "seed": 0}), "not a whole"),
        (damaged(settings={"speed": 1}), "not a whole calibration table"),
    ],
)
def test_damage_is_named(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=complaint) as error:
        CalibrationTable.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).count("delete the table and calibrate again") == 1


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read calibration table .*missing\.json"):
        CalibrationTable.load(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        make_table().save(tmp_path / "file" / "table.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [("percentile", 50.0), ("percentile", 100.1), ("momentum", 1.0), ("bins", 3000), ("bins", 128), ("bins", 1 << 17)],
)
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{value}"):
        CalibrationSettings(**{name: value})  # type: ignore[arg-type]
