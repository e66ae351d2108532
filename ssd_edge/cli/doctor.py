"""`ssd-edge doctor`: say what this machine has and lacks, and how to mend it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssd_edge.cli.output import print_report

SUMMARY = "say what this machine has and lacks, and how to mend it"

JSON_TO_STDOUT = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    json_help = "print JSON instead, or write it to FILE too"
    parser.add_argument("--json", type=Path, nargs="?", const=JSON_TO_STDOUT, metavar="FILE", help=json_help)


def run(args: argparse.Namespace) -> None:
    from ssd_edge.runtime.doctor.diagnosis import diagnose

    diagnosis = diagnose()
    if args.json == JSON_TO_STDOUT:
        print(diagnosis.to_json())
    else:
        print_report(diagnosis.table(), diagnosis.to_json(), args.json)
    diagnosis.check()
