"""Models that `measure.py` measures: their ONNX files and engines, and a frame for them. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.record import NotRunError, need
from ssd_edge.bundled import bundled_model
from ssd_edge.card import ONNX_METADATA_KEY, ModelCard
from ssd_edge.images import load_image
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.base import Memory
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

SSDLITE, SSD300 = "ssdlite320_mobilenet_v3_large", "ssd300_vgg16"
EXPORT_PACKAGES = ("torch", "safetensors", "onnx", "onnxscript", "pycocotools", "zxingcpp")  # of ssd_edge.export
ORT_CUDA = "CUDAExecutionProvider"
FRAME_HW = (480, 640)
# Text, centre, side and angle (degrees) of the codes in the synthetic frame, in pixels.
CODES = (
    ("ssd-edge", (150, 150), 180, 0),
    ("https://example.org", (400, 110), 140, 12),
    ("0123456789", (480, 350), 200, -25),
    ("ab", (145, 355), 110, 40),
)
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        checkpoint: what PyTorch runs; None: it was given as ONNX only.
        onnx: in fp32; None: it is to be exported from the checkpoint, which needs torch.
        weights: `bundled`, `given` or `random`.
    """

    arch: str
    checkpoint: Path | None
    onnx: Path | None
    weights: str

    @property
    def file(self) -> Path:
        """What the CPU runs as the reference, the ONNX file where there is one."""
        file = self.onnx or self.checkpoint
        assert file is not None
        return file


def bundled() -> Model:
    """The SSDlite that comes with the package: 5 classes, and default boxes fitted to them.

    Raises:
        ModelFileError: this copy of the package comes without it.
    """
    onnx = bundled_model()
    return Model(SSDLITE, onnx.with_suffix(".pt"), onnx, "bundled")


def write_onnx(model: Model, precision: str, folder: Path) -> Path:
    """The model's graph in a precision; written once. In int8 all ranges are −6 to 6: right in time, not in results.

    Raises:
        NotRunError: a package is missing.
    """
    if precision == "fp32" and model.onnx is not None:
        return model.onnx
    path = folder / f"{model.arch}_{model.file.stem}_{precision}.onnx"
    if path.exists():
        return path
    need("onnx")
    import onnx

    from ssd_edge.calib.placement.tensorrt import place_for_tensorrt
    from ssd_edge.export.fp16.convert import half_graph

    if precision == "fp32":
        need(*EXPORT_PACKAGES)
        from benchmarks.gpu.torch_peers import fp32_graph

        graph, card = fp32_graph(model)
    else:
        graph = onnx.load(write_onnx(model, "fp32", folder))
        card = ModelCard.from_json({entry.key: entry.value for entry in graph.metadata_props}[ONNX_METADATA_KEY])
        if precision == "int8":
            graph = place_for_tensorrt(graph, lambda _: (-6.0, 6.0))
        graph = half_graph(graph)
    onnx.helper.set_model_props(graph, {ONNX_METADATA_KEY: replace(card, precision=precision).to_json()})
    path.write_bytes(graph.SerializeToString())
    return path


def build(onnx: Path, batch: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """An engine of one batch size that has run here, and what its card says.

    Raises:
        RuntimeError: it was built and does not run; with TensorRT's message.
    """
    from ssd_edge.export.engine.build import build_engine

    report = build_engine(
        onnx, folder / f"{onnx.stem}_{batch}.engine", batch=BatchSizes(batch, batch, batch), progress=False
    )
    if report.not_run is not None:
        raise RuntimeError(report.not_run)
    layers = {name: asdict(share) for name, share in (report.card.layers or {}).items()}
    tensorrt = f"{report.card.flavour} {report.card.tensorrt_version}"
    return report.path, {"tensorrt": tensorrt, "build_seconds": report.seconds, "layers": layers}


def open_engine(engine: Path) -> GpuDetector:
    """A TensorRT engine in the GPU's pipeline, for the lowest latency."""
    detector = open_detector(engine, overlap=False)
    assert isinstance(detector, GpuDetector)
    return detector


@dataclass(frozen=True)
class OnGpu:
    """A frame that is on the GPU already."""

    memory: Memory
    shape: tuple[int, ...]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "|u1", "data": (self.memory.address, True), "version": 3}


def need_onnxruntime_cuda() -> None:
    """
    Raises:
        NotRunError: this ONNX Runtime has no CUDA.
    """
    import onnxruntime as ort

    if ORT_CUDA not in ort.get_available_providers():
        raise NotRunError(f"ONNX Runtime {ort.__version__} has only {', '.join(ort.get_available_providers())}")


@contextmanager
def onnxruntime_cuda_peer(onnx: Path, frame: Image) -> Iterator[Callable[[], object]]:
    """The network by ONNX Runtime on the GPU, the rest on the CPU.

    Raises:
        RuntimeError: ONNX Runtime does not start on the GPU.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(str(onnx), providers=[ORT_CUDA])
    if ORT_CUDA not in session.get_providers():
        raise RuntimeError("ONNX Runtime fell back to the CPU")
    with open_detector(onnx) as detector:
        detector.infer = lambda images_rgb: session.run(["boxes", "scores"], {"images": images_rgb})  # type: ignore
        yield lambda: detector([frame])


def read_frame(path: Path | None) -> Image:
    """640×480 BGR: the image, or a synthetic one of four QR codes, which the bundled model finds.

    Raises:
        ImageError: the file is not an image.
    """
    if path is None:
        return synthetic_frame()
    resized: Image = cv2.resize(load_image(path), FRAME_HW[::-1])
    return resized


def synthetic_frame() -> Image:
    """uint8 [480, 640, 3] BGR, the same everywhere: drawn by OpenCV alone."""
    blots = np.random.default_rng(0).integers(90, 160, (12, 16, 3), np.uint8)
    frame: Image = cv2.resize(blots, FRAME_HW[::-1], interpolation=cv2.INTER_CUBIC)
    encoder = cv2.QRCodeEncoder.create()
    for text, centre, side, angle in CODES:
        code = cv2.copyMakeBorder(encoder.encode(text), 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=255)
        middle = (len(code) - 1) / 2
        place = cv2.getRotationMatrix2D((middle, middle), angle, side / len(code))
        place[:, 2] += np.array(centre) - middle
        paper = cv2.warpAffine(np.full_like(code, 255), place, FRAME_HW[::-1])[..., None] / 255
        ink = cv2.warpAffine(code, place, FRAME_HW[::-1])[..., None]
        frame = (frame * (1 - paper) + paper * (20 + 0.8 * ink)).astype(np.uint8)
    return frame
