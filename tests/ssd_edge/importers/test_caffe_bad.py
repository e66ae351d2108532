"""Files of Caffe that cannot be taken in are refused with what is wrong and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd_edge.errors import ModelFileError
from ssd_edge.importers import caffe_schema
from ssd_edge.importers.caffe import Caffe
from ssd_edge.importers.caffe_schema import NetParameter
from ssd_edge.importers.family import Facts, Files
from tests.ssd_edge.importers.caffe_networks import VGG_OUTPUT, fill_weights, small


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    prototxt, caffemodel = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(small(), encoding="utf-8")
    fill_weights(prototxt, caffemodel)
    return prototxt, caffemodel


def refused(match: str, *paths: Path) -> None:
    with pytest.raises(ModelFileError, match=match):
        Caffe().open(Files(paths, Facts()))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('type: "ReLU6"', 'type: "Deconvolution"', "'relu2a' is a Deconvolution; known are BatchNorm, Concat"),
        ('type: "DetectionOutput"', 'type: "Silence"', "no DetectionOutput layer; expected the deploy.prototxt"),
        ('bottom: "sum"', 'bottom: "nothing"', "reads 'nothing', which no earlier layer makes"),
        ('name: "conv4"', 'name: "sum"', "two layers have the name 'sum'"),
        ("dim: 96 dim: 160", "dim: 96 dim: 9000000", "images of 9000000×96 pixels"),
        ("dim: 96 dim: 160", "dim: 8192 dim: 8192", "default boxes; expected up to"),
        ("dim: 3 dim: 96", "dim: 1 dim: 96", "expected .1, 3, rows, columns"),
        ("input_shape { dim: 1 dim: 3 dim: 96 dim: 160 }", "", r"the input has the shape \[\]"),
        ("num_output: 32 ", "num_output: 4000000000 ", "have the shapes"),
        ("num_output: 24 ", "num_output: 20 ", "belongs to another prototxt"),
        ("kernel_size: 5 ", "", "does not fit together"),
        ("kernel_size: 5 ", "kernel_size: [5, 5, 5] ", "3 numbers as kernel_size"),
        ("num_classes: 4 ", "num_classes: 2 ", "Softmax over the 2 classes"),
        ("softmax_param { axis: 2 }", "", "Softmax over the 4 classes"),
        ('type: "Softmax"', 'type: "Power"', "without a Softmax or Sigmoid"),
        ("code_type: CENTER_SIZE", "", "code_type is not CENTER_SIZE"),
        ("code_type: CENTER_SIZE", "code_type: OTHER", "not a readable prototxt"),
        ("share_location: true", "share_location: false", "share_location is false"),
        ("background_label_id: 0", "background_label_id: -1", "background_label_id is no class"),
        ("top_k: 400", "eta: 0.9", "eta other than 1"),
        ("order: 2 order: 3 order: 1", "order: 3 order: 2 order: 1", "another order than channels last"),
        ("min_size: 20", "min_size: -1", "a size that is not positive"),
        ("min_size: 20", "min_size: [20, 30]", "2 min_size and 1 max_size"),
        ("aspect_ratio: 2 ", "aspect_ratio: 2 step_h: 8 step_w: 9 ", "steps of 9 pixels horizontally"),
        ("aspect_ratio: 2 ", "aspect_ratio: 5 aspect_ratio: 2 ", "correct num_output, num_classes or the PriorBox"),
        ("variance: [0.1, 0.1, 0.2, 0.2]", "variance: [0.1, 0.2]", "variances"),
        ("clip: false", "clip: true", "PriorBoxes with clip"),
        ("across_spatial: false", "across_spatial: true", "a Normalize across positions"),
        ("pool: AVE", "pool: STOCHASTIC", "a Pooling of another kind"),
        ('bottom: "norm" top: "norm_mbox_loc"', 'bottom: "pool1" top: "norm_mbox_loc"', "not made of one feature map"),
    ],
)
def test_a_prototxt_that_is_no_ssd_of_ours(old: str, new: str, match: str, files: tuple[Path, Path]) -> None:
    text = files[0].read_text()
    assert old in text
    files[0].write_text(text.replace(old, new, 1))
    refused(match, *files)


def test_the_sum_of_different_maps(files: tuple[Path, Path]) -> None:
    text = files[0].read_text().replace('name: "conv2a"', 'name: "conv2a"', 1)
    files[0].write_text(text.replace("num_output: 16 kernel_size: 3 pad: 1", "num_output: 16 kernel_size: 3 pad: 0"))
    refused("does not run on images of 160×96 pixels", *files)


@pytest.mark.parametrize("kept", [0, 1, 0.3, 0.99])
def test_a_truncated_caffemodel(kept: float, files: tuple[Path, Path]) -> None:
    data = files[1].read_bytes()
    files[1].write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    refused("caffemodel|has no layers", *files)


def test_a_truncated_prototxt(files: tuple[Path, Path]) -> None:
    text = files[0].read_text()
    files[0].write_text(text[: len(text) // 2])
    refused("not a readable prototxt", *files)


def test_a_prototxt_of_a_million_braces(files: tuple[Path, Path]) -> None:
    files[0].write_text("x {" * 100_000)
    refused("not a readable prototxt", *files)


def test_files_that_are_too_large_are_not_read(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caffe_schema, "LARGEST_WEIGHTS", 1000)
    refused("expected a caffemodel of 1 to 1000 bytes", *files)
    monkeypatch.setattr(caffe_schema, "LARGEST_TEXT", 1000)
    refused("expected a prototxt of 1 to 1000 bytes", *files)


def test_one_file_of_two(files: tuple[Path, Path]) -> None:
    for path in files:
        refused("comes as two files", path)
    refused("comes as two files", *files, files[1])


def test_weights_of_another_network(files: tuple[Path, Path]) -> None:
    other = NetParameter()
    other.layer.add(name="res2a", type="Convolution").blobs.add().shape.dim.append(0)
    files[1].write_bytes(other.SerializeToString())
    refused("of another network, with layers such as res2a", *files)


def test_a_layer_without_weights_is_named(files: tuple[Path, Path]) -> None:
    net = NetParameter()
    net.ParseFromString(files[1].read_bytes())
    net.layer.remove(next(layer for layer in net.layer if layer.name == "conv4"))
    files[1].write_bytes(net.SerializeToString())
    refused(r"no weights for 1 of the \d+ layers .*\(conv4\)", *files)


def test_a_blob_that_does_not_fit_its_shape(files: tuple[Path, Path]) -> None:
    net = NetParameter()
    net.ParseFromString(files[1].read_bytes())
    net.layer[0].blobs[0].shape.dim[0] = 1 << 40
    files[1].write_bytes(net.SerializeToString())
    refused("but 1200 values; the file is damaged", *files)


def test_the_old_format(files: tuple[Path, Path]) -> None:
    files[0].write_text('layers { name: "conv1" type: CONVOLUTION }')
    refused("Caffe's old format", *files)


def test_other_files_are_of_another_family(tmp_path: Path) -> None:
    other = tmp_path / "model.pth"
    other.write_bytes(b"PK")
    assert Caffe().open(Files([other], Facts())) is None


def test_a_prototxt_is_known_without_its_suffix(files: tuple[Path, Path]) -> None:
    renamed = files[0].rename(files[0].with_suffix(".prototxt.txt"))
    assert Caffe().open(Files([files[1], renamed], Facts(class_names=None))) is not None
    assert VGG_OUTPUT in renamed.read_text()
