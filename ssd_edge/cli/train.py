"""`ssd-edge train`: train a detector."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_edge.choices import DEFAULT_ARCH, PRESETS
from ssd_edge.cli.arguments import (
    DATA_HELP,
    add_arch,
    add_threads,
    number_from_0,
    positive_int,
    positive_number,
    probability,
    score,
    whole_number,
)

if TYPE_CHECKING:
    from ssd_edge.training.config import TrainConfig

SUMMARY = "train a detector"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help=f"{DATA_HELP}, or the word codes for synthetic scenes")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for best.pt, last.pt, history")
    add_arch(parser, default=f"{DEFAULT_ARCH}, or that of the checkpoint in --weights")
    add("--preset", choices=PRESETS, help="recipe (small for fewer than 5,000 images)")
    add("--epochs", type=positive_int, help="passes over the data (by preset)")
    add("--batch", type=positive_int, help="images a step, of all processes together (by preset)")
    add("--accumulate", type=positive_int, default=1, metavar="N", help="run a batch in N parts, for lack of memory")
    add("--lr", type=positive_number, help="peak learning rate (by preset, in proportion to the batch)")
    add("--weight-decay", type=number_from_0, help="(by preset)")
    add("--warmup", type=whole_number, metavar="STEPS", help="steps of linear rise at first, at most (by preset)")
    add("--ema", type=score, metavar="DECAY", help="moving average of the weights; 0: none (by preset)")
    add("--clip", type=number_from_0, metavar="NORM", help="largest norm of the gradient; 0: any (by preset)")
    add("--hflip", type=probability, metavar="P", help="probability of mirroring (0.5)")
    add("--zoom-out", type=probability, metavar="P", help="probability of zooming out (by preset)")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="change images at random (yes)")
    boxes_help = "own, fit (to the data), ssd512_voc and the like, or what boxes --json wrote (by preset)"
    add("--default-boxes", metavar="B", help=boxes_help)
    add("--weights", metavar="W", help="start from a checkpoint, or from published weights: coco, imagenet (random)")
    add("--trainable-layers", type=whole_number, metavar="N", help="train only the last N backbone stages (all)")
    add("--seed", type=whole_number, default=0, help="same seed, same run (%(default)s)")
    add("--split", help="train on this part, such as train or train+val (by its usual names)")
    add("--val-split", help="evaluate on this part (by its usual names, else a tenth of the images)")
    add("--eval-every", type=positive_int, default=1, metavar="N", help="evaluate after every Nth epoch (%(default)s)")
    add("--scenes", type=positive_int, default=4000, help="with codes: scenes an epoch (%(default)s)")
    add("--workers", type=whole_number, help="processes that load data (by the number of cores)")
    add_threads(parser)
    add("--device", help="cpu, cuda, cuda:1 (CUDA where there is one)")
    add("--amp", action=argparse.BooleanOptionalAction, help="mixed precision (where the hardware has it)")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--tensorboard", action="store_true", help="write TensorBoard's files to the output folder")
    add("--strict", action="store_true", help="unusable images or boxes are an error, not left out")
    add("--resume", action="store_true", help="go on from last.pt in the output folder")


def run(args: argparse.Namespace) -> None:
    from ssd_edge.training.run import train

    best = train(config_of(args))
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one
        print(best)


def config_of(args: argparse.Namespace) -> TrainConfig:
    """What is asked for; without --arch the architecture of the checkpoint in --weights."""
    from ssd_edge.training.config import TrainConfig
    from ssd_edge.training.initial_model import arch_of_weights

    arch = args.arch or arch_of_weights(args.weights) or DEFAULT_ARCH
    return TrainConfig.from_flat({**vars(args), "arch": arch})
