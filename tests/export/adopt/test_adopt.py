"""A foreign SSD in many forms becomes a file of our contract that computes what PyTorch computes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from ssd_edge.calib.images import calibration_images
from ssd_edge.errors import ModelFileError, SsdEdgeError, UsageError
from ssd_edge.export.adopt.adopt import AdoptReport, adopt
from ssd_edge.export.int8.options import Int8Options, QatOptions
from ssd_edge.export.onnx_export import export_onnx
from ssd_edge.importers.family import Facts
from ssd_edge.onnx_graph import GraphIndex, own_opset
from ssd_edge.parity.compare_cards import card_differences
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.tapped_detector import open_tapped
from ssd_edge.runtime.backends.onnxruntime import OnnxDetector
from tests.detectors.tiny_detector import Tiny
from tests.export.adopt.foreign_ssd import HEIGHT, LABELS, USUAL, WIDTH, Form, expected, write

NAMED = Facts(class_names=LABELS)
COLUMNS = {"first": slice(1, None), "last": slice(0, -1), "none": slice(None)}


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def adopted(tmp_path: Path, source: Path, facts: Facts = NAMED) -> AdoptReport:
    return adopt(source, tmp_path / "adopted.onnx", facts)


def check_equal(path: Path, form: Form = USUAL, tolerance: float = 1e-5) -> None:
    """Batches of one, two and five, against PyTorch."""
    for count in (1, 2, 5):
        boxes, scores = expected(images(count), form)
        scores = scores[..., COLUMNS[form.background]]
        with OnnxDetector(path) as detector:
            found_boxes, found_scores = detector.infer(images(count))
        assert found_boxes.shape == boxes.shape
        assert np.abs(found_boxes - boxes).max() <= tolerance * np.abs(boxes).max()
        assert np.abs(found_scores - scores).max() <= tolerance


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
def test_what_jetson_inference_exports(tmp_path: Path, opset: int) -> None:
    report = adopted(tmp_path, write(tmp_path / "ssd-mobilenet.onnx", opset=opset))
    check_equal(report.path)
    model = onnx.load(report.path)
    assert (own_opset(model), model.ir_version) == (18, 8)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Constant", "Shape", "BatchNormalization"})
    card = report.card
    assert (card.arch, card.height, card.width, card.class_names) == ("onnx", HEIGHT, WIDTH, LABELS[1:])
    assert (card.mean, card.std) == ((127.0,) * 3, (128.0,) * 3)
    assert (card.nms_iou, card.candidates, card.detections, card.clip_before_nms) == (0.45, 200, 600, False)
    assert max(report.boxes_difference, report.scores_difference, report.batch_difference) <= 1e-5


@pytest.mark.parametrize(("batch", "dynamic"), [(3, False), (1, True)])
def test_batches(tmp_path: Path, batch: int, dynamic: bool) -> None:
    check_equal(adopted(tmp_path, write(tmp_path / "foreign.onnx", batch=batch, dynamic=dynamic)).path)


FORMS = {
    "logits": Form(scores="logits"),
    "pixels": Form(in_pixels=True),
    "centre": Form(boxes="centre"),
    "rows first": Form(boxes="rows_first"),
    "background last": Form(background="last"),
    "planes last": Form(images="pixels"),
    "bytes": Form(images="bytes"),
    "joined": Form(joined=True),
    "norms": Form(norms=True),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_forms(tmp_path: Path, form: Form) -> None:
    check_equal(adopted(tmp_path, write(tmp_path / "foreign.onnx", form)).path, form)


def test_half_becomes_float32(tmp_path: Path) -> None:
    report = adopted(tmp_path, write(tmp_path / "half.onnx", Form(half=True)))
    check_equal(report.path, tolerance=3e-3)
    assert "float16 made float32" in report.notes
    assert onnx.TensorProto.FLOAT16 not in {tensor.data_type for tensor in onnx.load(report.path).graph.initializer}


def test_scores_without_background(tmp_path: Path) -> None:
    form = Form(scores="sigmoid", background="none")
    report = adopted(tmp_path, write(tmp_path / "foreign.onnx", form), Facts(class_names=("a", "b", "c", "d")))
    check_equal(report.path, form)
    assert (report.card.score_function, report.card.class_names) == ("sigmoid", ("a", "b", "c", "d"))


def test_other_names_and_names_of_ours_inside(tmp_path: Path) -> None:
    source = write(tmp_path / "foreign.onnx", names=("boxes", "images", "scores"))
    check_equal(adopted(tmp_path, source).path)


def test_blue_first(tmp_path: Path) -> None:
    """The network that reads BGR gives for an image what the one that reads RGB gives for the reversed one."""
    report = adopted(tmp_path, write(tmp_path / "foreign.onnx"), Facts(class_names=LABELS, bgr=True))
    boxes, _ = expected(np.ascontiguousarray(images(2)[..., ::-1]))
    with OnnxDetector(report.path) as detector:
        assert np.abs(detector.infer(images(2))[0] - boxes).max() <= 1e-5 * np.abs(boxes).max()


def test_without_facts_everything_assumed_is_said(tmp_path: Path) -> None:
    report = adopted(tmp_path, write(tmp_path / "foreign.onnx"), Facts())
    options = [assumption.option for assumption in report.assumptions]
    assert options == ["--mean, --std", "--bgr", "--background", "--classes"]
    assert report.card.class_names == ("class 1", "class 2", "class 3")
    assert "mean 127, std 128" in str(report)


def refused(tmp_path: Path, source: Path, match: str, facts: Facts = NAMED) -> None:
    with pytest.raises(SsdEdgeError, match=match) as found:
        adopted(tmp_path, source, facts)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "adopted.onnx").exists()


def test_offsets_that_are_not_decoded(tmp_path: Path) -> None:
    refused(
        tmp_path, write(tmp_path / "raw.onnx", Form(boxes="offsets")), "no two outputs are boxes and scores .* offsets"
    )


def test_a_wrong_number_of_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "foreign.onnx")
    refused(tmp_path, source, "4 columns of scores: 2 class names; the model has 3", Facts(class_names=("a", "b")))


def small(path: Path, op_type: str, shape: list[int], output: list[int], *, domain: str = "", opset: int = 17) -> Path:
    """One node between one input and one output."""
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x"], ["y"], domain=domain)],
        "small",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, output)],
    )
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


IMAGE = [1, 3, 64, 96]


@pytest.mark.parametrize(
    ("op_type", "output", "match"),
    [
        ("Relu", [1, 1000], "seems to be a classifier"),
        ("Relu", [1, 84, 8400], "seems to be a YOLO"),
        ("NonMaxSuppression", [1, 100, 6], "NonMaxSuppression is inside the graph"),
        ("QuantizeLinear", [1, 100, 6], "is int8 already"),
        ("Loop", [1, 100, 6], "control flow"),
        ("Relu", IMAGE, r"gives y \[3, 3, 64, 96\]"),
    ],
)
def test_what_is_no_raw_ssd(tmp_path: Path, op_type: str, output: list[int], match: str) -> None:
    refused(tmp_path, small(tmp_path / "foreign.onnx", op_type, IMAGE, output), match)


def test_a_plugin_that_suppresses(tmp_path: Path) -> None:
    source = small(tmp_path / "foreign.onnx", "EfficientNMS_TRT", IMAGE, [1, 100, 4], domain="TRT")
    refused(tmp_path, source, "EfficientNMS_TRT is inside the graph")


def test_an_opset_that_is_too_new(tmp_path: Path) -> None:
    refused(tmp_path, small(tmp_path / "foreign.onnx", "Relu", IMAGE, [1, 9, 4], opset=999), "opset 999; expected 7 to")


@pytest.mark.parametrize("shape", [[1, 1, 64, 96], [1, 3], [1, 3, 0, 96]])
def test_an_input_that_is_no_image(tmp_path: Path, shape: list[int]) -> None:
    refused(tmp_path, small(tmp_path / "foreign.onnx", "Relu", shape, [1, 9, 4]), "expected one image")


def test_damaged_and_external_files(tmp_path: Path) -> None:
    source = write(tmp_path / "foreign.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(source.read_bytes()[:-1000])
    refused(tmp_path, cut, "cannot load it|damaged")
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(source), apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    refused(tmp_path, apart, "keeps its data in another file")
    refused(tmp_path, tmp_path / "absent.onnx", "cannot load it")


def test_a_batch_that_cannot_be_freed(tmp_path: Path) -> None:
    """The scores of one image are those of the other."""
    model = onnx.load(write(tmp_path / "foreign.onnx"))
    graph = model.graph
    for node in graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = "mixed" if name == "scores" else name
    axes = helper.make_node("Constant", [], ["axes"], value_ints=[0])
    graph.node.extend([axes, helper.make_node("ReduceMean", ["mixed"], ["scores"], axes=[0], keepdims=1)])
    graph.node.remove(axes)
    onnx.save(model, tmp_path / "mixed.onnx")
    refused(tmp_path, tmp_path / "mixed.onnx", "its batch of 1 cannot be made dynamic")


def test_requests(tmp_path: Path) -> None:
    source = write(tmp_path / "foreign.onnx")
    with pytest.raises(UsageError, match="is adopted into an ONNX file"):
        adopt(source, tmp_path / "model.pt", NAMED)
    with pytest.raises(UsageError, match="--default-boxes is for checkpoints"):
        adopt(source, tmp_path / "model.onnx", Facts(default_boxes="ssd300"))
    report = adopted(tmp_path, source)
    with pytest.raises(ModelFileError, match="is a file of ssd-edge already"):
        adopt(report.path, tmp_path / "again.onnx", NAMED)


def test_an_adopted_file_is_exported(tmp_path: Path) -> None:
    source = adopted(tmp_path, write(tmp_path / "foreign.onnx")).path
    report = export_onnx(source, tmp_path / "half.onnx", precision="fp16")
    assert report.comparison.boxes_difference < 2e-2
    with OnnxDetector(report.path) as detector:
        assert (detector.card.precision, detector.card.arch) == ("fp16", "onnx")
    with pytest.raises(UsageError, match="is an fp32 ONNX file already"):
        export_onnx(source, tmp_path / "again.onnx")
    with pytest.raises(ModelFileError, match="is fp16; expected"):
        export_onnx(report.path, tmp_path / "again.onnx", precision="fp16")


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("opset", [9, 17])
def test_an_adopted_file_in_int8(tmp_path: Path, target: str, opset: int) -> None:
    """Boxes are decoded and scores made in float; for TensorRT the heads stay half too."""
    source = adopted(tmp_path, write(tmp_path / "foreign.onnx", opset=opset)).path
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images(4)):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
    options = Int8Options(calibration_images(tmp_path / "images", 4), target=target)
    report = export_onnx(source, tmp_path / "int8.onnx", precision="int8", int8=options)
    index = GraphIndex(onnx.load(report.path).graph)
    integer = [node for node in index.of("Conv") if index.made_by(node.input[1], "DequantizeLinear")]
    heads = [node for node in index.of("Conv") if node.input[1].startswith(("classes", "offsets"))]
    assert len(heads) == 6 if target == "tensorrt" else integer
    assert len(integer) >= 4
    behind = index.of("Exp") + index.of("Softmax")
    assert len(behind) == 2
    assert not any(index.made_by(name, "DequantizeLinear") for node in behind for name in node.input)
    with OnnxDetector(report.path) as detector:
        boxes, scores = detector.infer(images(2))
    assert np.abs(boxes - expected(images(2))[0]).max() < 0.2
    assert np.abs(scores - expected(images(2))[1][..., 1:]).max() < 0.3
    assert parity_differences(source, report.path) == ()


def parity_differences(reference: Path, path: Path) -> tuple[object, ...]:
    """What their cards say differently."""
    with OnnxDetector(reference) as first, OnnxDetector(path) as second:
        return card_differences(first.card, second.card)


def test_fine_tuning_needs_a_checkpoint(tmp_path: Path, tiny: Tiny) -> None:
    source = adopted(tmp_path, write(tmp_path / "foreign.onnx")).path
    options = Int8Options(
        calibration_images(tiny.data, 4),
        max_drop=MaxDrop.parse("1%"),
        validation=tiny.dataset,
        qat=QatOptions(1, tiny.dataset),
    )
    with pytest.raises(UsageError, match="--qat fine-tunes a checkpoint"):
        export_onnx(source, tmp_path / "int8.onnx", precision="int8", int8=options)


def test_the_stages_of_an_adopted_file_are_found(tmp_path: Path) -> None:
    """Logits and offsets, by which parity tells where two models part."""
    source = adopted(tmp_path, write(tmp_path / "foreign.onnx")).path
    with open_tapped(source) as detector:
        raw, _ = detector.detect(images(1)[0])
    assert raw.logits is not None
    assert raw.offsets is not None
    assert detector.notes == ()
