"""The choice of a sum's branch in small graphs."""

import numpy as np
import pytest

from ssd_edge.calib.placement.graph import Graph
from ssd_edge.calib.placement.residual import residual_sums
from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from tests.calib.placement.fusion_rules import broken_rules
from tests.calib.placement.small_graphs import make_model, node

RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


CONVOLUTIONS = {f"w{i}": weights(8, 8, 1, 1) for i in range(6)} | {"two": np.array(2.0, np.float32)}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        # identity shortcut, in both orders
        ("Conv x w0 a; Relu a r; Conv r w1 c; Add c r s; Conv s w2 y", ("c", "r")),
        ("Conv x w0 a; Relu a r; Conv r w1 c; Add r c s; Conv s w2 y", ("c", "r")),
        # a convolution in the shortcut; the longer path is the branch, in both orders
        ("Conv x w0 a; Conv a w1 b; Relu b r; Conv r w2 c; Conv a w3 d; Add c d s; Conv s w4 y", ("c", "d")),
        ("Conv x w0 a; Conv a w1 b; Relu b r; Conv r w2 c; Conv a w3 d; Add d c s; Conv s w4 y", ("c", "d")),
        # equally long: the second, as in ModelOpt
        ("Conv x w0 a; Conv a w1 c; Conv a w2 d; Add c d s; Conv s w3 y", ("d", "c")),
        # a ReLU between the branch's convolution and the sum
        ("Conv x w0 a; Conv a w1 c; Relu c r; Add r a s; Conv s w2 y", ("c", "a")),
        # another activation there, which no kernel has between convolution and sum
        ("Conv x w0 a; Conv a w1 c; HardSwish c r; Add r a s; Conv s w2 y", None),
        # something else reads what the branch's convolution made
        ("Conv x w0 a; Conv a w1 c; Add c a s; Mul s c m; Conv m w2 y", None),
        # a sum with a constant, with the input of the model, and of a tensor with itself
        ("Conv x w0 a; Add a two s; Conv s w1 y", None),
        ("Conv x w0 a; Add a x s; Conv s w1 y", None),
        ("Conv x w0 a; Add a a s; Conv s w1 y", None),
    ],
)
def test_the_branch_of_a_sum(nodes: str, expected: tuple[str, str] | None) -> None:
    split = [text.split() for text in nodes.split("; ")]
    made = [node(op_type, " ".join(inputs), output) for op_type, *inputs, output in split]
    used = {name: value for name, value in CONVOLUTIONS.items() if f" {name} " in nodes}
    model = make_model(made, {"x": [1, 8, 4, 4]}, {"y": [1, 8, 4, 4]}, used)
    found = [(entry.branch.name, entry.residual) for entry in residual_sums(Graph(model))]
    assert found == ([] if expected is None else [expected])
    assert broken_rules(place_for_tensorrt(model, lambda _: (-6.0, 6.0))) == {}
