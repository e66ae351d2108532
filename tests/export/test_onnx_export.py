"""The exported file obeys the ONNX contract and gives what PyTorch gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from ssd_edge.card import ONNX_METADATA_KEY, ModelCard, file_sha256
from ssd_edge.checkpoint import Checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.errors import DatasetError, GateFailedError, ModelFileError, SinkError, UsageError
from ssd_edge.export import onnx_export, trace
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.models.architecture import ARCHITECTURES
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig
from ssd_edge.models.predict import Predictor
from tests.detectors.exported_architectures import CLASSES, Exported
from tests.export.architectures import ANCHORS, SIZE
from tests.ssd_edge.models.two_maps import TWO_MAPS

# What SSD needs; every one is supported by TensorRT 10's ONNX parser (onnx-tensorrt docs/operators.md).
OPERATORS = (
    "Add Cast Clip Concat Conv Div Exp Expand HardSigmoid HardSwish MaxPool Mul ReduceL2 ReduceMean Relu Reshape "
    "Shape Slice Softmax Sub Transpose"
)


@pytest.fixture(
    params=[pytest.param(arch, marks=pytest.mark.slow if SIZE[arch] == 512 else ()) for arch in sorted(ANCHORS)]
)
def exported(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Exported:
    return export_once(request.param)


def test_the_file_obeys_the_contract(exported: Exported) -> None:
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    tensors = {t.name: (t.type, t.shape) for t in (*session.get_inputs(), *session.get_outputs())}
    assert tensors == {
        "images": ("tensor(uint8)", ["batch", SIZE[exported.arch], SIZE[exported.arch], 3]),
        "boxes": ("tensor(float)", ["batch", ANCHORS[exported.arch], 4]),
        "scores": ("tensor(float)", ["batch", ANCHORS[exported.arch], len(CLASSES)]),
    }


def test_other_batch_sizes_give_what_pytorch_gives(exported: Exported) -> None:
    predictor = Predictor(model_from_checkpoint(exported.checkpoint)[0]).eval()
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    for batch in (1, 3) if SIZE[exported.arch] < 512 else (1,):  # the larger ones were compared on export
        images = np.random.default_rng(batch).integers(
            0, 256, (batch, SIZE[exported.arch], SIZE[exported.arch], 3), np.uint8
        )
        with torch.inference_mode():
            boxes, scores = predictor(torch.from_numpy(images))
        got_boxes, got_scores = session.run(["boxes", "scores"], {"images": images})
        np.testing.assert_allclose(got_boxes, boxes.numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(got_scores, scores.numpy(), atol=1e-4)


def test_the_graph_suits_tensorrt(exported: Exported) -> None:
    graph = onnx.load(exported.path).graph
    users = [node.op_type for node in graph.node if "images" in node.input]
    assert [user for user in users if user != "Shape"] == ["Cast"]
    operators = {node.op_type for node in graph.node}
    assert operators <= set(OPERATORS.split())  # no BatchNormalization: folded into convolutions
    assert {node.domain for node in graph.node} == {""}


def test_the_file_stands_alone_and_tells_no_local_paths(exported: Exported) -> None:
    model = onnx.load(exported.path, load_external_data=False)
    assert (model.ir_version, model.opset_import[0].version) == (8, 18)
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in model.graph.initializer)
    assert [item.key for item in model.metadata_props] == [ONNX_METADATA_KEY]
    assert b"predict.py" not in exported.path.read_bytes()
    assert list(exported.path.parent.iterdir()) == [exported.path]  # neither data beside it nor a temporary file


def test_the_card_names_the_parent(exported: Exported) -> None:
    card = ModelCard.from_json(onnx.load(exported.path).metadata_props[0].value)
    assert card.parent_sha256 == file_sha256(exported.checkpoint)
    assert (card.arch, card.precision, card.class_names, card.category_ids) == (
        exported.arch,
        "fp32",
        CLASSES,
        (17, 18, 21),
    )


def test_the_report_tells_the_differences(exported: Exported) -> None:
    report = exported.report
    assert report.size_bytes == exported.path.stat().st_size
    comparison = report.comparison
    assert comparison.images == 2
    assert comparison.boxes_difference <= 1e-4
    assert comparison.scores_difference <= 1e-4
    assert 0 < comparison.detections_equal <= comparison.detections
    assert "2 images" in str(report)


def test_nothing_is_said_besides_the_report(exported: Exported) -> None:
    assert exported.noise == [""]


def test_an_architecture_and_default_boxes_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "COMPARED_IMAGES", 1)
    monkeypatch.setitem(ARCHITECTURES, "two_maps", TWO_MAPS)
    boxes = DefaultBoxConfig(((2, 3), ()), (0.1, 0.4, 0.8), steps=(4, 16), clip=False)
    model = create_model("two_maps", 1, default_boxes=boxes)
    save_checkpoint(tmp_path / "own.pt", Checkpoint(model.make_card(("cat",), (1,)), model.state_dict()))
    report = export_onnx(tmp_path / "own.pt", tmp_path / "own.onnx")
    assert report.comparison.boxes_difference <= 1e-4
    graph = onnx.load(tmp_path / "own.onnx")
    assert graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 8 * 12 * 6 + 2 * 3 * 2
    card = ModelCard.from_json(graph.metadata_props[0].value)
    assert (card.arch, DefaultBoxConfig.from_dict(card.default_boxes)) == ("two_maps", boxes)


@pytest.fixture
def checkpoint(export_once: Callable[[str], Exported]) -> Path:
    return export_once("ssdlite320_mobilenet_v3_large").checkpoint


@pytest.fixture
def quick_graph(export_once: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the tracing, which the tests above cover."""
    graph = onnx.load(export_once("ssdlite320_mobilenet_v3_large").path)
    monkeypatch.setattr(trace, "onnx_from_predictor", lambda *_, **__: graph)


@pytest.mark.usefixtures("quick_graph")
def test_a_file_that_departs_from_pytorch_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    old = tmp_path / "model.onnx"
    old.write_bytes(b"the one before")
    torch.manual_seed(1)
    state = create_model("ssdlite320_mobilenet_v3_large", len(CLASSES)).state_dict()
    card = model_from_checkpoint(checkpoint)[1]
    save_checkpoint(tmp_path / "other.pt", Checkpoint(card, state))  # not the weights of the graph
    with pytest.raises(GateFailedError, match=r"model.onnx is not written: .* boxes differ by"):
        export_onnx(tmp_path / "other.pt", old)
    assert old.read_bytes() == b"the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "other.pt"]


@pytest.mark.usefixtures("quick_graph")
def test_it_compares_on_the_images_given(tmp_path: Path, checkpoint: Path) -> None:
    missing = ImageRecord(
        path=tmp_path / "gone.jpg",
        image_id=1,
        size_hw=(10, 10),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0, np.float32),
        crowd=np.zeros(0, np.bool_),
    )
    data = DetectionDataset("one", CLASSES, (1, 2, 3), (missing,))
    with pytest.raises(DatasetError, match=r"gone\.jpg"):
        export_onnx(checkpoint, tmp_path / "model.onnx", data=data)


def test_a_name_that_is_not_onnx_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.onnx"):
        export_onnx(checkpoint, tmp_path / "model.pb")


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        export_onnx(tmp_path / "none.pt", tmp_path / "model.onnx")


@pytest.mark.usefixtures("quick_graph")
def test_an_unwritable_place_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "model.onnx").mkdir()  # in the way
    with pytest.raises(SinkError, match="cannot write"):
        export_onnx(checkpoint, tmp_path / "model.onnx")
