"""One calibration from images to table; its reuse, its refusals, and the warning about another domain."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ssd_edge.bundled import bundled_model
from ssd_edge.calib import calibrate as calibrate_module
from ssd_edge.calib.calibrate import calibrate, calibrate_or_reuse, gather, graph_fingerprint, ranges_warning
from ssd_edge.calib.images import CalibrationImages
from ssd_edge.calib.table import CalibrationSettings, CalibrationTable
from ssd_edge.choices import METHODS
from ssd_edge.errors import DatasetError, ModelFileError
from tests.calib.miniature import SIDE, make_miniature, write_colours

SIZE = (SIDE, SIDE)
ARCHITECTURES = (
    "ssdlite320_mobilenet_v3_large",
    "ssdlite320_mobilenet_v3_large_full_tail",
    "ssd300_vgg16",
    "ssd300_resnet50",
    "ssd512_vgg16",
)
run = functools.partial(calibrate, size_hw=SIZE, threads=1, progress=False)


def test_hand_checked_ranges(tmp_path: Path) -> None:
    table = run(make_miniature(), write_colours(tmp_path, [(255, 51, 102), (51, 102, 255)]))
    assert (table.images, table.settings) == (2, CalibrationSettings())
    expected = {
        "normal": (0, 1),
        "conv": (-0.2, 1),  # red − green is 0.8 and −0.2, blue 0.4 and 1
        "features": (0, 1),
        "head_out": (-2, 0.8),
        "logits": (-2, 0.8),
    }
    for tensor, pair in expected.items():
        assert table.range_of(tensor, "minmax") == pytest.approx(pair), tensor
    # The first image gives −0.8 to 0.8, the second −2 to 0.
    assert table.range_of("head_out", "moving_average") == pytest.approx((-0.8 - 0.1 * 1.2, 0.8 - 0.1 * 0.8))


def test_only_the_asked_tensors(tmp_path: Path) -> None:
    table = run(make_miniature(), write_colours(tmp_path, [(1, 2, 3), (4, 5, 6)]), tensors=["scores", "conv"])
    assert list(table.ranges) == ["conv", "scores"]
    assert table.range_of("scores", "minmax")[1] <= 1


def test_a_tensor_that_is_always_zero(tmp_path: Path) -> None:
    table = run(make_miniature(), write_colours(tmp_path, [(0, 0, 0), (0, 0, 0)]))
    assert all(table.range_of("features", method) == (0, 0.01) for method in METHODS)


def test_a_calibration_is_reproducible(tmp_path: Path) -> None:
    images = write_colours(tmp_path, [(255, 51, 102), (51, 102, 255), (7, 8, 9)])
    assert run(make_miniature(), images) == run(make_miniature(), images)


def test_statistics_are_those_of_all_activations_at_once(tmp_path: Path) -> None:
    colours = [(255, 51, 102), (51, 102, 255), (7, 8, 9)]
    paths = write_colours(tmp_path, colours)
    found = gather(make_miniature(), paths, ["conv"], size_hw=SIZE, threads=1, progress=False)["conv"]
    values = np.array([[(r - g) / 255, b / 255] for r, g, b in colours], np.float32)
    assert found.count == 3 * 2 * SIDE * SIDE
    assert (found.minimum, found.maximum) == pytest.approx((values.min(), values.max()))
    assert found.density().sum() == found.count


def test_nan_is_named_by_layer_and_image(tmp_path: Path) -> None:
    model = make_miniature()
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.full((2, 2, 1, 1), 3e38, np.float32), "head"))
    images = write_colours(tmp_path, [(0, 0, 0), (255, 0, 255)])  # infinite for the second one alone
    for tensors in (None, ["logits"]):  # the layer is the first of the graph, not of the tensors asked for
        with pytest.raises(ModelFileError) as error:
            run(model, images, tensors=tensors)
        assert "colour1.png" in str(error.value)
        assert "Conv 'head' (tensor 'head_out') gives infinity" in str(error.value)
        assert "diverged" in str(error.value)


def test_no_image_one_image_and_a_broken_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DatasetError, match="no images to calibrate on"):
        run(make_miniature(), [])
    images = write_colours(tmp_path, [(1, 2, 3)])
    assert run(make_miniature(), images).images == 1
    assert "ranges of one image" in caplog.text
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"cannot decode image .*broken\.png"):
        run(make_miniature(), [*images, tmp_path / "broken.png"])


def test_the_model_is_not_changed(tmp_path: Path) -> None:
    model = make_miniature()
    before = model.SerializeToString()
    run(model, write_colours(tmp_path, [(1, 2, 3), (4, 5, 6)]))
    assert model.SerializeToString() == before


def test_the_graphs_fingerprint_is_of_operators_and_weights() -> None:
    model = make_miniature()
    fingerprint = graph_fingerprint(model)
    onnx.helper.set_model_props(model, {"card": "another"})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "documented"
    model.graph.node[0].attribute[0].doc_string = "documented"
    model.graph.node[0].name = "renamed"
    model.producer_version = "9"
    model.graph.name = "another"
    for tensor in model.graph.initializer:  # as another library may store them
        if tensor.name == "head":
            values = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)
    weights = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights[::-1])
    inferred = onnx.shape_inference.infer_shapes(model)
    assert graph_fingerprint(model) == graph_fingerprint(inferred) == fingerprint


def changed(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    if what == "weight":
        head = next(tensor for tensor in model.graph.initializer if tensor.name == "head")
        head.CopyFrom(numpy_helper.from_array(np.array([1, 0, 0, -2.0000002], np.float32).reshape(2, 2, 1, 1), "head"))
    elif what == "operator":
        model.graph.node[4].op_type = "Sigmoid"
    elif what == "attribute":
        model.graph.node[1].attribute[0].ints[:] = [0, 3, 2, 1]
    elif what == "connection":
        model.graph.node[5].input[0] = "conv"
    elif what == "opset":
        model.opset_import[0].version = 17
    return model


@pytest.mark.parametrize("what", ["weight", "operator", "attribute", "connection", "opset"])
def test_the_graphs_fingerprint_changes_with(what: str) -> None:
    assert graph_fingerprint(changed(make_miniature(), what)) != graph_fingerprint(make_miniature())


def test_weights_in_another_file_are_refused() -> None:
    model = make_miniature()
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match="weight std lies in another file"):
        graph_fingerprint(model)


def test_a_table_is_reused_while_everything_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "table.json", make_miniature()
    images = CalibrationImages(tuple(write_colours(tmp_path, [(255, 51, 102), (51, 102, 255)])))
    reuse = functools.partial(calibrate_or_reuse, size_hw=SIZE, threads=1, progress=False)
    table = reuse(path, model, images)
    assert CalibrationTable.load(path) == table
    with monkeypatch.context() as patch:
        patch.setattr(calibrate_module, "gather", None)  # a second calibration would call it
        assert reuse(path, model, images) == table
        assert reuse(path, model, images, tensors=["conv"]) == table
    written = path.read_bytes()
    refusals: list[tuple[str, dict[str, object]]] = [
        ("of another model", {"model": make_miniature(scale=2)}),
        ("from other images", {"images": CalibrationImages(images.paths[::-1])}),
        ("with other settings .seed 0, not 5.", {"settings": CalibrationSettings(seed=5)}),
        ("none of 'scores'", {"tensors": ["scores"]}),
    ]
    for reason, changes in refusals:
        with pytest.raises(ModelFileError, match=reason) as error:
            reuse(**{"path": path, "model": model, "images": images, **changes})
        assert str(path) in str(error.value)
    assert path.read_bytes() == written


def test_an_interrupted_calibration_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = CalibrationImages(tuple(write_colours(tmp_path, [(1, 2, 3), (4, 5, 6)])))

    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate_module, "load_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate_or_reuse(tmp_path / "new" / "table.json", make_miniature(), images, size_hw=SIZE, progress=False)
    assert not (tmp_path / "new").exists()


def warning_for(model: onnx.ModelProto, calibrated: Sequence[Path], seen: Sequence[Path]) -> str | None:
    table = run(model, calibrated)
    return ranges_warning(table, model, seen, size_hw=SIZE, threads=1, progress=False)


def test_images_of_the_same_kind_give_no_warning(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first = write_colours(tmp_path, [(200, 50, 120), (210, 60, 110), (190, 55, 100)])
    second = write_colours(tmp_path / "b", [(205, 60, 115), (220, 50, 125), (180, 40, 105)])
    assert warning_for(make_miniature(), first, second) is None


def test_images_of_another_domain_give_a_warning(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    dark = write_colours(tmp_path, [(20, 5, 12), (21, 6, 11)])
    light = write_colours(tmp_path / "b", [(200, 50, 120), (210, 60, 110)])
    warning = warning_for(make_miniature(), dark, light)
    assert warning is not None
    assert "another domain than the 2 validation images" in warning
    assert "of 7 tensors, 7 usually reach more than 1.5 times as far there and are clipped, and 0 less" in warning
    assert "the first is 'float' (10.00 times)" in warning  # (200 + 0.1 · 10) / (20 + 0.1 · 1)
    other_way = warning_for(make_miniature(), light, dark)
    assert other_way is not None
    assert "0 usually reach more than 1.5 times as far there and are clipped, and 7 less" in other_way


def test_a_warning_needs_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no validation images"):
        warning_for(make_miniature(), write_colours(tmp_path, [(1, 2, 3), (3, 2, 1)]), [])


def test_the_bundled_model(tmp_path: Path) -> None:
    check_ranges(onnx.load(bundled_model()), (320, 320), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture(arch: str, export_once: Callable[[str], Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = onnx.load(export_once(arch).path)
    _, height, width, _ = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    check_ranges(model, (height, width), tmp_path)


def check_ranges(model: onnx.ModelProto, size_hw: tuple[int, int], folder: Path) -> None:
    """All that Q/DQ may be put at has a range, what decodes boxes has none."""
    images = write_colours(folder, [(200, 50, 120), (20, 60, 110)])
    settings = CalibrationSettings(bins=512)
    table = calibrate(model, images, size_hw=size_hw, settings=settings, threads=1, progress=False)
    nodes = model.graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    needed = {name for node in convolutions for name in (node.input[0], node.output[0])}
    for operator in ("MaxPool", "ReduceMean", "HardSigmoid", "HardSwish", "Relu"):
        needed |= {node.output[0] for node in nodes if node.op_type == operator}
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    needed.add(softmax.input[0])  # the class logits of all levels, joined
    assert needed <= set(table.ranges)
    assert not {"boxes", "scores", softmax.output[0]} & set(table.ranges)
