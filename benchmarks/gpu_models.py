"""What `gpu.py` measures: models, their ONNX files and engines, and the ways from a frame to detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large

from ssd_edge.card import ONNX_METADATA_KEY
from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.models.create import COCO_CLASSES, create_model
from ssd_edge.models.predict import Predictor
from ssd_edge.runtime.cuda import Memory, open_cuda
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.engine_card import BatchSizes
from ssd_edge.runtime.gpu_detector import GpuDetector

TORCHVISION = {"ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large, "ssd300_vgg16": ssd300_vgg16}
PRECISIONS = ("fp32", "fp16", "int8")
SCORES_ABOVE = 3000  # of an image, above the card's threshold, that a model without training is made to give
Image = NDArray[np.uint8]


def background_for(logits: NDArray[np.float32], threshold: float, wanted: int) -> float:
    """What to add to the background's logits so that about `wanted` scores of classes are above the threshold.

    Suppression costs what the scores make it cost, and in a trained model nearly all of an image is background.

    Args:
        logits: float32 [anchors, classes + 1], the background first.
    """
    low, high = -50.0, 50.0
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    for _ in range(40):
        middle = (low + high) / 2
        total = exponents[:, 1:].sum(axis=1, keepdims=True) + exponents[:, :1] * np.exp(middle)
        low, high = (middle, high) if (exponents[:, 1:] / total > threshold).sum() > wanted else (low, middle)
    return (low + high) / 2


def untrained_checkpoint(arch: str, path: Path, image_rgb: Image) -> Path:
    """Random weights, seeded, that see mostly background in an image."""
    torch.manual_seed(0)
    model = create_model(arch, COCO_CLASSES).eval()
    names = tuple(f"class {number}" for number in range(COCO_CLASSES))
    card = model.make_card(names, tuple(range(COCO_CLASSES)))
    resized = cv2.resize(image_rgb, (card.width, card.height))
    head: torch.nn.Module = model.head.classification_head  # type: ignore[assignment]
    with torch.inference_mode():
        logits = model(torch.from_numpy(resized).float().permute(2, 0, 1)[None]).cls_logits[0]
        scale = 2 / float(logits.std())  # apart, so that some scores are high and most are low
        background = background_for((scale * logits).numpy(), card.score_threshold, SCORES_ABOVE)
        layers = [module for module in head.modules() if isinstance(module, torch.nn.Conv2d)]
        for layer in layers:
            if layer.bias is not None and layer.out_channels % (COCO_CLASSES + 1) == 0:
                layer.weight *= scale
                layer.bias *= scale
                layer.bias.view(-1, COCO_CLASSES + 1)[:, 0] += background
    save_checkpoint(path, Checkpoint(card, model.state_dict()))
    return path


def write_onnx(checkpoint: Path, precision: str, path: Path) -> Path:
    """The checkpoint's graph. In int8, all ranges are −6 to 6: right in time and size, not in what it finds."""
    import onnx

    from ssd_edge.calib.placement_tensorrt import place_for_tensorrt
    from ssd_edge.export.fp16 import half_graph
    from ssd_edge.export.onnx_export import onnx_from_predictor

    model, card = model_from_checkpoint(checkpoint)
    graph = onnx_from_predictor(Predictor(model).eval(), (card.height, card.width))
    if precision == "int8":
        graph = place_for_tensorrt(graph, lambda _: (-6.0, 6.0))
    if precision != "fp32":
        graph = half_graph(graph)
    onnx.helper.set_model_props(graph, {ONNX_METADATA_KEY: replace(card, precision=precision).to_json()})
    path.write_bytes(graph.SerializeToString())
    return path


def build(onnx: Path, batch: int) -> tuple[Path, dict[str, Any]]:
    """An engine of one batch size that has run here, and what its card says.

    Raises:
        RuntimeError: it was built and does not run; with TensorRT's message.
    """
    from ssd_edge.export.build import build_engine

    report = build_engine(
        onnx, onnx.with_name(f"{onnx.stem}_{batch}.engine"), batch=BatchSizes(batch, batch, batch), progress=False
    )
    if report.not_run is not None:
        raise RuntimeError(report.not_run)
    layers = {name: share.__dict__ for name, share in (report.card.layers or {}).items()}
    tensorrt = f"{report.card.flavour} {report.card.tensorrt_version}"
    return report.path, {"tensorrt": tensorrt, "build_seconds": report.seconds, "layers": layers}


def open_on_torch(checkpoint: Path, *, half: bool, batch: int, score_threshold: float | None = None) -> GpuDetector:
    """The PyTorch module in the GPU's pipeline."""
    from ssd_edge.runtime.backend_torch_cuda import TorchCudaDetector, TorchEngine

    model, card = model_from_checkpoint(checkpoint)
    engine = TorchEngine(model.cuda(), card, cuda=open_cuda(), half=half, batch=batch)
    return TorchCudaDetector(engine, card, score_threshold=score_threshold, slots=1)


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


def torchvision_model(checkpoint: Path) -> Any:
    """torchvision's own model with the checkpoint's weights, on the GPU, with its own thresholds."""
    loaded = load_checkpoint(checkpoint)
    classes = len(loaded.card.class_names) + 1
    model = TORCHVISION[loaded.card.arch](
        weights=None, weights_backbone=None, num_classes=classes, score_thresh=loaded.card.score_threshold
    )
    model.load_state_dict(loaded.state_dict)
    return model.eval().cuda()


@contextmanager
def torchvision_peer(checkpoint: Path, frame: Image, *, compiled: bool) -> Iterator[Callable[[], object]]:
    """From a frame to detections on the processor, as torchvision's documentation has it."""
    model = torchvision_model(checkpoint)
    if compiled:
        model = torch.compile(model)

    def run() -> object:
        with torch.inference_mode():
            rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).cuda().permute(2, 0, 1)
            (found,) = model([rgb.float() / 255])
            return {name: values.cpu() for name, values in found.items()}

    yield run


@contextmanager
def onnxruntime_cuda_peer(onnx: Path, frame: Image) -> Iterator[Callable[[], object]]:
    """The network by ONNX Runtime on the GPU, the rest on the processor.

    Raises:
        RuntimeError: this ONNX Runtime has no CUDA.
    """
    import onnxruntime as ort

    name = "CUDAExecutionProvider"
    if name not in ort.get_available_providers():
        raise RuntimeError(f"ONNX Runtime {ort.__version__} has {', '.join(ort.get_available_providers())} alone")
    session = ort.InferenceSession(str(onnx), providers=[name])
    if name not in session.get_providers():
        raise RuntimeError("ONNX Runtime fell back to the processor")
    with open_detector(onnx) as detector:
        detector.infer = lambda images_rgb: session.run(["boxes", "scores"], {"images": images_rgb})  # type: ignore
        yield lambda: detector([frame])
