"""Graphs and cards that are broken on purpose: each is pinned to the stage that it breaks first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.errors import DatasetError, MissingDependencyError, ModelFileError, UsageError
from ssd_edge.parity import MaxDrop, ParityReport, parity
from ssd_edge.parity import run as parity_run
from ssd_edge.parity.stages import Stage, StagedComparison
from ssd_edge.parity.taps_onnx import logits_name, offsets_name
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny

Change = Callable[[onnx.ModelProto], None]


def staged(tiny: Tiny, *models: Path, reference: Path | None = None, **options: Any) -> ParityReport:
    options = {"max_drop": MaxDrop.parse("1%"), "stages": True, "threads": 1, "progress": False} | options
    return parity(reference or tiny.checkpoint, models, tiny.dataset, **options)


def only(report: ParityReport) -> StagedComparison:
    (model,) = report.models
    assert model.comparison is not None
    return model.comparison


def stage(comparison: StagedComparison, name: str) -> Stage:
    (found,) = [stage for stage in comparison.stages if stage.name == name]
    return found


def node_of(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    (node,) = [node for node in model.graph.node if node.op_type == op_type]
    return node


def set_initializer(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> None:
    (held,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    held.CopyFrom(numpy_helper.from_array(value.astype(numpy_helper.to_array(held).dtype), name))


def weight(model: onnx.ModelProto, part: str) -> tuple[str, NDArray[Any]]:
    """The first initializer whose name holds `part`."""
    held = next(tensor for tensor in model.graph.initializer if part in tensor.name)
    return held.name, numpy_helper.to_array(held).copy()


def insert(model: onnx.ModelProto, tensor: str, *nodes: tuple[str, dict[str, Any]], **constants: NDArray[Any]) -> None:
    """Put nodes, one after the other, between a tensor and all that take it; constants are the further inputs."""
    graph = model.graph
    makers = [place for place, node in enumerate(graph.node) if tensor in node.output]
    place = makers[0] + 1
    for node in graph.node[place:]:
        node.input[:] = [f"{tensor}_after" if name == tensor else name for name in node.input]
    if tensor in {output.name for output in graph.output}:
        maker = graph.node[makers[0]]
        maker.output[:] = [f"{tensor}_before" if name == tensor else name for name in maker.output]
        source, final = f"{tensor}_before", tensor
    else:
        source, final = tensor, f"{tensor}_after"
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for index, (op_type, attributes) in enumerate(nodes):
        result = final if index == len(nodes) - 1 else f"{tensor}_{index}"
        extra = list(constants) if op_type in ("Gather", "QuantizeLinear", "DequantizeLinear", "Mul", "Add") else []
        graph.node.insert(place + index, helper.make_node(op_type, [source, *extra], [result], **attributes))
        source = result


def wrong_mean(model: onnx.ModelProto) -> None:
    subtract = next(node for node in model.graph.node if node.op_type == "Sub" and "mean" in node.input[1])
    subtract.input[1] = "another_mean"
    model.graph.initializer.append(numpy_helper.from_array(np.float32([[[90]], [[100]], [[110]]]), "another_mean"))


def swapped_columns(model: onnx.ModelProto) -> None:
    insert(model, "boxes", ("Gather", {"axis": 2}), order=np.array([1, 0, 3, 2]))


def swapped_offsets(model: onnx.ModelProto) -> None:
    name = offsets_name(model.graph)
    assert name is not None
    insert(model, name, ("Gather", {"axis": 2}), order=np.array([1, 0, 3, 2]))


def softmax_over_anchors(model: onnx.ModelProto) -> None:
    node_of(model, "Softmax").attribute[0].i = 1


def noisy_weights(part: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        name, values = weight(model, part)
        noise = np.random.default_rng(0).normal(0, values.std(), values.shape)
        set_initializer(model, name, values + 0.5 * noise)

    return change


def wrong_default_boxes(model: onnx.ModelProto, by: float = 0.05) -> None:
    """The centres of all default boxes, a constant [anchors, 2] of the decoding, moved to the lower right."""
    insert_after = next(
        tensor for tensor in model.graph.initializer if list(tensor.dims)[-1:] == [2] and tensor.name.startswith("add")
    )
    set_initializer(model, insert_after.name, numpy_helper.to_array(insert_after) + by)


@pytest.mark.parametrize(
    ("change", "card", "first", "cause"),
    [
        (wrong_mean, {}, "logits", "graph: the network, before any decoding; normalisation"),
        (noisy_weights("backbone"), {}, "logits", "graph: the network"),
        (noisy_weights("classification_head"), {}, "logits", "graph: the network's class head"),
        (noisy_weights("regression_head"), {}, "offsets", "graph: the network's box head"),
        (swapped_offsets, {}, "offsets", "graph: the network's box head"),
        (swapped_columns, {}, "boxes", "decode: boxes are not what the model's own offsets decode into; default boxes"),
        (wrong_default_boxes, {}, "boxes", "decode: boxes are not what"),
        (softmax_over_anchors, {}, "scores", "decode: scores are not what the model's own logits decode into; axis of"),
        (None, {"nms_iou": 0.2}, "card", "nms_iou 0.2, not 0.5: suppression: another IoU"),
        (None, {"score_threshold": 0.3}, "card", "suppression: another score threshold"),
        (None, {"mean": (1.0, 2.0, 3.0)}, "card", "preprocess: pixels are normalised differently"),
        (wrong_mean, {"category_ids": (4, 1)}, "card", "labels: other category ids"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_first_stage_that_departs(
    tiny: Tiny, tmp_path: Path, change: Change | None, card: dict[str, Any], first: str, cause: str
) -> None:
    model = tiny.write(tmp_path / "broken.onnx", change or (lambda model: None), **card)
    report = staged(tiny, model)
    comparison = only(report)
    assert comparison.first is not None
    assert comparison.first.name == first
    assert comparison.conclusion.startswith(f"first stage that departs: {first} (")
    assert cause in comparison.conclusion
    assert comparison.conclusion in report.table()
    earlier = comparison.stages[: comparison.stages.index(comparison.first)]
    assert not any(stage.departs for stage in earlier)


def test_the_file_as_it_was_exported_departs_nowhere(tiny: Tiny) -> None:
    report = staged(tiny, tiny.onnx)
    comparison = only(report)
    assert comparison.first is None
    assert [stage.name for stage in comparison.stages] == [
        "card",
        "logits",
        "offsets",
        "boxes",
        "scores",
        "detections",
        "mAP",
    ]
    assert [stage.departs for stage in comparison.stages] == [False] * 7
    assert comparison.detections.reference > 20  # there is something to compare
    assert comparison.detections.different == 0
    assert "no stage departs" in report.table()
    assert report.notes == ()


def test_a_changed_suppression_shows_in_the_detections_too(tiny: Tiny, tmp_path: Path) -> None:
    comparison = only(staged(tiny, tiny.write(tmp_path / "m.onnx", nms_iou=0.05)))
    assert [stage.name for stage in comparison.stages if stage.departs] == ["card", "detections", "mAP"]
    assert comparison.detections.missed > 0
    assert comparison.detections.extra == 0


@pytest.mark.parametrize("reference", ["tiny.onnx", "tiny.pt"])
def test_any_model_may_be_the_reference(tiny: Tiny, tmp_path: Path, reference: str) -> None:
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    report = staged(tiny, tiny.checkpoint, tiny.onnx, broken, reference=tiny.folder / reference)
    firsts = [model.comparison.first for model in report.models if model.comparison]
    assert [first and first.name for first in firsts] == [None, None, "boxes"]
    assert report.notes == ()  # all come from one checkpoint


def test_stages_see_what_map_does_not(tiny: Tiny, tmp_path: Path) -> None:
    def slightly_wrong(model: onnx.ModelProto) -> None:
        insert(model, "scores", ("Mul", {}), factor=np.float32([0.999]))

    report = staged(tiny, tiny.write(tmp_path / "m.onnx", slightly_wrong))
    assert report.models[0].passed
    report.check()
    assert only(report).conclusion.startswith("first stage that departs: scores (decode")


def half(model: onnx.ModelProto) -> None:
    for name in (logits_name(model.graph), offsets_name(model.graph)):
        assert name is not None
        insert(model, name, ("Cast", {"to": TensorProto.FLOAT16}), ("Cast", {"to": TensorProto.FLOAT}))


def quantised(model: onnx.ModelProto) -> None:
    for name, constants in (
        (logits_name(model.graph), {"logits_scale": np.float32(0.25), "logits_zero": np.int8(0)}),
        (offsets_name(model.graph), {"offsets_scale": np.float32(0.01), "offsets_zero": np.int8(0)}),
    ):
        assert name is not None
        values = {key: np.array(value) for key, value in constants.items()}
        insert(model, name, ("QuantizeLinear", {}), ("DequantizeLinear", {}), **values)


@pytest.mark.parametrize(("change", "precision"), [(half, "fp16"), (quantised, "int8")])
def test_head_outputs_of_other_precisions(tiny: Tiny, tmp_path: Path, change: Change, precision: str) -> None:
    model = tiny.write(tmp_path / "m.onnx", change, precision=precision)
    report = staged(tiny, model, max_drop=MaxDrop.parse("50%"))
    comparison = only(report)
    assert comparison.tolerance.precision == precision
    logits, offsets = (stage(comparison, name).difference for name in ("logits", "offsets"))
    assert logits is not None
    assert offsets is not None
    if precision == "int8":  # half a step of the quantisation is the most that rounding can do
        assert logits.max == pytest.approx(0.125, rel=0.1)
        assert offsets.max == pytest.approx(0.005, rel=0.1)
    else:
        assert 0 < logits.max < 0.02
    for name in ("boxes", "scores"):  # decoding itself is as exact as ever
        redecoded = stage(comparison, name).redecoded
        assert redecoded is not None
        assert redecoded < 1e-5


def test_a_tensor_that_leaves_the_network_in_half_is_read(tiny: Tiny, tmp_path: Path) -> None:
    """Two consumers with a cast each, as converters write it: the half tensor itself is what both come from."""

    def cast_at_each_consumer(model: onnx.ModelProto) -> None:
        name = offsets_name(model.graph)
        assert name is not None
        insert(model, name, ("Cast", {"to": TensorProto.FLOAT16}))
        consumers = [node for node in model.graph.node if f"{name}_after" in node.input]
        assert len(consumers) == 2
        for index, node in enumerate(consumers):
            place = list(model.graph.node).index(node)
            cast = helper.make_node("Cast", [f"{name}_after"], [f"float_{index}"], to=TensorProto.FLOAT)
            node.input[0] = f"float_{index}"
            model.graph.node.insert(place, cast)

    model = tiny.write(tmp_path / "m.onnx", cast_at_each_consumer, precision="fp16")
    assert offsets_name(onnx.load(model).graph) == f"{offsets_name(onnx.load(tiny.onnx).graph)}_after"
    offsets = stage(only(staged(tiny, model)), "offsets").difference
    assert offsets is not None
    assert 0 < offsets.max < 0.01


def test_a_quantised_tensor_with_two_readers_is_taken_before_it_is_quantised(tiny: Tiny, tmp_path: Path) -> None:
    name = offsets_name(onnx.load(tiny.onnx).graph)
    assert name is not None

    def quantise_once_and_read_twice(model: onnx.ModelProto) -> None:
        constants = {"scale": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
        insert(model, name, ("QuantizeLinear", {}), **constants)
        for index, node in enumerate([node for node in model.graph.node if f"{name}_after" in node.input]):
            place = list(model.graph.node).index(node)
            reader = helper.make_node("DequantizeLinear", [f"{name}_after", *constants], [f"float_{index}"])
            node.input[0] = f"float_{index}"
            model.graph.node.insert(place, reader)

    model = tiny.write(tmp_path / "m.onnx", quantise_once_and_read_twice, precision="int8")
    assert offsets_name(onnx.load(model).graph) == name
    assert stage(only(staged(tiny, model)), "offsets").departs is False


def test_an_error_of_decoding_does_not_hide_in_the_noise_of_int8(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "m.onnx", lambda model: wrong_default_boxes(model, by=0.001), precision="int8")
    comparison = only(staged(tiny, model))
    boxes = stage(comparison, "boxes")
    assert boxes.difference is not None
    assert not comparison.tolerance.departs("boxes", boxes.difference)
    assert boxes.redecoded == pytest.approx(0.001, rel=0.01)
    assert comparison.first is boxes
    assert "decode: boxes are not what the model's own offsets decode into" in comparison.conclusion


def test_nodes_out_of_order_are_followed(tiny: Tiny) -> None:
    model = onnx.load(tiny.onnx)
    expected = logits_name(model.graph), offsets_name(model.graph)
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert (logits_name(model.graph), offsets_name(model.graph)) == expected


def test_a_graph_without_head_outputs_says_so(fixed_model: Callable[..., Path], fixed_dataset: Path) -> None:
    from ssd_edge.data.readers import read_dataset

    reference, moved = fixed_model("a.onnx"), fixed_model("b.onnx", found=((0.2, 0.2, 0.8, 0.8), (0.25, 0.5, 1, 1)))
    report = parity(
        reference, [moved], read_dataset(fixed_dataset), max_drop=MaxDrop.parse("99%"), stages=True, progress=False
    )
    comparison = only(report)
    assert stage(comparison, "logits").departs is None
    assert "not available" in stage(comparison, "logits").found
    assert "b.onnx: its graph has no logits that can be told" in report.table()
    boxes = stage(comparison, "boxes").difference
    assert boxes is not None
    assert boxes.max == pytest.approx(0.075 * 64)  # 0.2 instead of 0.125, in pixels
    assert "graph or decode: offsets cannot be compared" in comparison.conclusion


class FakeEngine(Detector):
    """What an engine is to parity: boxes and scores, and a suffix that is not .onnx."""

    opened: list[FakeEngine]

    def __init__(self, inner: Detector) -> None:
        super().__init__(inner.card)
        self.inner = inner
        self.closed = False

    def infer(self, images_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.inner.infer(images_rgb)

    def _release(self) -> None:
        self.closed = True
        self.inner.close()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Lets `.engine` files be opened as the ONNX files that they are; those that were."""
    opened: list[FakeEngine] = []

    def open_it(path: Path, **options: Any) -> Detector:
        if path.suffix != ".engine":
            return open_detector(path, **options)
        from ssd_edge.runtime.backends.onnxruntime import OnnxDetector

        opened.append(FakeEngine(OnnxDetector(path, threads=1)))
        return opened[-1]

    monkeypatch.setattr("ssd_edge.parity.tapped_detector.open_detector", open_it)
    return opened


def test_an_engine_is_compared_from_its_boxes_on(tiny: Tiny, tmp_path: Path, engines: list[FakeEngine]) -> None:
    good = tiny.write(tmp_path / "good.engine", parent_sha256="0" * 64)
    noisy = tiny.write(tmp_path / "noisy.engine", noisy_weights("backbone"))
    report = staged(tiny, good, noisy)
    first, second = (model.comparison for model in report.models)
    assert first is not None
    assert second is not None
    assert first.conclusion == "no stage departs; logits, offsets could not be compared"
    assert "graph or decode: offsets cannot be compared" in second.conclusion
    assert "a .engine file gives boxes and scores only" in report.table()
    assert "another checkpoint" not in report.table()  # an engine's origin is its ONNX file
    assert [engine.closed for engine in engines] == [True, True]


def test_other_sizes_part_at_the_card(tiny: Tiny, fixed_model: Callable[..., Path]) -> None:
    other = fixed_model("other.onnx", class_names=("square", "disc"), category_ids=(1, 4), height=32, width=32)
    comparison = only(staged(tiny, other))
    assert comparison.first is not None
    assert comparison.first.name == "card"
    assert "height 32, not 64" in comparison.first.found
    assert stage(comparison, "boxes").departs is None
    assert "2 anchors, the reference" in stage(comparison, "boxes").found


def test_values_that_are_not_finite_depart(tiny: Tiny, tmp_path: Path) -> None:
    def overflow(model: onnx.ModelProto) -> None:
        name, values = weight(model, "regression_head")
        values[0] = np.nan
        set_initializer(model, name, values)

    report = staged(tiny, tiny.write(tmp_path / "nan.onnx", overflow), max_drop=MaxDrop.parse("99%"))
    comparison = only(report)
    assert comparison.first is not None
    assert comparison.first.name == "offsets"
    assert "values are not finite" in comparison.first.found
    assert "overflow" in comparison.conclusion
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_no_difference_at_all_is_json_too(tiny: Tiny) -> None:
    report = staged(tiny, tiny.onnx, reference=tiny.onnx)
    assert "∞" in report.table()
    text = report.to_json()
    figures = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    logits = figures["models"][0]["comparison"]["stages"][1]["difference"]
    assert (logits["max"], logits["snr_db"]) == (0, None)


def test_the_json_has_every_stage(tiny: Tiny, tmp_path: Path) -> None:
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    figures = json.loads(staged(tiny, tiny.onnx, broken).to_json())
    good, bad = (model["comparison"] for model in figures["models"])
    assert good["first_stage_that_departs"] is None
    assert bad["first_stage_that_departs"] == "boxes"
    boxes = next(stage for stage in bad["stages"] if stage["name"] == "boxes")
    assert set(boxes["difference"]) == {
        "values",
        "non_finite",
        "max",
        "mean",
        "p999",
        "max_scaled",
        "cosine",
        "snr_db",
    }
    assert boxes["redecoded"] > 1e-2
    assert good["tolerance"]["largest"] == 1e-4
    assert len(bad["worst_images"]) == 6  # all images there are, as fewer than eight
    assert "comparison" not in figures["reference"]


def test_each_network_runs_once_an_image(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd_edge.parity.tapped_detector import TappedDetector

    calls = []
    infer = TappedDetector.infer

    def counted(self: TappedDetector, images_rgb: NDArray[np.uint8]) -> Any:
        calls.append(len(images_rgb))
        return infer(self, images_rgb)

    monkeypatch.setattr(TappedDetector, "infer", counted)
    report = staged(tiny, tiny.onnx, tiny.onnx, images=4)
    assert calls == [1] * (4 * 3)
    assert report.images == 4


def test_only_the_worst_images_are_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ssd_edge.parity.stages.WORST", 2)
    broken = tiny.write(tmp_path / "broken.onnx", swapped_columns)
    worst = only(staged(tiny, broken)).worst
    assert len(worst) == 2
    assert worst[0].pairs.badness >= worst[1].pairs.badness > 0
    every = [image.pairs.badness for image in only_all(tiny, broken, monkeypatch)]
    assert [image.pairs.badness for image in worst] == sorted(every, reverse=True)[:2]


def only_all(tiny: Tiny, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    monkeypatch.setattr("ssd_edge.parity.stages.WORST", 100)
    return only(staged(tiny, model)).worst


def test_an_interruption_closes_every_model(
    tiny: Tiny, tmp_path: Path, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> NDArray[np.uint8]:
        raise KeyboardInterrupt

    monkeypatch.setattr(parity_run, "load_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        staged(tiny, tiny.write(tmp_path / "a.engine"), tiny.write(tmp_path / "b.engine"))
    assert [engine.closed for engine in engines] == [True, True]


def test_a_model_that_cannot_be_opened_closes_those_before_it(
    tiny: Tiny, tmp_path: Path, engines: list[FakeEngine]
) -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        staged(tiny, tiny.write(tmp_path / "a.engine"), tmp_path / "none.onnx")
    assert [engine.closed for engine in engines] == [True]


def test_an_onnx_file_without_a_card_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = onnx.load(tiny.onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ModelFileError, match=r"bare\.onnx has no model card"):
        staged(tiny, tmp_path / "bare.onnx")


def test_no_images_and_no_sense_are_refused(tiny: Tiny) -> None:
    empty = DetectionDataset("nothing", ("square",), (1,), ())
    with pytest.raises(DatasetError, match="nothing: no images to compare on"):
        parity(tiny.onnx, [tiny.onnx], empty, max_drop=MaxDrop.parse("1%"))
    with pytest.raises(UsageError, match="0 images to compare on"):
        staged(tiny, tiny.onnx, images=0)
    with pytest.raises(UsageError, match=r"score 1\.5"):
        staged(tiny, tiny.onnx, score=1.5)


def test_without_the_onnx_package_its_extra_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "ssd_edge.parity.taps_onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package onnx; .*\[export\]"):
        staged(tiny, tiny.onnx)
    parity(tiny.onnx, [tiny.onnx], tiny.dataset, max_drop=MaxDrop.parse("1%"), progress=False)  # mAP needs none
