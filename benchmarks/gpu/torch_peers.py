"""What `measure.py` does with PyTorch: random weights, exports, and torchvision's detectors as peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from benchmarks.gpu.cases import COCO_CLASSES, SCORES_ABOVE, background_for
from benchmarks.gpu.models import SSD300, SSDLITE, Image, Model
from benchmarks.gpu.record import NotRunError
from ssd_edge.card import ModelCard
from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.models.create import create_model
from ssd_edge.models.predict import Predictor
from ssd_edge.models.ssd import SSD
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.find import open_cuda

TORCHVISION = {SSDLITE: ssdlite320_mobilenet_v3_large, SSD300: ssd300_vgg16}


def untrained_checkpoint(arch: str, path: Path, image_rgb: Image) -> Path:
    """Random weights, seeded, for COCO's classes, that see mostly background in an image.

    Every convolution gives values of root mean square 1, so that all of it stays within half precision.
    """
    torch.manual_seed(0)
    model = create_model(arch, COCO_CLASSES).eval()
    names = tuple(f"class {number}" for number in range(COCO_CLASSES))
    card = model.make_card(names, tuple(range(COCO_CLASSES)))
    resized = cv2.resize(image_rgb, (card.width, card.height))
    images = torch.from_numpy(resized).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        normalise_activations(model, images)
        _see_background(model, images, card.score_threshold)
    save_checkpoint(path, Checkpoint(card, model.state_dict()))
    return path


def normalise_activations(model: SSD, images: Tensor) -> None:
    """Scale the weights of each convolution, in the order in which they run, so that its output has RMS 1.

    Random weights make activations grow or shrink layer by layer: 43 layers of SSDlite end at 1e14 or 0. Batch norm
    does not help, as its initial statistics are those of no data. After D. Mishkin and J. Matas, "All you need is a
    good init" (arXiv:1511.06422).

    Args:
        images: float32 [batch, 3, height, width], RGB in 0–255.
    """

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        factor = 1 / output.square().mean().sqrt().clamp(min=1e-6)
        layer.weight *= factor
        if layer.bias is not None:
            layer.bias *= factor
        return output * factor  # the layers after it see what they will see later

    hooks = [layer.register_forward_hook(scale) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()


def _see_background(model: SSD, images: Tensor, threshold: float) -> None:
    """Spread the class logits, and raise the background's until few scores are above the threshold."""
    classes = COCO_CLASSES + 1
    head: nn.Module = model.head.classification_head  # type: ignore[assignment]
    logits = model(images).cls_logits[0]
    spread = 2 / float(logits.std())  # some scores are high, and most are low
    background = background_for((spread * logits).numpy(), threshold, SCORES_ABOVE)
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and layer.out_channels % classes == 0:
            layer.weight *= spread
            layer.bias *= spread
            layer.bias.view(-1, classes)[:, 0] += background


def fp32_graph(model: Model) -> tuple[Any, ModelCard]:
    """The ONNX graph of a checkpoint, and its card."""
    from ssd_edge.export.trace import onnx_from_predictor

    assert model.checkpoint is not None
    network, card = model_from_checkpoint(model.checkpoint)
    return onnx_from_predictor(Predictor(network).eval(), (card.height, card.width)), card


def ssd300_logits(checkpoint: Path, images_rgb: Image) -> np.ndarray:
    """Class logits of a checkpoint: float32 [batch, anchors, classes + 1], background first."""
    model, _ = model_from_checkpoint(checkpoint)
    with torch.inference_mode():
        logits: np.ndarray = model(torch.from_numpy(images_rgb).float().permute(0, 3, 1, 2)).cls_logits.numpy()
    return logits


def open_on_torch(
    checkpoint: Path, *, half: bool, batch: int, score_threshold: float | None = None, slots: int = 1
) -> GpuDetector:
    """The PyTorch module in the GPU's pipeline.

    Raises:
        NotRunError: this PyTorch has no CUDA.
    """
    from ssd_edge.runtime.backends.torch_cuda import TorchCudaDetector, TorchEngine

    if not torch.cuda.is_available():
        raise NotRunError(f"PyTorch {torch.__version__} cannot use a GPU here")
    model, card = model_from_checkpoint(checkpoint)
    engine = TorchEngine(model.cuda(), card, cuda=open_cuda(), half=half, batch=batch)
    return TorchCudaDetector(engine, card, score_threshold=score_threshold, slots=slots)


def torchvision_model(checkpoint: Path, device: str = "cuda") -> Any:
    """torchvision's own model with the checkpoint's weights, default boxes, thresholds and limits."""
    loaded = load_checkpoint(checkpoint)
    card = loaded.card
    with torch.device("meta"):  # random weights that nothing uses would take seconds
        model = TORCHVISION[card.arch](
            weights=None,
            weights_backbone=None,
            num_classes=len(card.class_names) + 1,
            score_thresh=card.score_threshold,
            nms_thresh=card.nms_iou,
            topk_candidates=card.candidates,
            detections_per_img=card.detections,
        )
    if card.default_boxes is not None:  # fitted to a dataset; there are as many at each place as torchvision has
        model.anchor_generator = DefaultBoxGenerator(**card.default_boxes)
    weights = {
        name: values.float() if values.is_floating_point() else values for name, values in loaded.state_dict.items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval().to(device)


class TorchvisionSuppression:
    """torchvision's suppression of SSD300, with softmax and decoding, and those two alone for ours.

    Args:
        logits: float32 [batch, 8732, classes + 1], background first; offsets are random.

    Attributes:
        boxes: float32 [batch, 8732, 4], fractions of the image; what `decode` writes.
        scores: float32 [batch, 8732, classes]; what `decode` writes.
    """

    def __init__(self, logits: np.ndarray, checkpoint: Path, device: str = "cuda") -> None:
        batch, anchors, classes = logits.shape
        self._model = model = torchvision_model(checkpoint, device)
        model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img = 0.01, 0.45, 400, 200
        self._sizes = [(300, 300)] * batch
        with torch.inference_mode():
            transformed, _ = model.transform([torch.zeros(3, 300, 300, device=device)] * batch)
            one = transformed.tensors[:1]
            maps = [each.expand(batch, -1, -1, -1) for each in model.backbone(one).values()]
            self._anchors = model.anchor_generator(transformed, maps)
            self._offsets = torch.randn(batch, anchors, 4, device=device)
            self._logits = torch.from_numpy(logits).to(device)
            self.boxes = torch.empty(batch, anchors, 4, device=device)
            self.scores = torch.empty(batch, anchors, classes - 1, device=device)

    def decode(self) -> None:
        """Softmax and decoding."""
        self.scores.copy_(torch.softmax(self._logits, dim=2)[:, :, 1:])
        for into, of, anchor in zip(self.boxes, self._offsets, self._anchors, strict=True):
            torch.div(self._model.box_coder.decode_single(of, anchor), 300, out=into)

    def suppress(self) -> Any:
        """All of it; a dictionary of tensors for each image."""
        head = {"bbox_regression": self._offsets, "cls_logits": self._logits}
        return self._model.postprocess_detections(head, self._anchors, self._sizes)


@contextmanager
def torchvision_peer(
    checkpoint: Path, frame: Image, *, compiled: bool, device: str = "cuda"
) -> Iterator[Callable[[], object]]:
    """From a frame to detections on the CPU, as torchvision's documentation has it."""
    model = torchvision_model(checkpoint, device)
    if compiled:
        model = torch.compile(model)

    def run() -> object:
        with torch.inference_mode():
            rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).to(device).permute(2, 0, 1)
            (found,) = model([rgb.float() / 255])
            return {name: values.cpu() for name, values in found.items()}

    yield run


def tera_flop(checkpoint: Path) -> float:
    """Arithmetic of one image, in 10¹² operations: 2 for each multiplication with its sum."""
    from torch.utils.flop_counter import FlopCounterMode

    model, card = model_from_checkpoint(checkpoint)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, card.height, card.width))
    operations: int = counter.get_total_flops()
    return operations / 1e12
