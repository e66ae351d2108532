"""Arguments that several commands share, and the types of arguments.

A type turns the text of an argument into its value, and raises `ArgumentTypeError` where it is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ssd_edge.choices import DEFAULT_ARCH
from ssd_edge.errors import UsageError
from ssd_edge.runtime import units

if TYPE_CHECKING:
    from ssd_edge.data.dataset import DetectionDataset

T = TypeVar("T")
DATA_HELP = "dataset folder or file (COCO, VOC, YOLO)"
INT8_HEADS_ON_CPU = (
    "--int8-heads is for --target tensorrt; a file for the target cpu has int8 heads in any case: leave the option out"
)


def add_arch(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """`--arch`. `default` is a text for what is taken without it, where that depends on other arguments."""
    parser.add_argument(
        "--arch",
        default=None if default else DEFAULT_ARCH,
        help=f"or ssd300_vgg16, ssd512_vgg16, ssd300_resnet50 ({default or '%(default)s'})",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", help="part of the dataset, such as test or train+val (all)")


def add_threads(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--threads", type=positive_int, metavar="N", help="threads of computation (automatic)")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")


def positive_int(text: str) -> int:
    return int(_number(text, int, "a whole number from 1", lambda value: value >= 1))


def whole_number(text: str) -> int:
    return int(_number(text, int, "a whole number from 0", lambda value: value >= 0))


def positive_number(text: str) -> float:
    return _number(text, float, "a positive number", lambda value: 0 < value < float("inf"))


def number_from_0(text: str) -> float:
    return _number(text, float, "a number from 0", lambda value: 0 <= value < float("inf"))


def probability(text: str) -> float:
    return _number(text, float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def score(text: str) -> float:
    return _number(text, float, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def _number(text: str, kind: type[int | float], expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")  # fits nothing
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def memory_size(text: str) -> int:
    return _measure(text.strip(), partial(units.byte_size, kilo=1024), "a size such as 2G or 512M")


def camera(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else f"camera:{text}"


def host_port(text: str) -> dict[str, Any]:
    """`8080`, `0.0.0.0:8080` or `[::]:8080` as `{"port": int}`, and `"host"` where there is one."""
    host, _, port = text.rpartition(":")
    number = _number(port, int, "a port or HOST:PORT", lambda value: 0 <= value < 65536)
    name = host.strip("[]")
    return {"port": int(number)} | ({"host": name} if name else {})


def size_hw(text: str) -> tuple[int, int]:
    width, height = _measure(text, units.size_wh, "a size such as 640x480")
    return height, width


def _measure(text: str, convert: Callable[[str], T], expected: str) -> T:
    try:
        return convert(text)
    except UsageError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None


def class_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no class; give names such as cat,dog")
    return names


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the arguments `names` that the user gave."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def flag(name: str) -> str:
    """How the argument `name` is given: `--its-name`."""
    return f"--{name.replace('_', '-')}"


def usable_dataset(args: argparse.Namespace) -> DetectionDataset:
    """The dataset that --data and --split name, without what lint leaves out; says what that is."""
    from ssd_edge.data.lint import lint
    from ssd_edge.data.readers import read_dataset

    dataset, report = lint(read_dataset(args.data, args.split))
    if not report.ok:
        print(report, file=sys.stderr)
    return dataset
