from ssd_edge.parity.tolerances import TOLERANCES, tolerance_of
from tests.ssd_edge.parity.differences import running


def test_bounds_are_those_of_the_coarser_precision() -> None:
    assert tolerance_of("fp32", "fp16").precision == "fp16"
    assert tolerance_of("int8", "fp32").precision == "int8"
    assert tolerance_of("fp32", "fp8").precision == "int8"  # not known
    fp32, fp16 = TOLERANCES["fp32"], TOLERANCES["fp16"]
    assert not fp32.departs("logits", running(([0.5], [0.50009])).result())
    assert fp32.departs("logits", running(([0.5], [0.50011])).result())
    assert not fp16.departs("logits", running(([0, 100], [0, 100.5])).result())  # 43 dB
    assert fp16.departs("logits", running(([0, 100], [0, 101])).result())  # 37 dB
