"""Engines of every architecture, precision and kind of batch by TensorRT-RTX, without a GPU: sizes, times, kernels.

python -m benchmarks.engines -o benchmarks/engines.json

The weights are random, and so is how int8 rounds them; neither changes what TensorRT has to compile. Kernels and the
activations that they move are those of one image, as the build log lists them (`engine_kernels.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks import engine_kernels
from benchmarks.report import report
from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.export.engine.build import build_engine
from ssd_edge.export.fp16.convert import half_graph
from ssd_edge.export.trace import onnx_from_predictor
from ssd_edge.models.create import COCO_CLASSES, create_model
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

ARCHITECTURES = ("ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "ssd300_resnet50", "ssd512_vgg16")
BATCHES = (BatchSizes(1, 1, 1), BatchSizes(1, 4, 16))


def graphs(arch: str) -> Iterator[tuple[str, ModelCard, onnx.ModelProto]]:
    """The graph of an architecture in each precision, with what it is called and its card."""
    torch.manual_seed(0)
    model = create_model(arch, COCO_CLASSES).eval()
    names = tuple(f"class {number}" for number in range(COCO_CLASSES))
    card = model.make_card(names, tuple(range(COCO_CLASSES)))
    in_float = onnx_from_predictor(Predictor(model), (card.height, card.width))
    yield "fp32", card, in_float
    yield "fp16", replace(card, precision="fp16"), half_graph(in_float)
    for name, int8_heads in (("int8", False), ("int8, int8 heads", True)):
        placed = place_for_tensorrt(in_float, lambda _: (-6.0, 6.0), int8_heads=int8_heads)
        yield name, replace(card, precision="int8"), half_graph(placed)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        path, engine = Path(name) / "model.onnx", Path(name) / "model.engine"
        for arch in ARCHITECTURES:
            for precision, card, graph in graphs(arch):
                onnx.helper.set_model_props(graph, {ONNX_METADATA_KEY: card.to_json()})
                path.write_bytes(graph.SerializeToString())
                kernels = engine_kernels.figures(engine_kernels.kernels_of(engine_kernels.build_log(path.read_bytes())))
                for batch in BATCHES:
                    built = build_engine(path, engine, batch=batch, flavour="rtx", progress=False)
                    rows.append(
                        {
                            "arch": arch,
                            "precision": precision,
                            "batch": str(batch),
                            "onnx_megabytes": path.stat().st_size / 1e6,
                            "engine_megabytes": built.card.engine_bytes / 1e6,
                            "build_seconds": built.seconds,
                            **(kernels if batch == BATCHES[0] else {}),
                        }
                    )
                    print(rows[-1], flush=True)
    report({"classes": COCO_CLASSES, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
