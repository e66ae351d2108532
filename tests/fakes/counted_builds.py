"""`Machine`: a Jetson Orin that writes engines of a few bytes at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ssd_edge.errors import SsdEdgeError
from ssd_edge.export.engine.build import BuildReport
from ssd_edge.runtime.cuda.base import Gpu
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.tensorrt.engine_card import EngineCard, engine_card_path
from tests.fakes.tensorrt_script import CARD, Script


class Machine:
    """A Jetson Orin with TensorRT 10.3, whose builds are counted."""

    def __init__(self) -> None:
        self.script = Script()
        self.gpu: Gpu | None = Gpu("Orin", "8.7", "12.6", integrated=True)
        self.version = "10.3.0"
        self.builds: list[str] = []
        self.error: SsdEdgeError | None = None
        self.layers: dict[str, Any] | None = {}
        self.advice: str | None = None

    def read_gpu(self) -> Gpu:
        if self.gpu is None:
            raise CudaError("there is no NVIDIA driver here")
        return self.gpu

    def build_engine(self, onnx: Path, output: Path, **options: Any) -> BuildReport:
        self.builds.append(str(options["batch"]))
        if self.error:
            raise self.error
        plan = b"engine %d" % len(self.builds)
        card = EngineCard(
            model=CARD,
            onnx_name=onnx.name,
            onnx_sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            engine_bytes=len(plan),
            flavour="tensorrt",
            tensorrt_version=self.version,
            cuda_version="12.6",
            gpu_name="Orin",
            compute_capability="8.7",
            batch=options["batch"],
            layers=self.layers,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(plan)
        engine_card_path(output).write_text(card.to_json())
        return BuildReport(output, card, 1.0, None, self.advice)
