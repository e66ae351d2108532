"""The `ssd-edge` command: its table of commands, and how it ends.

Each command is one module, whose `run` alone imports what is heavy, so that help and usage errors come at once.

Exit status: 0 done, 1 an error the user can fix, 2 wrong usage, 3 a gate failed, 130 interrupted. Messages go
to standard error, results to standard output; no traceback without --debug.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from ssd_edge.cli import bench, boxes, build, codes, demo, doctor, eval, export, import_model, parity, stream, train
from ssd_edge.cli.errors import INTERRUPTED, complain, explain
from ssd_edge.cpus import be_a_good_neighbour
from ssd_edge.version import __version__


class Command(Protocol):
    """What the module of a command has."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> None: ...


COMMANDS: dict[str, Command] = {  # in the order of `--help`
    "demo": demo,
    "codes": codes,
    "train": train,
    "import": import_model,
    "boxes": boxes,
    "eval": eval,
    "export": export,
    "build": build,
    "parity": parity,
    "bench": bench,
    "stream": stream,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Raises:
        SystemExit: from argparse, with status 0 (--help) or 2 (wrong usage).
    """
    args = build_parser().parse_args(argv)
    be_a_good_neighbour()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ssd_edge").setLevel(logging.DEBUG if args.debug else logging.INFO)
    try:
        args.run(args)
        sys.stdout.flush()  # a closed pipe shows here, not while Python shuts down
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to write to
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return explain(error, args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="ssd-edge",
        description="Take a PyTorch SSD detector to the edge: train, export, prove its mAP, stream.",
    )
    debug_help = "show tracebacks and debug messages"
    parser.add_argument("--version", action="version", version=f"ssd-edge {__version__}")
    parser.add_argument("--debug", action="store_true", help=debug_help)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = command.SUMMARY
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug_help)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser
