"""One training step: ssd-edge's model and loss against torchvision's, same weights and batches, in turns.

    python -m benchmarks.train_step DATA/bccd -o benchmarks/train_step.json
    python -m benchmarks.train_step DATA/bccd --arch ssd300_vgg16 --device cuda --amp -o benchmarks/train_step_cuda.json

A step is forward, loss, backward and optimiser; both sides get the same batch from the same loader, already on the
device, and the same optimiser. torchvision's model takes images and normalises them, as its training script does;
ours takes bytes. The loss alone is matching, loss and its backward pass to the raw outputs. What the loader takes is
measured apart: the share of the time that a training of the same steps waits for its data.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

from benchmarks.report import report
from ssd_edge.data.augment import TrainTransform
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.data.samples import Batch, EpochBatches, ImageSamples, make_loader
from ssd_edge.models.create import create_model
from ssd_edge.models.loss import Targets, multibox_loss
from ssd_edge.models.ssd import SSD

TORCHVISION = {"ssd300_vgg16": ssd300_vgg16, "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large}
LR = 1e-6  # a step's time does not depend on it; larger ones make random weights diverge


class Peers:
    """Both models with the same weights, and what is timed of them."""

    def __init__(self, arch: str, classes: int, device: torch.device, amp: bool):
        self.device = device
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=amp)
        reference = TORCHVISION[arch](weights=None, weights_backbone=None, num_classes=classes + 1)
        ours = create_model(arch, classes)
        ours.load_state_dict(reference.state_dict())
        self.reference = reference.to(device).train()
        self.ours: SSD = ours.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers = {m: torch.optim.SGD(m.parameters(), LR, momentum=0.9) for m in (self.reference, self.ours)}
        height, width = ours.config.size_hw
        self.scale = torch.tensor([width, height, width, height], device=device)
        self.anchors = self.ours.default_boxes_xyxy * self.scale

    def to_device(self, batch: Batch) -> Batch:
        """The batch with boxes in pixels."""
        images, boxes, labels = batch
        return (
            images.to(self.device),
            [b.to(self.device) * self.scale for b in boxes],
            [c.to(self.device) for c in labels],
        )

    def our_step(self, batch: Batch) -> None:
        """As `ssd-edge train` does it."""
        images, boxes, labels = batch
        with self.autocast:
            raw = self.ours(images.float().contiguous(memory_format=torch.channels_last))
        self._finish(self.ours, self.our_loss(raw.cls_logits, raw.bbox_regression, boxes, labels))

    def their_step(self, batch: Batch) -> None:
        """As torchvision's reference script does it."""
        images, boxes, labels = batch
        targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
        with self.autocast:
            losses = self.reference([image.float() / 255 for image in images], targets)
        self._finish(self.reference, sum(losses.values()))

    def _finish(self, model: torch.nn.Module, loss: Any) -> None:
        self.optimizers[model].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[model].step()

    def our_loss(self, logits: Tensor, offsets: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """Matching and loss, over the whole batch at once."""
        return multibox_loss(logits, offsets, self.anchors, Targets.pad(boxes, labels)).total

    def their_loss(self, logits: Tensor, offsets: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        """The same lines as in torchvision's `SSD.forward`, image by image."""
        matched = []
        for image_boxes in boxes:
            if not len(image_boxes):
                matched.append(torch.full((len(self.anchors),), -1, dtype=torch.int64, device=self.device))
                continue
            matched.append(self.reference.proposal_matcher(box_iou(image_boxes, self.anchors)))
        targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
        outputs = {"cls_logits": logits, "bbox_regression": offsets}
        losses = self.reference.compute_loss(targets, outputs, [self.anchors] * len(boxes), matched)
        total: Tensor = sum(losses.values())
        return total

    @torch.no_grad()
    def raw_outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What both losses are timed on."""
        raw = self.ours(batch[0].float())
        return raw.cls_logits.float(), raw.bbox_regression.float()


def loss_call(loss: Callable[..., Tensor], raw: tuple[Tensor, Tensor], batch: Batch) -> Callable[[], None]:
    """Loss and its gradients by the raw outputs."""

    def call() -> None:
        inputs = [value.clone().requires_grad_() for value in raw]
        torch.autograd.grad(loss(*inputs, *batch[1:]), inputs)

    return call


def time_in_turns(calls: dict[str, Callable[[], None]], runs: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each; after one round that warms up, in turns, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs + 1):
        for name, call in calls.items():
            _synchronise(device)
            begin = time.perf_counter()
            call()
            _synchronise(device)
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def waiting(peers: Peers, samples: ImageSamples, batch: int, steps: int, workers: int) -> dict[str, float]:
    """Share of the time that a training of so many steps waits for its data, and its images a second."""
    epochs = steps * batch // len(samples) + 2
    loader = iter(make_loader(samples, EpochBatches(len(samples), batch, epochs, 0), workers=workers))
    peers.our_step(peers.to_device(next(loader)))
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        loaded = next(loader)
        waited += time.perf_counter() - asked
        peers.our_step(peers.to_device(loaded))
    _synchronise(peers.device)
    seconds = time.perf_counter() - begin
    return {"share_of_time_waiting": waited / seconds, "images_per_s": steps * batch / seconds}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--arch", choices=sorted(TORCHVISION), default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 on both sides")
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dataset = lint(read_dataset(args.data, args.split))[0]
    device = torch.device(args.device)
    peers = Peers(args.arch, len(dataset.class_names), device, args.amp)
    config = peers.ours.config
    samples = ImageSamples(dataset, TrainTransform(config.size_hw, config.mean), seed=0)
    loader = make_loader(samples, EpochBatches(len(dataset), args.batch, 1, 0), workers=0)
    batch = peers.to_device(next(iter(loader)))
    raw = peers.raw_outputs(batch)
    step = time_in_turns(
        {"torchvision": lambda: peers.their_step(batch), "ssd-edge": lambda: peers.our_step(batch)}, args.runs, device
    )
    losses = {
        "torchvision": loss_call(peers.their_loss, raw, batch),
        "ssd-edge": loss_call(peers.our_loss, raw, batch),
    }
    loss = time_in_turns(losses, 4 * args.runs, device)
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": args.threads,
        "model": f"{args.arch}, {len(dataset.class_names)} classes and background",
        "batch": f"{args.batch} images of {dataset.name}, {sum(map(len, batch[1]))} boxes",
        "precision": "bfloat16 autocast" if args.amp else "float32",
        "step_ms": step,
        "step_times_as_fast": step["torchvision"] / step["ssd-edge"],
        "images_per_s": {name: 1e3 * args.batch / value for name, value in step.items()},
        "loss_alone_ms": loss,
        "loss_times_as_fast": loss["torchvision"] / loss["ssd-edge"],
        "training": waiting(peers, samples, args.batch, args.runs, args.workers),
    }
    report(figures, args.output)


if __name__ == "__main__":
    main()
