"""`ssd-edge export --precision fp16`: from the checkpoint to the file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.cli.main import main
from ssd_edge.errors import GateFailedError, UsageError
from ssd_edge.export import onnx_export, trace
from ssd_edge.export.onnx_export import ExportReport, export_onnx
from ssd_edge.export.trace import onnx_from_predictor
from ssd_edge.models.architecture import ARCHITECTURES
from ssd_edge.models.create import create_model
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.detector import open_detector
from tests.export.fp16.small_ssd import (
    HALF,
    types_of,
)
from tests.ssd_edge.models.two_maps import TWO_MAPS


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a detector that is traced in a second."""
    monkeypatch.setattr(onnx_export, "COMPARED_IMAGES", 2)
    monkeypatch.setattr(onnx_export, "OVERFLOW_IMAGES", 3)
    config = replace(TWO_MAPS.config, std=(50.0, 50.0, 50.0))
    monkeypatch.setitem(ARCHITECTURES, "two_maps", replace(TWO_MAPS, config=config))
    torch.manual_seed(0)
    model = create_model("two_maps", 1)
    save_checkpoint(tmp_path / "own.pt", Checkpoint(model.make_card(("cat",), (1,)), model.state_dict()))
    monkeypatch.setattr(trace, "onnx_from_predictor", trace_once)
    return tmp_path / "own.pt"


TRACED: list[onnx.ModelProto] = []


def trace_once(predictor: Predictor, size_hw: tuple[int, int]) -> onnx.ModelProto:
    """The trace of the first predictor, with the weights of this one: tracing takes seconds."""
    if not TRACED:
        TRACED.append(onnx_from_predictor(predictor, size_hw))
    graph = onnx.ModelProto.FromString(TRACED[0].SerializeToString())
    weights = predictor.state_dict()
    for tensor in graph.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    return graph


def test_export_writes_a_half_file_that_a_detector_opens(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []

    def export(*arguments: Any, **options: Any) -> ExportReport:
        reports.append(export_onnx(*arguments, **options))
        return reports[0]

    monkeypatch.setattr(onnx_export, "export_onnx", export)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "half.onnx"), "--precision", "fp16"]) == 0
    (report,) = reports
    assert capsys.readouterr().out == f"{report}\n"
    comparison = report.comparison
    assert 1e-6 < max(comparison.boxes_difference, comparison.scores_difference) < 1e-2  # rounded, and not by much
    assert report.precision == "fp16"
    assert "opset 18, fp16\n" in str(report)
    assert str(report).endswith("nodes in half; overflow looked for on 2 images")
    model = onnx.load(tmp_path / "half.onnx")
    assert ModelCard.from_json(model.metadata_props[0].value).precision == "fp16"
    assert HALF in types_of(model).values()
    with open_detector(tmp_path / "half.onnx") as detector:
        assert detector.infer(np.zeros((2, 32, 48, 3), np.uint8))[0].dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.onnx", "own.pt"]


def test_a_checkpoint_whose_activations_overflow_is_exported_all_the_same(checkpoint: Path, tmp_path: Path) -> None:
    model, card = model_from_checkpoint(checkpoint)
    state = model.state_dict()
    state["backbone.fine.bias"] += 1e5
    for name in state:
        if name.startswith("head") and name.endswith("weight"):
            state[name] *= 1e-6
    save_checkpoint(checkpoint, Checkpoint(card, state))
    report = export_onnx(checkpoint, tmp_path / "half.onnx", precision="fp16")
    assert any(note.startswith("kept in float32: ") and "reaches 1e+05" in note for note in report.notes)


def test_a_checkpoint_that_diverged_is_refused_and_its_layer_named(checkpoint: Path, tmp_path: Path) -> None:
    model, card = model_from_checkpoint(checkpoint)
    model.state_dict()["backbone.coarse.bias"][3] = torch.nan
    save_checkpoint(checkpoint, Checkpoint(card, model.state_dict()))
    with pytest.raises(GateFailedError, match=r"\(model\.backbone\.coarse\.weight\) gives nan in float32"):
        export_onnx(checkpoint, tmp_path / "half.onnx", precision="fp16")
    assert not (tmp_path / "half.onnx").exists()


def test_a_precision_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision 'int4'"):
        export_onnx(checkpoint, tmp_path / "a.onnx", precision="int4")
