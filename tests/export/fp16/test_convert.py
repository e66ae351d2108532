"""The half graph gives what float32 gives; what overflows on real images stays float32."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from ssd_edge.export.fp16.convert import half_from_float, half_graph
from ssd_edge.export.fp16.emulate import emulated_half
from tests.detectors.exported_architectures import CLASSES, Exported
from tests.export.architectures import SIZE
from tests.export.fp16.small_ssd import (
    FLOAT,
    HALF,
    IN_HALF,
    assert_close,
    build_with_tensorrt_rtx,
    images,
    node_of,
    run,
    small_ssd,
    types_of,
)


def test_it_gives_what_float32_gives() -> None:
    assert_close(small_ssd(), half_graph(small_ssd()))


@pytest.mark.parametrize("zero", ["Clip", "Add"], ids=["torchvision", "amdegroot"])
def test_an_l2_norm_whose_squares_overflow_half(zero: str) -> None:
    w_head = np.random.default_rng(5).normal(0, 1e-3, (8, 4, 1, 1))
    model = small_ssd(b_stem=np.full(4, 200), w_head=w_head)  # 4 · 200² = 160,000
    node_of(model, "clipped").op_type = zero  # what keeps a vector of zeros from 0 / 0
    half, report = half_from_float(model, images())
    assert report.kept_float == {}  # by rule, not because it was seen
    assert_close(model, half)


def test_activations_that_overflow_half_keep_their_nodes_in_float32() -> None:
    # White gives 155 / 50 · 3 channels · 10,000 = 93,000, and its square further on; the other level stays small.
    model = small_ssd(
        w_stem=np.full((4, 3, 1, 1), 10_000),
        b_stem=np.zeros(4),
        w_head=np.full((8, 4, 1, 1), 1e-4),
        std=np.full((3, 1, 1), 50),
    )
    white, black = np.full((4, 4, 3), 255, np.uint8), np.full((4, 4, 3), 100, np.uint8)
    half, report = half_from_float(model, [black, white])
    assert report.kept_float["stem"] == "stem (w_stem) reaches 9.3e+04, half ends at 65504"
    assert set(report.kept_float) == {"stem", "relu", "excite", "head_0", "offsets_0", "offsets"}
    types = types_of(half)
    assert {name for name in IN_HALF if types[name] == FLOAT} == {
        "stem",
        "map",
        "excited",
        "head_0",
        "offsets_0",
        "offsets",
    }
    expected = run(model, white[None])
    for got, wanted in zip(run(emulated_half(half), white[None]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.01, atol=0.01)
    blind = half_graph(model)  # without the look at images
    assert np.isnan(run(emulated_half(blind), white[None])[1]).all()
    _, dark = half_from_float(model, [black])
    assert dark.kept_float == {}


def test_activations_near_overflow_are_noted() -> None:
    model = small_ssd(w_stem=np.full((4, 3, 1, 1), 5000), b_stem=np.zeros(4), w_head=np.full((8, 4, 1, 1), 1e-4))
    half, report = half_from_float(model, [np.full((4, 4, 3), 255, np.uint8)])
    assert report.near_overflow["stem (w_stem)"] == pytest.approx(46_500)
    assert "note: stem (w_stem) reaches 46500, half ends at 65504" in str(report)
    assert types_of(half)["stem"] == HALF


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(SIZE))
def test_every_architecture_in_half(export_once: Callable[[str], Exported], arch: str) -> None:
    graph = onnx.load(export_once(arch).path)
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE[arch], SIZE[arch], 3), np.uint8)
    half, report = half_from_float(graph, image)
    onnx.checker.check_model(half, full_check=True)
    assert report.kept_float == {}
    types = types_of(half)
    halves = [node for node in half.graph.node if node.op_type == "Conv" and types[node.output[0]] == HALF]
    assert len(halves) == sum(node.op_type == "Conv" for node in graph.graph.node)
    assert len(half.SerializeToString()) < 0.55 * len(graph.SerializeToString())
    for got, wanted in zip(run(emulated_half(half), image), run(graph, image), strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.01, rtol=0.01)
    assert half.graph.output[1].type.tensor_type.shape.dim[2].dim_value == len(CLASSES)
    assert build_with_tensorrt_rtx(half) == []
