"""A Jetson Orin of stand-ins, on which engines are built, and what it can say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.export.engine.build import BuildReport, build_engine
from ssd_edge.export.engine.timing import measure_run_ms
from ssd_edge.runtime.backends.tensorrt import TensorRTEngine
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.host.kind import Host
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import CARD, Script

GPU = '{"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "%s"}]}]}'
DLA = '{"Layers": [{"Name": "{ForeignNode[a...b]}", "LayerType": "DLA", "Inputs": [{"Format/Datatype": "Half"}]}]}'
JETSON = Host(jetson=True, nvidia=True, jetpack="6.2")
OUT_OF_MEMORY = "Error Code 1: Cuda Runtime (out of memory)"
REFUSAL = (
    "The engine cannot run on this GPU, which has compute capability 8.7. "
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for it."
)
PASSING = [  # what the script lets fail, and the words of the failure
    ({"loads": False, "says": [(Severity.ERROR, OUT_OF_MEMORY)]}, r"ran out of GPU memory: .*\(out of memory\)"),
    ({"loads": False, "says": [(Severity.ERROR, "Error Code 1: Cask")]}, r"cannot load it: .*Cask"),
    ({"runs": False, "says": [(Severity.ERROR, "Error Code 1: no launch")]}, "does not run: .*no launch"),
    ({"mallocs": 0}, "out of GPU memory for"),
]


class Orin:
    """A Jetson Orin with TensorRT 10.3; each build follows a script of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = Script()
        self.gpu = Gpu("Orin", "8.7", "12.6")
        self.version = "10.3.0"
        self.flavour = "tensorrt"
        self.run_ms: float | None = None  # None: as it is measured

    def load(self, _: str | None) -> Any:
        return fake_tensorrt(self.script, self.version, self.flavour)

    def measure(self, engine: TensorRTEngine, batch: int) -> float:
        return measure_run_ms(engine, batch) if self.run_ms is None else self.run_ms

    def write_onnx(self, name: str, precision: str, **card: Any) -> Path:
        """What the stand-in does not look into: the card in it decides."""
        onnx = pytest.importorskip("onnx")
        helper = onnx.helper
        images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
        node = helper.make_node("Identity", ["images"], ["boxes"])
        output = helper.make_tensor_value_info("boxes", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
        model = helper.make_model(helper.make_graph([node], "g", [images], [output]))
        helper.set_model_props(model, {ONNX_METADATA_KEY: replace(CARD, precision=precision, **card).to_json()})
        path = self.folder / name
        onnx.save(model, path)
        return path

    def build(self, precision: str, *, run_ms: float | None = None, name: str = "", **options: Any) -> BuildReport:
        card = options.pop("card", {})
        path = self.write_onnx(f"{name or precision}.onnx", precision, **card)
        layers = options.pop("layers", GPU % {"int8": "Int8", "fp16": "Half"}.get(precision, "Float"))
        self.script = Script(layers=layers, batch=(1, 1, 1), **options.pop("script", {}))
        self.run_ms = run_ms
        return build_engine(path, path.with_suffix(".engine"), progress=False, **options)
