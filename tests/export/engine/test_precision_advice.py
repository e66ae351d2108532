"""The advice on int8 and fp16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ssd_edge.runtime.tensorrt.engine_card import BatchSizes, engine_card_path
from tests.fakes.orin import Orin

FASTER, SLOWER = 1.04, 1.52


@pytest.mark.parametrize("first", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("int8_ms", "verdict"),
    [
        (SLOWER, "int8 is not faster on this GPU; use fp16"),
        (1.355, "int8 is not faster on this GPU; use fp16"),  # by less than a hundredth
        (FASTER, "int8 is 1.31 times as fast on this GPU"),
    ],
)
def test_int8_is_compared_with_fp16_whichever_is_built_first(
    orin: Orin, first: str, int8_ms: float, verdict: str
) -> None:
    times_ms = {"int8": int8_ms, "fp16": 1.36}
    second = "fp16" if first == "int8" else "int8"
    orin.build(first, run_ms=times_ms[first])
    report = orin.build(second, run_ms=times_ms[second])
    one, other = (f"{times_ms[name]:.3g} ms" for name in (second, first))
    assert report.advice == (
        f"{second} takes {one}, {first} ({first}.engine, of {first}.onnx) {other}, at batch 1: {verdict}"
    )
    assert str(report).endswith(report.advice)


def test_an_int8_engine_alone_says_how_to_compare(orin: Orin) -> None:
    assert orin.build("int8", run_ms=1.0).advice == (
        "whether int8 is faster than fp16 on this GPU is not known; compare them with: "
        "ssd-edge bench FP16.onnx int8.onnx --data DATA"
    )
    assert orin.build("fp32", run_ms=1.0).advice is None


def other_gpu(orin: Orin) -> None:
    orin.gpu = replace(orin.gpu, name="Thor")


def other_version(orin: Orin) -> None:
    orin.version = "10.7.0"


def no_engine(orin: Orin) -> None:
    (orin.folder / "fp16.engine").unlink()


def damaged_card(orin: Orin) -> None:
    engine_card_path(orin.folder / "fp16.engine").write_text("{")


def no_card(orin: Orin) -> None:
    engine_card_path(orin.folder / "fp16.engine").unlink()


@pytest.mark.parametrize("change", [other_gpu, other_version, no_engine, damaged_card, no_card])
def test_only_what_differs_in_precision_alone_is_compared(orin: Orin, change: Callable[[Orin], None]) -> None:
    orin.build("fp16", run_ms=1.0)
    change(orin)
    assert "is not known" in str(orin.build("int8", run_ms=1.0).advice)


@pytest.mark.parametrize("card", [{"parent_sha256": "0" * 64}, {"arch": "other"}, {"class_names": ("x", "b", "c")}])
def test_another_model_is_not_compared(orin: Orin, card: dict[str, Any]) -> None:
    orin.build("fp16", run_ms=1.0, card=card)
    assert "is not known" in str(orin.build("int8", run_ms=1.0).advice)


def test_another_batch_is_not_compared_and_of_several_the_fastest_is(orin: Orin) -> None:
    orin.build("fp16", run_ms=3.0, name="b")
    orin.build("fp16", run_ms=2.0, name="a")
    orin.build("fp16", run_ms=1.0, name="c", batch=BatchSizes(1, 1, 2), script={})
    assert "fp16 (a.engine, of a.onnx) 2 ms" in str(orin.build("int8", run_ms=2.5).advice)
