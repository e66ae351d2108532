"""Fake quantisation rounds as the int8 graph does, and goes without a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssd_edge.calib.placement import cpu as placement_cpu
from ssd_edge.calib.placement import tensorrt as placement_tensorrt
from ssd_edge.calib.qat.fake_quant import ActivationFakeQuant, FakeQuantization, WeightFakeQuant
from ssd_edge.calib.qat.schemes import HARDSWISH_END, SCHEMES, Scheme
from ssd_edge.choices import TARGETS
from ssd_edge.errors import SsdEdgeError, UsageError
from ssd_edge.models.create import create_model
from tests.calib.qat.residual_arch import ARCH

SYMMETRIC, ASYMMETRIC = SCHEMES["tensorrt"], replace(SCHEMES["tensorrt"], symmetric=False)


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
    assert tuple(SCHEMES) == TARGETS
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
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(norm.running_var, 0.1, 3.0)
    assert (norm.weight < 0).any()
    folded = fuse_conv_bn_eval(conv.eval(), norm)
    step = folded.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    deployed = (folded.weight.detach() / step).round() * step
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None, None, None]
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
