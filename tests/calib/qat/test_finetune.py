"""Fake quantisation rounds as the int8 graph does, and fine-tuning under it gives an ordinary, better checkpoint."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.models.resnet import Bottleneck

from ssd_edge.calib.placement import cpu as placement_cpu
from ssd_edge.calib.placement import tensorrt as placement_tensorrt
from ssd_edge.calib.qat.fake_quant import (
    HARDSWISH_END,
    SCHEMES,
    ActivationFakeQuant,
    FakeQuantization,
    Scheme,
    WeightFakeQuant,
)
from ssd_edge.calib.qat.finetune import quantization_aware_finetune, scores_of, with_classes_of
from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges
from ssd_edge.card import file_sha256
from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.data.augment import EvalTransform
from ssd_edge.data.dataset import DetectionDataset, ImageRecord
from ssd_edge.data.samples import ImageSamples, collate
from ssd_edge.errors import DatasetError, ModelFileError, SinkError, SsdEdgeError, UsageError
from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.create import create_model
from ssd_edge.models.default_boxes import DefaultBoxConfig, linear_scales
from ssd_edge.models.head import ssd_head
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.ssd import SSD, SSDConfig
from ssd_edge.training.config import TrainConfig
from ssd_edge.training.run import train_on
from ssd_edge.training.trainer import Run

ARCH = "tiny_residual"
SYMMETRIC, ASYMMETRIC = SCHEMES["tensorrt"], replace(SCHEMES["tensorrt"], symmetric=False)


class ResidualFeatures(Backbone):
    """One feature map of a 64×64 image, 8 cells wide, behind a residual block of each kind."""

    channels = (16,)

    def __init__(self) -> None:
        super().__init__()
        mobile = InvertedResidualConfig(16, 3, 32, 16, True, "HS", 1, 1, 1.0)
        shortcut = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 9, stride=8, padding=4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            InvertedResidual(mobile, nn.BatchNorm2d),
            Bottleneck(16, 4, downsample=shortcut),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]


def _register() -> None:
    config = SSDConfig(
        arch=ARCH,
        size_hw=(64, 64),
        default_boxes=DefaultBoxConfig(aspect_ratios=((2,),), scales=linear_scales(0.4, 0.6, levels=1)),
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        score_threshold=0.01,
        nms_iou=0.5,
        candidates=50,
        detections=20,
    )
    register_architecture(Architecture(config, backbone=ResidualFeatures, head=ssd_head))


_register()


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Grey images with one lighter square each, of two sizes: two classes."""
    folder = tmp_path_factory.mktemp("squares")
    random = np.random.default_rng(0)
    records = []
    for number in range(16):
        side, label = ((24, 0), (40, 1))[number % 2]
        x, y = (int(v) for v in random.integers(0, 64 - side, 2))
        image = np.full((64, 64, 3), 60, np.uint8)
        image[y : y + side, x : x + side] = 200
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image)
        box = np.array([[x, y, x + side, y + side]], np.float32)
        area = np.array([side * side], np.float32)
        records.append(ImageRecord(path, number, (64, 64), box, np.array([label]), area, np.zeros(1, bool)))
    return DetectionDataset("squares", ("small", "large"), (3, 7), tuple(records))


@pytest.fixture(scope="module")
def trained(squares: DetectionDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learnt the squares."""
    config = TrainConfig(
        "squares",
        tmp_path_factory.mktemp("run"),
        ARCH,
        epochs=30,
        eval_every=30,
        batch=4,
        workers=0,
        threads=1,
        device="cpu",
        amp=False,
        augment=False,
        default_boxes="own",
    )
    return train_on(squares, squares, config)


def finetune(trained: Path, output: Path, data: DetectionDataset, **changes: object) -> Path:
    settings = {
        "val": None,
        "epochs": 1,
        "target": "tensorrt",
        "batch": 4,
        "workers": 0,
        "threads": 1,
        "device": "cpu",
        "progress": False,
    } | changes
    return quantization_aware_finetune(trained, output, data=data, **settings)  # type: ignore[arg-type]


def loss_under(scheme: Scheme, model: SSD, data: DetectionDataset) -> float:
    """The loss on all images under fake quantisation with ranges of these images."""
    samples = ImageSamples(data, EvalTransform((64, 64)), seed=0)
    batch = collate([samples[0, i] for i in range(len(data))])
    assert not isinstance(batch, DatasetError)
    images, boxes, labels = batch
    quantization = FakeQuantization(model.eval(), scheme)
    quantization.calibrate([images.float()])
    with torch.no_grad():
        raw = model(images.float())
    quantization.remove()
    targets = Targets.pad(boxes, labels)
    return multibox_loss(raw.cls_logits, raw.bbox_regression, model.default_boxes_xyxy, targets).total.item()


def test_weights_have_one_scale_an_output_channel() -> None:
    weight = torch.tensor([[1.27, -0.5049, 0.0051, 0.0049], [-0.127, 0.0, 0.0014, 0.0016], [0.0, 0.0, 0.0, 0.0]])
    rounded = WeightFakeQuant(SYMMETRIC)(weight[:, :, None, None])[:, :, 0, 0]
    expected = [[1.27, -0.5, 0.01, 0.0], [-0.127, 0.0, 0.001, 0.002], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(rounded, torch.tensor(expected))


def test_the_cpu_has_weights_of_seven_bits() -> None:
    weight = torch.tensor([0.64, 0.013, -0.64]).view(1, 3, 1, 1)
    rounded = WeightFakeQuant(SCHEMES["cpu"])(weight).flatten()
    torch.testing.assert_close(rounded, torch.tensor([0.64, 0.01, -0.64]))


def test_schemes_are_those_of_the_graphs() -> None:
    assert SCHEMES["cpu"].largest_weight == placement_cpu.WEIGHT_LIMIT
    assert SCHEMES["tensorrt"].largest_weight == placement_tensorrt.LIMIT
    assert HARDSWISH_END == placement_cpu.HARDSWISH_END


@pytest.mark.parametrize(
    ("scheme", "low_high", "values", "expected"),
    [
        # 255 steps of 0.01 from -1 to 1.55
        (ASYMMETRIC, (-1.0, 1.55), (-3.0, 0.004, 0.006, 1.5449, 2.0), (-1.0, 0.0, 0.01, 1.54, 1.55)),
        # steps of 1.27 / 127; one more below zero than above
        (SYMMETRIC, (-0.5, 1.27), (-3.0, 0.004, 0.006, 1.2649, 2.0), (-1.28, 0.0, 0.01, 1.26, 1.27)),
        # zero is always a level, also where the range begins above it
        (ASYMMETRIC, (1.0, 2.55), (0.0, 0.5, 2.6), (0.0, 0.5, 2.55)),
        (ASYMMETRIC, (0.0, 0.0), (0.0,), (0.0,)),
        # 16 levels, 0.1 apart
        (replace(ASYMMETRIC, bits=4), (-0.5, 1.0), (-0.44, 0.26, 1.2), (-0.4, 0.3, 1.0)),
    ],
)
def test_activations_round_to_levels(
    scheme: Scheme, low_high: tuple[float, float], values: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    quantiser = ActivationFakeQuant(scheme)
    quantiser.set_range(*low_high)
    torch.testing.assert_close(quantiser(torch.tensor(values)), torch.tensor(expected))


def test_gradients_pass_within_the_range_alone() -> None:
    quantiser = ActivationFakeQuant(ASYMMETRIC)
    quantiser.set_range(-1.0, 1.55)
    x = torch.tensor([-3.0, 0.004, 1.5, 2.0], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_a_range_is_the_mean_over_batches() -> None:
    quantiser = ActivationFakeQuant(ASYMMETRIC)
    quantiser.enabled = False
    for batch in ([-1.0, 2.0], [-3.0, 0.0], [-2.0, 4.0]):
        quantiser(torch.tensor(batch))
    assert quantiser.range == pytest.approx((-2.0, 2.0))


def test_rounding_before_folding_is_rounding_after_it() -> None:
    """What is deployed has batch norm folded in, also with scales below zero."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.1, 3.0)  # type: ignore[arg-type]
    assert (norm.weight < 0).any()
    folded = fuse_conv_bn_eval(conv.eval(), norm)
    step = folded.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    deployed = (folded.weight.detach() / step).round() * step
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None, None, None]  # type: ignore[operator]
    torch.testing.assert_close(WeightFakeQuant(SYMMETRIC)(conv.weight).detach() * scale, deployed)


def test_where_fake_quantisation_is() -> None:
    quantization = FakeQuantization(create_model(ARCH, 2), SYMMETRIC)
    mobile, bottleneck = "backbone.layers.1.block", "backbone.layers.2"
    assert list(quantization.quantisers) == [
        "backbone.layers.0.0",
        f"{mobile}.0.0",
        f"{mobile}.1.0",
        f"{mobile}.2.fc1",
        f"{mobile}.2.fc2",
        f"{mobile}.3.0",
        f"{bottleneck}.conv1",
        f"{bottleneck}.conv2",
        f"{bottleneck}.conv3",
        f"{bottleneck}.downsample.0",
        "head.classification_head.module_list.0",
        "head.regression_head.module_list.0",
        f"{bottleneck}.downsample.0:output",  # the residual input of the addition; no branch's output
    ]


def test_layers_of_the_graph_that_are_float_stay_float() -> None:
    model = create_model(ARCH, 2)
    quantization = FakeQuantization(model, SYMMETRIC, float_layers={"backbone.layers.2.conv3"})
    # A sum fuses into the convolution of the branch; where that is float, so is the residual input.
    missing = {"backbone.layers.2.conv3", "backbone.layers.2.downsample.0:output"}
    all_of_them = FakeQuantization(create_model(ARCH, 2), SYMMETRIC).quantisers.keys()
    assert quantization.quantisers.keys() == all_of_them - missing
    assert not hasattr(model.get_submodule("backbone.layers.2.conv3"), "parametrizations")
    assert hasattr(model.get_submodule("backbone.layers.2.conv2"), "parametrizations")
    quantization.set_ranges({"backbone.layers.2.conv3": (0.0, 1.0)})  # of a table that has it
    assert "backbone.layers.2.conv3" not in quantization.ranges


def test_the_cpu_rounds_outputs_too() -> None:
    model = create_model("ssdlite320_mobilenet_v3_large", 2)
    quantisers = FakeQuantization(model, SCHEMES["cpu"]).quantisers
    outputs = {name for name in quantisers if name.endswith(":output")}
    assert "backbone.features.0.4.block.2.fc2:output" in outputs
    assert "backbone.features.0.4.block.2.fc1:output" not in outputs  # a ReLU follows
    assert {name for name in outputs if name.startswith("head")} == {
        f"head.{kind}_head.module_list.{level}.1:output"
        for kind in ("classification", "regression")
        for level in range(6)
    }
    # Before a hardswish: 60 levels of 0.05 below zero, 195 above
    quantisers["backbone.features.0.13.0:output"].set_range(-20.0, 9.75)
    x = torch.tensor([-8.0, -3.0, 0.024, 0.026, 9.8])
    rounded = quantisers["backbone.features.0.13.0:output"](x)
    torch.testing.assert_close(rounded, torch.tensor([-3.0, -3.0, 0.0, 0.05, 9.75]))


def test_removed_it_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = create_model(ARCH, 2).eval()
    images = torch.rand(2, 3, 64, 64) * 255
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [name for name, _ in model.named_modules()]
    with torch.no_grad():
        before = model(images).cls_logits
        quantization = FakeQuantization(model, SYMMETRIC)
        quantization.calibrate([images])
        assert not torch.equal(model(images).cls_logits, before)
        quantization.remove()
        assert torch.equal(model(images).cls_logits, before)
    assert [name for name, _ in model.named_modules()] == modules
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_given_ranges_are_kept_and_the_others_measured() -> None:
    model = create_model(ARCH, 2)
    quantization = FakeQuantization(model, SYMMETRIC)
    quantization.set_ranges({"backbone.layers.2.conv2": (-5.0, 7.0)})
    quantization.calibrate([torch.rand(2, 3, 64, 64) * 255])
    assert quantization.ranges["backbone.layers.2.conv2"] == (-5.0, 7.0)
    assert quantization.ranges["backbone.layers.0.0"] == pytest.approx((-1.0, 1.0), abs=0.01)
    assert quantization.ranges.keys() == quantization.quantisers.keys()


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"relu_3": (0.0, 1.0)}, "the model has no convolution relu_3; it has backbone"),
        ({"backbone.layers.0.0": (0.0, float("nan"))}, r"the range of backbone\.layers\.0\.0 is 0\.0 to nan"),
        ({"backbone.layers.0.0": (1.0, 0.0)}, "two finite numbers in order"),
    ],
)
def test_ranges_that_do_not_fit(ranges: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FakeQuantization(create_model(ARCH, 2), SYMMETRIC).set_ranges(ranges)


def test_the_layer_with_nan_is_named() -> None:
    model = create_model(ARCH, 2)
    model.get_parameter("backbone.layers.2.conv1.weight").data.fill_(torch.nan)
    quantization = FakeQuantization(model, SYMMETRIC)
    with pytest.raises(SsdEdgeError, match=r"the input of backbone\.layers\.2\.conv2 is not finite"):
        quantization.calibrate([torch.rand(2, 3, 64, 64) * 255])


def graph_of(*nodes: NodeProto) -> ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 1])
    return helper.make_model(helper.make_graph(nodes, "graph", [value], [value]))


# The first convolution's output goes into an addition alone, what follows that into the second.
FP32 = (
    helper.make_node("Conv", ["x", "model.backbone.a.weight"], ["a"]),
    helper.make_node("Add", ["a", "x"], ["sum"]),
    helper.make_node("Conv", ["sum", "model.head.b.weight"], ["b"]),
    helper.make_node("Conv", ["b", "other"], ["c"]),
)


def test_ranges_of_an_onnx_file_find_their_layers() -> None:
    tensors = {"x": (-1.0, 1.0), "a": (0.0, 2.0), "sum": (-1.0, 3.0), "b": (0.0, 4.0), "c": (0.0, 5.0)}
    found = module_ranges(graph_of(*FP32), tensors)
    assert found == {
        "backbone.a": (-1.0, 1.0),
        "backbone.a:output": (0.0, 2.0),
        "head.b": (-1.0, 3.0),
        "head.b:output": (0.0, 4.0),
    }


def test_layers_that_an_int8_file_leaves_float() -> None:
    int8 = graph_of(
        helper.make_node("DequantizeLinear", ["a_int8", "a_scale"], ["a_float"]),
        helper.make_node("Conv", ["x", "a_float"], ["a"]),
        *FP32[1:],
    )
    assert float_layers(graph_of(*FP32), int8) == {"head.b"}


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_the_loss_under_quantisation_falls(
    trained: Path, squares: DetectionDataset, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At four bits, where rounding hurts; and it falls more than by the same training at eight."""
    monkeypatch.setattr("ssd_edge.training.trainer.transform_of", lambda *_: EvalTransform((64, 64)))
    scheme = replace(SCHEMES[target], bits=4)
    before = loss_under(scheme, model_from_checkpoint(trained)[0], squares)
    assert before > 1.2 * loss_under(SCHEMES[target], model_from_checkpoint(trained)[0], squares)
    after = {}
    for bits in (4, 8):
        losses = []
        for seed in range(4):  # one alone varies with the order of images, and of additions from processor to processor
            output = tmp_path / f"{bits}_{seed}.pt"
            tuned = finetune(trained, output, squares, epochs=6, bits=bits, target=target, lr=3e-4, seed=seed)
            losses.append(loss_under(scheme, model_from_checkpoint(tuned)[0], squares))
        after[bits] = np.mean(losses)
    assert after[4] < 0.85 * before
    assert after[4] < 0.92 * after[8]


def test_the_result_is_an_ordinary_checkpoint(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = finetune(trained, tmp_path / "new" / "qat.pt", squares, val=squares, epochs=2)
    before, after = load_checkpoint(trained), load_checkpoint(output)
    assert after.state_dict.keys() == before.state_dict.keys()
    names = [f"{prefix}_{name}" for prefix in ("val", "val_int8") for name in ("AP", "AP50", "AP75")]
    assert sorted(after.card.metrics) == sorted(names)
    assert after.card.parent_sha256 == file_sha256(trained)
    assert after.card == replace(
        before.card,
        parent_sha256=after.card.parent_sha256,
        metrics=after.card.metrics,
        training_data=squares.fingerprint(),
    )
    model, card = model_from_checkpoint(output)
    assert scores_of(model, card, squares, progress=False)["AP"] == card.metrics["val_AP"]
    moved = {name for name, value in before.state_dict.items() if not torch.equal(value, after.state_dict[name])}
    assert "backbone.layers.2.bn3.bias" in moved
    assert "backbone.layers.0.0.weight" in moved
    frozen = ("bn3.weight", "running_mean", "running_var", "num_batches_tracked")
    assert not [name for name in moved if name.endswith(frozen)]
    assert os.listdir(output.parent) == ["qat.pt"]


def test_safetensors_and_no_evaluation(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = finetune(trained, tmp_path / "qat.safetensors", squares)
    assert load_checkpoint(output).card.metrics == {}


def test_same_seed_same_weights(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    states = [load_checkpoint(finetune(trained, tmp_path / f"{i}.pt", squares)).state_dict for i in range(2)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_the_best_epoch_is_kept(
    trained: Path,
    squares: DetectionDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # before training, after each of three epochs, and of the float weights at the end
    scores = iter([0.9, 0.3, 0.5, 0.4, 0.6])
    monkeypatch.setattr(
        "ssd_edge.calib.qat.finetune.scores_of", lambda *_: dict.fromkeys(("AP", "AP50", "AP75"), next(scores))
    )
    metrics = load_checkpoint(finetune(trained, tmp_path / "qat.pt", squares, val=squares, epochs=3)).card.metrics
    assert (metrics["val_int8_AP"], metrics["val_AP"]) == (0.5, 0.6)
    assert "did not help: AP under fake quantisation was 0.9000 before and is 0.5000 at best" in caplog.text


def test_labels_follow_the_order_of_the_card(trained: Path, squares: DetectionDataset) -> None:
    card = load_checkpoint(trained).card
    swapped = replace(
        squares,
        class_names=("large", "small"),
        category_ids=(7, 3),
        records=tuple(replace(record, labels=1 - record.labels) for record in squares.records),
    )
    back = with_classes_of(card, swapped)
    assert (back.class_names, back.category_ids) == (("small", "large"), (3, 7))
    assert [record.labels.tolist() for record in back.records] == [record.labels.tolist() for record in squares.records]


def nothing_is_left(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "openvino"}, "unknown target 'openvino'; there are tensorrt, cpu"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"lr": -1.0}, "lr is -1.0; expected a positive number"),
        ({"bits": 1}, "1 bits; expected 2 to 8"),
        ({"ranges": {"relu": (0.0, 1.0)}}, "no convolution relu"),
        ({"float_layers": ["head"]}, "no convolution head"),
        ({"device": "npu"}, "--device npu"),
    ],
)
def test_wrong_usage(
    trained: Path, squares: DetectionDataset, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(trained, tmp_path / "qat.pt", squares, **changes)
    assert nothing_is_left(tmp_path)


def test_wrong_outputs(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in neither \.pt nor \.safetensors"):
        finetune(trained, tmp_path / "qat.onnx", squares)
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        finetune(trained, trained, squares)
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        finetune(trained, tmp_path / "file" / "qat.pt", squares)
    with pytest.raises(ModelFileError, match="no checkpoint at"):
        finetune(tmp_path / "absent.pt", tmp_path / "qat.pt", squares)


def test_data_that_does_not_fit(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    output = tmp_path / "qat.pt"
    other = replace(squares, class_names=("small", "round"))
    with pytest.raises(DatasetError, match="squares has the classes small, round, the checkpoint small, large"):
        finetune(trained, output, other)
    without = replace(squares, records=tuple(record.select(np.zeros(1, bool)) for record in squares.records))
    with pytest.raises(DatasetError, match="none of 16 images has a box to learn from"):
        finetune(trained, output, without)
    with pytest.raises(DatasetError, match="none of 0 images"):
        finetune(trained, output, replace(squares, records=()))
    with pytest.raises(DatasetError, match="there is nothing to score against"):
        finetune(trained, output, squares, val=without)
    gone = replace(squares.records[3], path=tmp_path / "gone.png")
    with pytest.raises(DatasetError, match=r"gone\.png"):
        finetune(trained, output, replace(squares, records=(*squares.records, gone)))
    assert nothing_is_left(tmp_path)


def test_a_loss_that_is_not_finite_writes_nothing(
    trained: Path, squares: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(SsdEdgeError, match=r"gradient's norm nan, on the batch of \d+\.png, .*nothing is written"):
        finetune(trained, tmp_path / "qat.pt", squares)
    assert nothing_is_left(tmp_path)


def test_a_checkpoint_that_diverged_is_named(trained: Path, squares: DetectionDataset, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained)
    checkpoint.state_dict["backbone.layers.0.0.weight"].fill_(torch.nan)
    (tmp_path / "in").mkdir()
    save_checkpoint(tmp_path / "in" / "nan.pt", Checkpoint(checkpoint.card, checkpoint.state_dict))
    with pytest.raises(SsdEdgeError, match=r"the input of backbone\.layers\.1\.block\.0\.0 is not finite"):
        finetune(tmp_path / "in" / "nan.pt", tmp_path / "out" / "qat.pt", squares)
    assert nothing_is_left(tmp_path / "out")


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (2, 1), (4, 0)])
def test_interrupted_it_writes_nothing(
    trained: Path, squares: DetectionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, workers: int
) -> None:
    """In the first step, in the middle, and in the very last step."""
    original = Run._train_step

    def step_and_signal(run: Run, *arguments: object) -> tuple[float, float]:
        if run.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(run, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_train_step", step_and_signal)
    with pytest.raises(KeyboardInterrupt):
        finetune(trained, tmp_path / "qat.pt", squares, workers=workers)
    assert nothing_is_left(tmp_path)
