"""TensorRT-RTX builds every architecture in every precision, for a fixed and for a dynamic batch; no GPU is needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.export.engine.build import build_engine
from ssd_edge.export.fp16.convert import half_graph
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

pytest.importorskip("tensorrt_rtx_bindings")

ARCHITECTURES = ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "ssd300_resnet50", "ssd512_vgg16")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_precision_builds_for_every_kind_of_batch(
    arch: str, export_once: Callable[[str], Any], tmp_path: Path
) -> None:
    in_float = onnx.load(export_once(arch).path)
    (text,) = (entry.value for entry in in_float.metadata_props if entry.key == ONNX_METADATA_KEY)
    card = ModelCard.from_json(text)
    graphs = {
        "fp32": in_float,
        "fp16": half_graph(in_float),
        "int8": half_graph(place_for_tensorrt(in_float, lambda _: (-6.0, 6.0))),
    }
    for precision, graph in graphs.items():
        metadata = {ONNX_METADATA_KEY: replace(card, precision=precision).to_json()}
        onnx.helper.set_model_props(graph, metadata)
        onnx.checker.check_model(graph, full_check=True)
        path = tmp_path / f"{precision}.onnx"
        path.write_bytes(graph.SerializeToString())
        for batch in (BatchSizes(1, 1, 1), BatchSizes(1, 4, 16)):
            report = build_engine(path, tmp_path / f"{precision}.engine", batch=batch, flavour="rtx", progress=False)
            assert report.card.model.precision == precision
            assert report.card.batch == batch
            assert report.card.engine_bytes == report.path.stat().st_size > 1_000_000
