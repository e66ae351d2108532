"""An SSD300-VGG16 from scratch in an hour of one CPU core: train a quarter of its width, then grow it.

python -m benchmarks.grow_ssd300 DATA/bccd --split train+val --val-split test --epochs 40 -o runs/ssd300

The narrow network has batch norm and a sixteenth of the work. Growing (Net2Wider, arXiv:1511.05641) folds the norms,
copies every channel and shares the weights of a copied input among its copies at random, so that the wide network
computes what the narrow one did; a little noise then parts the copies. The result is an ordinary `ssd300_vgg16`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssd_edge.checkpoint import Checkpoint, load_checkpoint, model_from_checkpoint, save_checkpoint
from ssd_edge.models.architecture import Architecture, register_architecture
from ssd_edge.models.backbone import Backbone
from ssd_edge.models.backbone_vgg import L2_NORM_SCALE, SSD300_VGG16, VGGFeatures
from ssd_edge.models.create import create_model
from ssd_edge.models.head import ssd_head
from ssd_edge.models.init import kaiming_init
from ssd_edge.models.ssd import SSD
from ssd_edge.training.config import RunSettings, TrainConfig
from ssd_edge.training.initial_model import ModelSettings
from ssd_edge.training.optimisation import Optimisation
from ssd_edge.training.run import train
from ssd_edge.training.splits import DataSettings

NARROW = "ssd300_vgg16_narrow"
COPIES = 4  # of each channel in the wide network
NOISE = 0.02  # of each weight tensor's spread


class NarrowVGG(Backbone):
    """`VGGFeatures` with a quarter of the channels, and batch norm behind every convolution."""

    def __init__(self) -> None:
        super().__init__()
        wide = VGGFeatures()
        self.channels = tuple(channels // COPIES for channels in wide.channels)
        self.scale_weight = nn.Parameter(torch.full((self.channels[0],), L2_NORM_SCALE / math.sqrt(COPIES)))
        self.features = _narrow(wide.features)
        self.extra = nn.ModuleList([_narrow(block.children()) for block in wide.extra])
        for block in (self.features, *self.extra):
            kaiming_init(block)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features(x)
        outputs = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            outputs.append(x)
        return outputs


def _narrow(layers: Iterable[nn.Module]) -> nn.Sequential:
    made: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            made.append(_narrow(layer.children()))
        elif isinstance(layer, nn.Conv2d):
            channels = 3 if layer.in_channels == 3 else layer.in_channels // COPIES
            out = layer.out_channels // COPIES
            sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            made += [nn.Conv2d(channels, out, *sizes, bias=False), nn.BatchNorm2d(out)]  # type: ignore[arg-type]
        else:
            made.append(layer)
    return nn.Sequential(*made)


@torch.no_grad()
def grow(narrow: SSD, classes: int) -> SSD:
    """The wide network that computes the same."""
    wide = create_model("ssd300_vgg16", classes, default_boxes=narrow.config.default_boxes).eval()
    layers: list[Any] = [layer for layer in narrow.backbone.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    convolutions: list[Any] = [layer for layer in wide.backbone.modules() if isinstance(layer, nn.Conv2d)]
    for number, (target, source, norm) in enumerate(zip(convolutions, layers[::2], layers[1::2], strict=True)):
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # [out]
        weight, bias = source.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor
        copies = [weight if number == 0 else _shared_inputs(weight) for _ in range(COPIES)]
        target.weight.copy_(torch.cat(copies))
        target.bias.copy_(bias.repeat(COPIES))
    # the norm over all copies is sqrt(COPIES) times as large
    scales: list[Any] = [model.backbone.scale_weight for model in (wide, narrow)]
    scales[0].copy_((scales[1] * math.sqrt(COPIES)).repeat(COPIES))
    heads: list[list[Any]] = [[m for m in model.head.modules() if isinstance(m, nn.Conv2d)] for model in (wide, narrow)]
    for target, source in zip(*heads, strict=True):
        target.weight.copy_(_shared_inputs(source.weight))
        target.bias.copy_(source.bias)
    return wide


def _shared_inputs(weight: Tensor) -> Tensor:
    """[out, in, rows, columns] -> [out, COPIES · in, rows, columns], in random shares."""
    shares = torch.rand(COPIES, 1, weight.shape[1], 1, 1) + 0.5
    return torch.cat(list(weight * shares / shares.sum(0)), dim=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", help="dataset, or the word codes")
    parser.add_argument("--split")
    parser.add_argument("--val-split")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    register_architecture(Architecture(replace(SSD300_VGG16, arch=NARROW), NarrowVGG, ssd_head))
    run = RunSettings(args.output / "narrow", seed=args.seed, eval_every=10, workers=0, threads=args.threads)
    config = TrainConfig(
        DataSettings(args.data, args.split, args.val_split, args.scenes),
        run,
        ModelSettings(NARROW, default_boxes="fit"),
        Optimisation(epochs=args.epochs),
    )
    train(config)
    last = run.output / "last.pt"
    narrow, card = model_from_checkpoint(last)
    torch.manual_seed(args.seed)
    wide = grow(narrow, len(card.class_names))
    images = 255 * torch.rand(1, 3, 300, 300)
    with torch.no_grad():
        apart = (wide(images).cls_logits - narrow(images).cls_logits).abs().max()
        print(f"logits of the grown network differ by {apart:.1e}")
        for layer in wide.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.add_(NOISE * layer.weight.std() * torch.randn_like(layer.weight))
    made = wide.make_card(card.class_names, card.category_ids)
    made = replace(made, training_data=load_checkpoint(last).card.training_data)
    save_checkpoint(args.output / "ssd300.pt", Checkpoint(made, wide.state_dict()))
    print(args.output / "ssd300.pt")


if __name__ == "__main__":
    main()
