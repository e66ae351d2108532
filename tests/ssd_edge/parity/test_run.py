"""The gate: which drops pass, and what is said about those that do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.readers import read_dataset
from ssd_edge.errors import DatasetError, GateFailedError, ModelFileError, UsageError
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.run import parity
from tests.ssd_edge.parity.staged import staged

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny

ONE_WRONG = ((0.125, 0.125, 0.75, 0.75), (0.0, 0.0, 0.1, 0.1))  # finds one of the two classes
ALL_WRONG = ((0.9, 0.9, 1.0, 1.0), (0.0, 0.0, 0.1, 0.1))


def test_equal_models_pass(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    reference = fixed_model("reference.onnx")
    report = parity(
        reference,
        [fixed_model("same.onnx")],
        read_dataset(fixed_dataset),
        max_drop=MaxDrop.parse("0%"),
        progress=False,
    )
    assert (report.reference.ap, report.models[0].ap, report.models[0].drop) == (1, 1, 0)
    report.check()


def test_a_model_that_falls_short_fails_the_gate(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    models = [fixed_model("same.onnx"), fixed_model("worse.onnx", found=ONE_WRONG, precision="int8")]
    report = parity(
        fixed_model("reference.onnx"),
        models,
        read_dataset(fixed_dataset),
        max_drop=MaxDrop.parse("1%"),
        progress=False,
    )
    assert [model.passed for model in report.models] == [True, False]
    assert report.models[1].drop == pytest.approx(0.5)
    with pytest.raises(GateFailedError, match=r"worse\.onnx \(AP 0\.5000\), but AP ≥ 0\.9900"):
        report.check()
    table = report.table()
    assert "FALLS SHORT" in table
    assert "int8" in table
    figures = json.loads(report.to_json())
    assert figures["passed"] is False
    assert figures["models"][1]["ap"] == pytest.approx(0.5)
    assert figures["floor"] == pytest.approx(0.99)


def test_half_a_drop_passes_where_half_is_allowed(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    report = parity(
        fixed_model("reference.onnx"),
        [fixed_model("worse.onnx", found=ONE_WRONG)],
        read_dataset(fixed_dataset),
        max_drop=MaxDrop.parse("0.51"),
        progress=False,
    )
    report.check()


def test_a_model_of_other_classes_is_refused(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    other = fixed_model("other.onnx", class_names=("aztec", "qr_code"))
    with pytest.raises(ModelFileError, match=r"other\.onnx detects 2 classes \(aztec, qr_code"):
        parity(
            fixed_model("reference.onnx"),
            [other],
            read_dataset(fixed_dataset),
            max_drop=MaxDrop.parse("1%"),
            progress=False,
        )


def test_a_reference_that_finds_nothing_proves_nothing(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    blind = fixed_model("blind.onnx", found=ALL_WRONG)
    with pytest.raises(GateFailedError, match="nothing to compare with"):
        parity(blind, [blind], read_dataset(fixed_dataset), max_drop=MaxDrop.parse("1%"), progress=False)


def test_a_model_made_from_another_file_is_noted(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    stranger = fixed_model("stranger.onnx", parent_sha256="0" * 64)
    report = parity(
        fixed_model("reference.onnx"),
        [stranger],
        read_dataset(fixed_dataset),
        max_drop=MaxDrop.parse("1%"),
        progress=False,
    )
    assert "another checkpoint" in report.table()


def test_no_images_and_no_sense_are_refused(tiny: Tiny) -> None:
    empty = DetectionDataset("nothing", ("square",), (1,), ())
    with pytest.raises(DatasetError, match="nothing: no images to compare on"):
        parity(tiny.onnx, [tiny.onnx], empty, max_drop=MaxDrop.parse("1%"))
    with pytest.raises(UsageError, match="0 images to compare on"):
        staged(tiny, tiny.onnx, images=0)
    with pytest.raises(UsageError, match=r"score 1\.5"):
        staged(tiny, tiny.onnx, score=1.5)
