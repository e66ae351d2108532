"""Train torchvision's own SSDlite320 from scratch: the peer of `ssd-edge train` in accuracy.

    python -m benchmarks.torchvision_reference DATA/bccd --split train+val --seed 0 -o runs/torchvision-0.pt

The recipe is the usual one for a small dataset: AdamW and a one-cycle schedule to 2e-3 with PyTorch's defaults, batches
of 16, mirrored images, SSD crops and photometric distortion. The model, the matching and the loss are torchvision's.
The images come through ssd-edge's loader, whose augmentation has torchvision's distribution at a fraction of its time
(a test compares them), so the peer is not held up by its data. The result is written as a checkpoint (torchvision's
parameter names are ours), to be scored with `ssd-edge eval` as any other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssd_edge.checkpoint import Checkpoint, save_checkpoint
from ssd_edge.data.augment import TrainTransform
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.data.samples import EpochBatches, ImageSamples, make_loader
from ssd_edge.models.create import create_model

ARCH = "ssdlite320_mobilenet_v3_large"
PEAK_LR = 2e-3


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dataset = lint(read_dataset(args.data, args.split))[0]
    config = create_model(ARCH, len(dataset.class_names)).config
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(dataset.class_names) + 1
    ).train()
    model = model.to(memory_format=torch.channels_last)  # same arithmetic, faster
    samples = ImageSamples(dataset, TrainTransform(config.size_hw, config.mean), args.seed)
    batches = EpochBatches(len(dataset), args.batch, args.epochs, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
    schedule = OneCycleLR(optimizer, PEAK_LR, total_steps=len(batches))
    height, width = config.size_hw
    scale = torch.tensor([width, height, width, height])
    begin = time.perf_counter()
    loss_sum = 0.0
    for step, (images, boxes, labels) in enumerate(make_loader(samples, batches, workers=1), start=1):
        targets = [{"boxes": b * scale, "labels": c + 1} for b, c in zip(boxes, labels, strict=True)]
        loss = sum(model(list(images.float() / 255), targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += float(loss)
        if step % batches.steps_per_epoch == 0:
            minutes = (time.perf_counter() - begin) / 60
            epoch = step // batches.steps_per_epoch
            print(f"epoch {epoch}: loss {loss_sum / batches.steps_per_epoch:.3f}, {minutes:.1f} minutes", flush=True)
            loss_sum = 0.0
    card = create_model(ARCH, len(dataset.class_names)).make_card(dataset.class_names, dataset.category_ids)
    save_checkpoint(args.output, Checkpoint(card, model.state_dict()))


if __name__ == "__main__":
    main()
