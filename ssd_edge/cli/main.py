"""The `ssd-edge` command: one short function per subcommand, heavy imports inside it.

Exit status: 0 done, 1 an error the user can mend, 2 wrong usage, 3 a gate failed, 130 interrupted. Messages go
to standard error, results to standard output; no traceback without --debug.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ssd_edge.errors import MissingDependencyError, SsdEdgeError, UsageError
from ssd_edge.version import __version__

if TYPE_CHECKING:
    from ssd_edge.data.dataset import DetectionDataset
    from ssd_edge.export.int8.options import Int8Options
    from ssd_edge.runtime.sinks.base import Recording
    from ssd_edge.runtime.stream.config import MqttConfig, SnapshotsConfig, SourceConfig, StreamConfig, WebConfig

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CODES_FPS = 30.0
JSON_TO_STDOUT = Path("-")
# Names that ask `codes` for a file that it does not write; any other dot belongs to a folder's name.
OTHER_FILE_SUFFIXES = (".avi", ".gif", ".gz", ".json", ".mkv", ".mov", ".tar", ".webm", ".zip")
DATA_HELP = "dataset folder or file (COCO, VOC, YOLO)"

# Those of ssd_edge.calib.table and ssd_edge.export.int8.convert, which import NumPy and more.
METHODS = ("minmax", "moving_average", "percentile", "entropy", "mse")
DEFAULT_METHOD = "minmax"

# Options of stream that are arguments of StreamConfig by the same name.
STREAM_OPTIONS = (
    *("model", "show", "save", "jsonl", "score_threshold", "threads", "latency", "max_frames", "log_format"),
)

# The extra that brings an optional package; `export` brings its own torch.
EXTRA_OF_PACKAGE = {
    "av": "video",
    "matplotlib": "report",
    "onnx": "export",
    "onnxscript": "export",
    "paho": "mqtt",
    "prometheus_client": "web",
    "pycocotools": "demo",
    "safetensors": "train",
    "starlette": "web",
    "supervision": "track",
    "tensorboard": "tensorboard",
    "torch": "train",
    "torchvision": "train",
    "trackers": "track",
    "uvicorn": "web",
    "yaml": "train",
    "zxingcpp": "demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Raises:
        SystemExit: from argparse, with status 0 (--help) or 2 (wrong usage).
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ssd_edge").setLevel(logging.DEBUG if args.debug else logging.INFO)
    try:
        args.run(args)
        sys.stdout.flush()  # a closed pipe shows here, not while Python shuts down
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to write to
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return _explain(error, args)
    return 0


def _explain(error: Exception, args: argparse.Namespace) -> int:
    """Print one message, or log it where logs are for programs; returns the exit status."""
    tell = logging.getLogger(__name__).error if getattr(args, "log_format", None) == "json" else _complain
    known = _missing_dependency(error, args.command) or error
    if isinstance(known, SsdEdgeError):
        tell(f"error: {known}")
        return known.exit_code
    text = str(error).strip().splitlines() or [""]
    tell(f"unexpected {type(error).__name__}: {text[0]} (run with --debug for the traceback)")
    return 1


def _missing_dependency(error: Exception, command: str) -> SsdEdgeError | None:
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        return None
    extra = command if command in ("train", "export") and package != "tensorboard" else EXTRA_OF_PACKAGE[package]
    return MissingDependencyError(f"{command} needs the package {package}, which is not installed", extra=extra)


def _complain(message: str) -> None:
    print(f"ssd-edge: {message}", file=sys.stderr)


def _demo(args: argparse.Namespace) -> None:
    from ssd_edge.bundled import bundled_model
    from ssd_edge.demo import run_demo

    model = args.model or bundled_model()
    print(run_demo(args.output, model=model, seconds=args.seconds, threads=args.threads))


def _codes(args: argparse.Namespace) -> None:
    from ssd_edge.data.codes.write import write_coco, write_video

    suffix = args.output.suffix.lower()
    if suffix == ".mp4":
        size_hw = args.size or (480, 640)
        write_video(args.output, seconds=args.seconds, fps=CODES_FPS, seed=args.seed, size_hw=size_hw)
    elif suffix in OTHER_FILE_SUFFIXES:
        raise UsageError(f"{args.output} is the name of a {suffix} file; give a folder, or a name that ends in .mp4")
    else:
        write_coco(args.output, count=args.count, seed=args.seed, size_hw=args.size)
    print(args.output)


def _train(args: argparse.Namespace) -> None:
    from dataclasses import fields

    from ssd_edge.training.config import TrainConfig
    from ssd_edge.training.run import train

    config = TrainConfig(**{field.name: getattr(args, field.name) for field in fields(TrainConfig)})
    best = train(config)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one
        print(best)


def _boxes(args: argparse.Namespace) -> None:
    from ssd_edge.training.boxes import compare_boxes

    comparison = compare_boxes(_usable_dataset(args), args.arch)
    _report(comparison.table(), comparison.to_json(), args.json)


def _eval(args: argparse.Namespace) -> None:
    from ssd_edge.evaluation.evaluate import evaluate
    from ssd_edge.runtime.detector import open_detector

    if args.score is not None and not args.report:
        raise UsageError("--score is the threshold of the report's confusion matrix and images; give --report DIR too")
    if args.report:  # what it may lack shows before the long work
        from ssd_edge.evaluation.report import write_report
        from ssd_edge.files import check_folder

        check_folder(args.report)
    with open_detector(args.model, threads=args.threads, device=_eval_device(args)) as detector:
        dataset = _usable_dataset(args)
        evaluation = evaluate(detector, dataset, classes=args.classes, batch=args.batch)
    _report(evaluation.table(), evaluation.to_json(), args.json)
    if args.report:
        print("", *write_report(args.report, evaluation, dataset, score=args.score), sep="\n")


def _eval_device(args: argparse.Namespace) -> str | None:
    """What --device names; without it, CUDA for a checkpoint where there is one, as in training."""
    device: str | None = args.device
    if device is None and args.model.suffix in (".pt", ".safetensors"):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device


# Options of export that only int8 has
INT8_DEFAULTS = {
    "calib": None,
    "calib_split": None,
    "images": 512,
    "seed": 0,
    "target": "tensorrt",
    "int8_heads": False,
    "method": DEFAULT_METHOD,
    "table": None,
    "max_drop": None,
    "qat": None,
}


INT8_HEADS_ON_CPU = (
    "--int8-heads is for --target tensorrt; a file for the target cpu has int8 heads in any case: leave the option out"
)


def _export(args: argparse.Namespace) -> None:
    given = [option for option in INT8_DEFAULTS if getattr(args, option) is not None]
    if args.precision != "int8" and given:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise UsageError(f"{names}: about int8 alone; give --precision int8 too, or leave it out")
    for option in INT8_DEFAULTS.keys() - given:
        setattr(args, option, INT8_DEFAULTS[option])
    if args.precision == "int8" and args.calib is None:
        raise UsageError("int8 needs images to calibrate on, a dataset or any folder of images; give --calib DATA")
    if args.max_drop and args.data is None:
        raise UsageError("--max-drop needs labelled images to measure mAP on; give --data VALIDATION")
    if args.qat and not args.max_drop:
        raise UsageError("--qat is for where a bound fails; give --max-drop too")
    if args.int8_heads and args.target == "cpu":
        raise UsageError(INT8_HEADS_ON_CPU)
    from ssd_edge.export.onnx_export import export_onnx

    data = _usable_dataset(args) if args.data else None
    int8 = _int8_options(args, data) if args.precision == "int8" else None
    print(export_onnx(args.checkpoint, args.output, precision=args.precision, data=data, int8=int8))


def _int8_options(args: argparse.Namespace, validation: DetectionDataset | None) -> Int8Options:
    from ssd_edge.calib.images import calibration_images
    from ssd_edge.calib.table import CalibrationSettings
    from ssd_edge.export.int8.options import Int8Options, QatOptions
    from ssd_edge.parity.max_drop import MaxDrop

    max_drop = MaxDrop.parse(args.max_drop) if args.max_drop else None  # before the long work
    qat = None
    if args.qat:
        from ssd_edge.data.lint import lint
        from ssd_edge.data.readers import find_split, list_splits, read_dataset

        split = args.calib_split or find_split(list_splits(args.calib), "train")  # as for the calibration images
        qat = QatOptions(args.qat, lint(read_dataset(args.calib, split))[0])
    return Int8Options(
        calibration_images(args.calib, args.images, split=args.calib_split, seed=args.seed),
        target=args.target,
        method=args.method,
        int8_heads=args.int8_heads,
        table=args.table,
        settings=CalibrationSettings(seed=args.seed),
        max_drop=max_drop,
        validation=validation,
        qat=qat,
        threads=args.threads,
    )


def _build(args: argparse.Namespace) -> None:
    from ssd_edge.export.build import build_engine
    from ssd_edge.runtime.tensorrt.engine_card import BatchSizes

    report = build_engine(
        args.model,
        args.output,
        batch=BatchSizes.parse(args.batch),
        workspace_bytes=args.workspace,
        timing_cache=args.timing_cache,
        dla=args.dla,
        flavour=args.tensorrt,
    )
    print(report)


def _parity(args: argparse.Namespace) -> None:
    from ssd_edge.parity import MaxDrop, parity

    max_drop = MaxDrop.parse(args.max_drop)  # before the long work
    if args.html:
        from ssd_edge.files import check_folder
        from ssd_edge.parity.html import write_html

        check_folder(args.html)
    report = parity(
        args.checkpoint,
        args.models,
        _usable_dataset(args),
        max_drop=max_drop,
        stages=args.stages or args.html is not None,
        images=args.images,
        score=args.score,
        threads=args.threads,
    )
    _report(report.table(), report.to_json(), args.json)
    if args.html:
        print("", write_html(args.html, report), sep="\n")
    report.check()


def _bench(args: argparse.Namespace) -> None:
    from ssd_edge.bench.measure import bench, check_models
    from ssd_edge.bench.options import BenchOptions
    from ssd_edge.bench.outputs import Outputs
    from ssd_edge.bench.precisions import CalibrationChoice, PrecisionOptions, in_precisions

    if args.plot and not args.accuracy:
        raise UsageError("--plot draws accuracy against speed; leave out --no-accuracy")
    if not args.precisions and (args.calib or args.target or args.int8_heads or args.keep):
        raise UsageError(
            "--calib, --target, --int8-heads and --keep are about exports; give --precisions fp32,int8 too"
        )
    if args.int8_heads and (args.target or "cpu") == "cpu":
        raise UsageError(INT8_HEADS_ON_CPU)
    options = BenchOptions(
        seconds=args.seconds,
        runs=args.runs,
        batch=args.batch,
        warmup=args.warmup,
        threads=args.threads,
        spin=args.spin,
        score_threshold=args.score,
        device=args.device,
        backend=args.backend,
        accuracy=args.accuracy,
    )
    precisions = None
    if args.precisions:
        target = args.target or "cpu"
        int8 = CalibrationChoice(args.calib, target, int8_heads=args.int8_heads) if args.calib else None
        precisions = PrecisionOptions(tuple(args.precisions.split(",")), int8, args.keep)
    outputs = Outputs(args.json, args.markdown, args.plot)
    outputs.check()  # before the long work
    check_models(args.models)
    dataset = _usable_dataset(args)
    with in_precisions(args.models, precisions, data=dataset) as models:
        report = bench(models, dataset, options)
    print(report.table())
    outputs.write(report)
    report.check()


def _stream(args: argparse.Namespace) -> None:
    from ssd_edge.runtime.cuda.base import CudaFatalError
    from ssd_edge.runtime.logs import set_up_logs
    from ssd_edge.runtime.stream.run import hangs, run_stream

    config = _stream_config(args)
    set_up_logs(config.log_format)
    args.log_format = config.log_format  # of the file too
    try:
        run_stream(config)
    except Exception as error:
        if not (hangs() or isinstance(error, CudaFatalError)):
            raise
        _leave(_explain(error, args))
    if hangs():
        _leave(0)


def _leave(status: int) -> NoReturn:
    """End the process where a driver hangs or the GPU is lost: what libraries do at a normal exit could hang too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stream_config(args: argparse.Namespace) -> StreamConfig:
    """What the file says, and in its place what the options say."""
    from ssd_edge.bundled import bundled_model
    from ssd_edge.export.engine_cache import prepare_model
    from ssd_edge.runtime.stream.config import StreamConfig
    from ssd_edge.runtime.stream.config_file import read_stream_file

    values = read_stream_file(args.config) if args.config else {}
    if sources := _sources_of_options(args):
        values["source"] = sources
    elif "source" not in values:
        raise UsageError(
            "no source; give --camera, --csi, --rtsp, --video or --source, or --config FILE that names one"
        )
    values |= _given(args, *STREAM_OPTIONS) | _recording_of_options(args) | _snapshots_of_options(args)
    values |= _mqtt_of_options(args) | _web_of_options(args)
    model = prepare_model(values.pop("model", None) or bundled_model(), backend=args.backend)
    return StreamConfig(model=model, **values)


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _sources_of_options(args: argparse.Namespace) -> list[SourceConfig]:
    from ssd_edge.runtime.sources.base import SourceOptions
    from ssd_edge.runtime.stream.config import SourceConfig
    from ssd_edge.runtime.tracking.analytics import UnderstandingOptions
    from ssd_edge.runtime.tracking.tracker import TrackOptions
    from ssd_edge.runtime.units import fourcc, size_wh

    opening = _given(args, "size_wh", "fps", "pixel_format", "transport", "realtime", "timeout_s")
    reading = _given(args, "loop", "retries")
    watched = _given(args, "classes", "track")
    if not args.sources:
        if given := [*opening, *reading, *watched]:
            names = {"size_wh": "size", "timeout_s": "timeout"}
            option = names.get(given[0], given[0]).replace("_", "-")
            raise UsageError(f"--{option} is about sources that are given as options; write it into {args.config}")
        return []
    for name, option, convert in (("size_wh", "--size", size_wh), ("pixel_format", "--pixel-format", fourcc)):
        if name in opening:
            opening[name] = _converted(option, opening[name], convert)
    understanding = None
    if watched:
        understanding = UnderstandingOptions(tuple(args.classes or ()), track=TrackOptions() if args.track else None)
    options = SourceOptions(**opening)
    return [SourceConfig(uri, options=options, understanding=understanding, **reading) for uri in args.sources]


def _converted(option: str, text: str, convert: Callable[[str], Any]) -> Any:
    """The value of an option, whose check is in a module that `--help` does without."""
    try:
        return convert(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None


def _recording_of_options(args: argparse.Namespace) -> dict[str, Recording]:
    from ssd_edge.runtime.sinks.base import Recording
    from ssd_edge.runtime.units import byte_size, seconds

    converts = {"segment": seconds, "keep": byte_size, "free_floor": byte_size}
    names = {"segment": "segment_s", "keep": "keep_bytes", "free_floor": "free_floor_bytes"}
    given = {
        names[option]: _converted(f"--{option.replace('_', '-')}", text, converts[option])
        for option, text in _given(args, *names).items()
    }
    return {"recording": Recording(**given)} if given else {}


def _snapshots_of_options(args: argparse.Namespace) -> dict[str, SnapshotsConfig]:
    from ssd_edge.runtime.stream.config import SnapshotsConfig
    from ssd_edge.runtime.units import byte_size

    names = {"snapshots_keep": "keep_bytes", "snapshots_free_floor": "free_floor_bytes"}
    given = {
        names[option]: _converted(f"--{option.replace('_', '-')}", text, byte_size)
        for option, text in _given(args, *names).items()
    }
    if given and not args.snapshots:
        raise UsageError("--snapshots-keep and --snapshots-free-floor need --snapshots DIR too")
    return {"snapshots": SnapshotsConfig(args.snapshots, **given)} if args.snapshots else {}


def _mqtt_of_options(args: argparse.Namespace) -> dict[str, MqttConfig]:
    from ssd_edge.runtime.stream.config import MqttConfig

    names = ("prefix", "qos", "buffer", "client_id", "password_file", "ca", "cert", "key")
    given = {
        name.removeprefix("mqtt_"): value for name, value in _given(args, *(f"mqtt_{one}" for one in names)).items()
    }
    if given and not args.mqtt:
        raise UsageError(f"--mqtt-{next(iter(given)).replace('_', '-')} is about a broker; give --mqtt URL too")
    return {"mqtt": MqttConfig(args.mqtt, **given)} if args.mqtt else {}


def _web_of_options(args: argparse.Namespace) -> dict[str, WebConfig]:
    from ssd_edge.runtime.stream.config import WebConfig

    if args.web is None:
        if args.web_token:
            raise UsageError("--web-token is about the web page; give --web too")
        return {}
    host, port = args.web
    return {"web": WebConfig(host, port, args.web_token)}


def _doctor(args: argparse.Namespace) -> None:
    from ssd_edge.runtime.doctor.diagnosis import diagnose

    diagnosis = diagnose()
    if args.json == JSON_TO_STDOUT:
        print(diagnosis.to_json())
    else:
        _report(diagnosis.table(), diagnosis.to_json(), args.json)
    diagnosis.check()


def _usable_dataset(args: argparse.Namespace) -> DetectionDataset:
    """The dataset that --data and --split name, without what lint leaves out; says what that is."""
    from ssd_edge.data.lint import lint
    from ssd_edge.data.readers import read_dataset

    dataset, report = lint(read_dataset(args.data, args.split))
    if not report.ok:
        print(report, file=sys.stderr)
    return dataset


def _report(table: str, json_text: str, json_path: Path | None) -> None:
    """Print a table, and write the same as JSON where asked for."""
    print(table)
    if json_path:
        from ssd_edge.files import atomic_path

        with atomic_path(json_path) as part:
            part.write_text(json_text + "\n", encoding="utf-8")


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
    for name, (run, add_arguments, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug_help)
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="folder to write to (%(default)s)"
    )
    parser.add_argument("--model", type=Path, help="model file (the bundled one)")
    parser.add_argument("--seconds", type=_positive_number, default=10.0, help="length of the video (%(default)g)")
    _threads_argument(parser)


def _codes_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="PATH", help="folder for a COCO dataset, or FILE.mp4")
    add("--count", type=_positive_int, default=1000, help="scenes in the dataset (%(default)s)")
    add("--seconds", type=_positive_number, default=10.0, help="length of the video (%(default)g)")
    add("--seed", type=_whole_number, default=0, help="another seed gives other scenes (%(default)s)")
    add("--size", type=size_hw, metavar="WxH", help="frame size, such as 640x480 (dataset: all sizes)")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help=f"{DATA_HELP}, or the word codes for synthetic scenes")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for best.pt, last.pt, history")
    _arch_argument(parser)
    add("--preset", choices=("small", "paper", "torchvision"), help="recipe (small for fewer than 5,000 images)")
    add("--epochs", type=_positive_int, help="passes over the data (by preset)")
    add("--batch", type=_positive_int, help="images a step, of all processes together (by preset)")
    add("--accumulate", type=_positive_int, default=1, metavar="N", help="run a batch in N parts, for lack of memory")
    add("--lr", type=_positive_number, help="peak learning rate (by preset, in proportion to the batch)")
    add("--weight-decay", type=_number_from_0, help="(by preset)")
    add("--warmup", type=_whole_number, metavar="STEPS", help="steps of linear rise at first, at most (by preset)")
    add("--ema", type=_score, metavar="DECAY", help="moving average of the weights; 0: none (by preset)")
    add("--clip", type=_number_from_0, metavar="NORM", help="largest norm of the gradient; 0: any (by preset)")
    add("--hflip", type=_probability, metavar="P", help="probability of mirroring (0.5)")
    add("--zoom-out", type=_probability, metavar="P", help="probability of zooming out (by preset)")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="change images at random (yes)")
    boxes_help = "own, fit (to the data), ssd512_voc and the like, or what boxes --json wrote (by preset)"
    add("--default-boxes", metavar="B", help=boxes_help)
    add("--weights", metavar="W", help="start from a checkpoint, or from published weights: coco, imagenet (random)")
    add("--trainable-layers", type=_whole_number, metavar="N", help="train only the last N backbone stages (all)")
    add("--seed", type=_whole_number, default=0, help="same seed, same run (%(default)s)")
    add("--split", help="train on this part, such as train or train+val (by its usual names)")
    add("--val-split", help="evaluate on this part (by its usual names, else a tenth of the images)")
    add("--eval-every", type=_positive_int, default=1, metavar="N", help="evaluate after every Nth epoch (%(default)s)")
    add("--scenes", type=_positive_int, default=4000, help="with codes: scenes an epoch (%(default)s)")
    add("--workers", type=_whole_number, help="processes that load data (by the number of cores)")
    _threads_argument(parser)
    add("--device", help="cpu, cuda, cuda:1 (CUDA where there is one)")
    add("--amp", action=argparse.BooleanOptionalAction, help="mixed precision (where the hardware has it)")
    add("--compile", action="store_true", help="torch.compile the network")
    add("--tensorboard", action="store_true", help="write TensorBoard's files to the output folder")
    add("--strict", action="store_true", help="unusable images or boxes are an error, not left out")
    add("--resume", action="store_true", help="go on from last.pt in the output folder")


def _boxes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    _arch_argument(parser)
    _split_argument(parser)
    _json_argument(parser)


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="checkpoint (.pt, .safetensors), .onnx or .engine")
    parser.add_argument("data", type=Path, metavar="DATA", help=DATA_HELP)
    _split_argument(parser)
    parser.add_argument("--classes", type=_names, metavar="A,B", help="score these classes only (all)")
    parser.add_argument("--batch", type=_positive_int, default=8, help="images at a time (%(default)s)")
    _threads_argument(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (a checkpoint: CUDA where there is one; .onnx: cpu)")
    _json_argument(parser)
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write plots of the errors, the worst images and report.json"
    )
    parser.add_argument("--score", type=_score, help="with --report: count detections above this (best F1)")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="what `ssd-edge train` wrote")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the .onnx file")
    add(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of weights and activations (%(default)s)"
    )
    add("--data", type=Path, help="dataset to compare with PyTorch on (synthetic scenes), and for --max-drop")
    _split_argument(parser)
    int8 = parser.add_argument_group("int8")
    add = int8.add_argument
    add("--calib", type=Path, metavar="DATA", help="images to calibrate on: a dataset, or a folder without labels")
    add("--calib-split", metavar="SPLIT", help="part of that dataset (train, where there is one)")
    add("--images", type=_positive_int, metavar="N", help=f"choose N of them ({INT8_DEFAULTS['images']})")
    add("--seed", type=_whole_number, help=f"another seed chooses other ones ({INT8_DEFAULTS['seed']})")
    add("--target", choices=("tensorrt", "cpu"), help=f"whose kernels it is for ({INT8_DEFAULTS['target']})")
    heads_help = "with --target tensorrt: quantise the heads' convolutions too (they stay half)"
    add("--int8-heads", action="store_true", default=None, help=heads_help)
    add("--method", choices=METHODS, help=f"how ranges follow from activations ({DEFAULT_METHOD})")
    add("--table", type=Path, metavar="FILE", help="keep the ranges in this JSON file, and use them again")
    drop_help = "leave layers in float until no more mAP is lost on --data: 1%% of the checkpoint's, or 0.005"
    add("--max-drop", metavar="DROP", help=drop_help)
    qat_help = "where that costs more than a fifth of the speed, fine-tune N epochs on --calib"
    add("--qat", type=_positive_int, metavar="N", help=qat_help)
    _threads_argument(parser)


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="what `ssd-edge export` wrote, .onnx")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the .engine file; its card is FILE.json")
    add(
        "--batch", default="1", metavar="N", help="batch size; or smallest,optimum,largest such as 1,4,16 (%(default)s)"
    )
    add(
        "--workspace",
        type=_byte_size,
        metavar="SIZE",
        help="largest scratch memory, such as 2G or 512M (TensorRT's own)",
    )
    add("--timing-cache", type=Path, metavar="FILE", help="keep measurements of kernels, for faster builds")
    add("--dla", type=_whole_number, metavar="CORE", help="run an fp16 file on a DLA core, the rest of it on the GPU")
    add("--tensorrt", choices=("tensorrt", "rtx"), help="TensorRT or TensorRT-RTX (the first that is installed)")


def _parity_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="the reference, run in PyTorch; or any MODEL")
    add("models", type=Path, nargs="+", metavar="MODEL", help="models to compare with it: .onnx, .engine, checkpoints")
    add("--data", type=Path, required=True, help=DATA_HELP)
    _split_argument(parser)
    add(
        "--max-drop",
        default="1%",
        metavar="DROP",
        help="mAP that may be lost: a share of the reference's such as 1%%, or 0.005 in absolute terms (1%%)",
    )
    add("--stages", action="store_true", help="compare logits, boxes, scores and detections too; name what departs")
    add("--html", type=Path, metavar="DIR", help="write a report with pictures of the worst images; with --stages")
    add("--images", type=_positive_int, metavar="N", help="compare on N images spread over the dataset (all)")
    add("--score", type=_score, default=0.4, help="with --stages: count detections above this (%(default)s)")
    _threads_argument(parser)
    _json_argument(parser)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", type=Path, nargs="+", metavar="MODEL", help="checkpoint (.pt, .safetensors), .onnx or .engine")
    add("--data", type=Path, required=True, help=DATA_HELP)
    _split_argument(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=_positive_number, default=10.0, help="of timing, a model (%(default)g)")
    length.add_argument("--runs", type=_positive_int, metavar="N", help="time N calls of each model instead")
    add("--batch", type=_positive_int, default=1, help="frames a call (%(default)s)")
    add("--warmup", type=_whole_number, default=10, metavar="N", help="calls before that, not counted (%(default)s)")
    _threads_argument(parser)
    spin_help = "threads of ONNX Runtime wait at full speed: fastest where nothing else needs the cores (yes)"
    add("--spin", action=argparse.BooleanOptionalAction, default=True, help=spin_help)
    add("--score", type=_score, help="time with detections above this (each model's own threshold)")
    add("--accuracy", action=argparse.BooleanOptionalAction, default=True, help="measure AP too (yes)")
    add("--device", help="where checkpoints run: cpu, cuda, cuda:1 (CUDA where there is one)")
    add(
        "--backend",
        choices=("auto", "onnxruntime", "tensorrt"),
        default="auto",
        help="what runs .onnx files (TensorRT where there is a GPU)",
    )
    add("--precisions", metavar="P,P", help="export checkpoints as some of torch, fp32, fp16, int8 first")
    add("--calib", type=Path, metavar="DATA", help="with int8: images to calibrate on")
    add("--target", choices=("cpu", "tensorrt"), help="with int8: what the files are for (cpu)")
    add("--int8-heads", action="store_true", help="with --target tensorrt: quantise the heads too")
    add("--keep", type=Path, metavar="DIR", help="with --precisions: keep the exported files here")
    _json_argument(parser)
    add("--markdown", type=Path, metavar="FILE", help="write the table as Markdown too")
    add("--plot", type=Path, metavar="FILE", help="draw accuracy against FPS, a PNG")


def _stream_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sources", "each as often as there are sources; they share the detector")
    add: Callable[..., object] = group.add_argument
    source = {"action": "append", "dest": "sources"}
    add("--camera", type=_camera, metavar="N|NAME", help="camera by number, from 0, or by name", **source)
    add("--csi", type="csi:{}".format, metavar="N", help="camera of a Jetson by number, from 0", **source)
    add("--video", type=Path, metavar="FILE", help="video file", **source)
    add("--rtsp", metavar="URL", help="network camera", **source)
    add("--source", metavar="URI", help="any of these; or an image, a folder, a glob pattern", **source)
    add("--config", type=Path, metavar="FILE", help="sources and all else as TOML; options take its place")
    add("--size", dest="size_wh", metavar="WxH", help="ask cameras for this size, such as 1280x720")
    add("--fps", type=_positive_number, help="ask cameras for this rate; pace of --realtime")
    add("--pixel-format", metavar="CODE", help="ask cameras for this, such as MJPG")
    add("--transport", choices=("tcp", "udp"), help="of RTSP (tcp)")
    add("--loop", action="store_const", const=True, help="begin files anew at their end")
    add("--realtime", action="store_const", const=True, help="play files at their own pace, as if they were cameras")
    add("--timeout", type=_positive_number, dest="timeout_s", metavar="S", help="to open and to read (8 s)")
    retries_help = "end a source after so many failures in a row (cameras and network: never; files: at once)"
    add("--retries", type=_whole_number, metavar="N", help=retries_help)
    group = parser.add_argument_group("detection")
    add = group.add_argument
    add("--model", type=Path, help="model file (the bundled one)")
    add(
        "--backend",
        choices=("auto", "onnxruntime", "tensorrt"),
        default="auto",
        help="what runs an .onnx file: TensorRT builds and keeps an engine (auto: that where there is a GPU)",
    )
    add("--score", type=_score, dest="score_threshold", metavar="S", help="detections need a score above this (0.4)")
    add("--classes", type=_names, metavar="A,B", help="keep these classes only")
    add("--track", action="store_const", const=True, help="give what is seen ids that stay; zones and lines: --config")
    add("--latency", action="store_const", const=True, help="lowest age of a frame, rather than most frames")
    _threads_argument(group)
    add("--max-frames", type=_positive_int, metavar="N", help="end after so many frames (all)")
    group = parser.add_argument_group("outputs")
    add = group.add_argument
    add("--show", action="store_const", const=True, help="show a window; q closes it")
    add("--save", type=Path, metavar="PATH", help="write an annotated video, image, or folder of images")
    add("--segment", metavar="TIME", help="begin a new file of the video so often, such as 10m")
    add("--keep", metavar="SIZE", help="remove the oldest of these files above this, such as 10GB")
    add("--free-floor", metavar="SIZE", help="pause the video when less is free on the disk (256MiB)")
    add(
        "--snapshots",
        type=Path,
        metavar="DIR",
        help="write a picture of each event, and its JSON object, to this folder",
    )
    add("--snapshots-keep", metavar="SIZE", help="remove the oldest of these files above this, such as 1GB")
    add("--snapshots-free-floor", metavar="SIZE", help="pause snapshots when less is free on the disk (256MiB)")
    add(
        "--jsonl",
        metavar="FILE",
        help="write detections, a JSON object a frame and line, those of live sources to the file's end; - for "
        "standard output",
    )
    add("--web", type=_host_port, nargs="?", const=("127.0.0.1", 8080), metavar="HOST:PORT", help="show a web page")
    add("--web-token", metavar="FILE|auto", help="file with what opens that page from elsewhere; auto to make one")
    add("--log-format", choices=("human", "json"), help="of messages and progress (human)")
    group = parser.add_argument_group("MQTT")
    add = group.add_argument
    add("--mqtt", metavar="URL", help="publish to this broker: mqtt://[USER@]HOST[:PORT], mqtts:// for TLS")
    add("--mqtt-prefix", metavar="TOPIC", help="first levels of all topics (ssd-edge)")
    add("--mqtt-qos", type=int, choices=(0, 1, 2), help="of results and events (1)")
    add("--mqtt-buffer", type=_positive_int, metavar="N", help="messages that wait while it is away (10000)")
    add("--mqtt-client-id", metavar="ID", help="who we are to it (made of this machine's name)")
    add(
        "--mqtt-password-file", type=Path, metavar="FILE", help="its first line; or the variable SSD_EDGE_MQTT_PASSWORD"
    )
    add("--mqtt-ca", type=Path, metavar="PEM", help="authorities to trust (the system's)")
    add("--mqtt-cert", type=Path, metavar="PEM", help="certificate that proves who we are")
    add("--mqtt-key", type=Path, metavar="PEM", help="key of that certificate")


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    json_help = "print JSON instead, or write it to FILE too"
    parser.add_argument("--json", type=Path, nargs="?", const=JSON_TO_STDOUT, metavar="FILE", help=json_help)


def _arch_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        default="ssdlite320_mobilenet_v3_large",
        help="or ssd300_vgg16, ssd512_vgg16, ssd300_resnet50 (%(default)s)",
    )


def _split_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", help="part of the dataset, such as test or train+val (all)")


def _threads_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--threads", type=_positive_int, metavar="N", help="threads of computation (automatic)")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")


def _positive_int(text: str) -> int:
    return int(_number(text, int, "a whole number from 1", lambda value: value >= 1))


def _whole_number(text: str) -> int:
    return int(_number(text, int, "a whole number from 0", lambda value: value >= 0))


def _positive_number(text: str) -> float:
    return _number(text, float, "a positive number", lambda value: 0 < value < float("inf"))


def _number_from_0(text: str) -> float:
    return _number(text, float, "a number from 0", lambda value: 0 <= value < float("inf"))


def _probability(text: str) -> float:
    return _number(text, float, "a number from 0 to 1", lambda value: 0 <= value <= 1)


def _score(text: str) -> float:
    return _number(text, float, "a number from 0 to below 1", lambda value: 0 <= value < 1)


def _number(text: str, kind: type[int | float], expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")  # fits nothing
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def _byte_size(text: str) -> int:
    number = text.upper().removesuffix("IB").removesuffix("B")
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(number[-1:], 1)
    number = number if unit == 1 else number[:-1]
    return int(unit * _number(number, float, "a size such as 2G or 512M", lambda value: 1 <= value * unit < 1 << 50))


def _camera(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else f"camera:{text}"


def _host_port(text: str) -> tuple[str, int]:
    """`8080`, `0.0.0.0:8080` or `[::]:8080`."""
    host, _, port = text.rpartition(":")
    number = _number(port, int, "a port or HOST:PORT", lambda value: 0 <= value < 65536)
    return host.strip("[]") or "127.0.0.1", int(number)


def size_hw(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return int(height), int(width)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no class; give names such as cat,dog")
    return names


_Run = Callable[[argparse.Namespace], None]
_AddArguments = Callable[[argparse.ArgumentParser], None]

COMMANDS: dict[str, tuple[_Run, _AddArguments, str]] = {
    "demo": (_demo, _demo_arguments, "render a short video of codes, stream it, show the numbers"),
    "codes": (_codes, _codes_arguments, "write synthetic scenes of printed codes: a COCO dataset or a video"),
    "train": (_train, _train_arguments, "train a detector"),
    "boxes": (_boxes, _boxes_arguments, "show how well default boxes cover a dataset, and fit them to it"),
    "eval": (_eval, _eval_arguments, "measure the COCO and VOC metrics of a model on a dataset"),
    "export": (_export, _export_arguments, "write the ONNX file of a checkpoint, compared with PyTorch"),
    "build": (_build, _build_arguments, "build the TensorRT engine of an ONNX file, for this machine"),
    "parity": (_parity, _parity_arguments, "compare models with their checkpoint, by mAP and stage by stage"),
    "bench": (
        _bench,
        _bench_arguments,
        "measure accuracy, FPS, latency, size, memory and power of models side by side",
    ),
    "stream": (_stream, _stream_arguments, "detect in a camera, network stream, video or images"),
    "doctor": (_doctor, _doctor_arguments, "say what this machine has and lacks, and how to mend it"),
}
