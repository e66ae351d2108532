"""The GPU's pipeline on the GPU at hand: does it run, is it right, how fast is it. One command, a table and JSON.

    python benchmarks/gpu.py -o benchmarks/gpu.json
    python benchmarks/gpu.py --map bundled ../shared/data/codes_photos all --sections correctness -o …
    python benchmarks/gpu.py --dry-run

Needs cuda-core. What needs more is recorded as `not_run`, with the package's name, where that is absent: torch for
SSD300 and the peers, TensorRT for engines, onnx for other precisions, pycocotools for mAP. SSDlite is the bundled model
and SSD300 has random weights, unless others are given; NMS then gets about as much to do as from a trained model.

Each section stands alone: what fails is recorded with its message, and the others go on, until the GPU itself is lost.
The file is written after every row. Times are medians of `--runs` rounds, in every one of which each contender runs
once. Rows called fp32 are TF32 on GPUs that have it (compute capability 8.0 and later): in TensorRT, and in PyTorch
where the figures say that cuDNN may.
"""

from __future__ import annotations

import argparse
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from gpu_cases import NmsCase, differing_images, found_by, ssd300_boxes, uploaded
from gpu_dry_run import dry_run
from gpu_inputs import (
    Inputs,
    cases_to_suppress,
    expected_detections,
    import_peers,
    make_inputs,
    model_of_pair,
    onnx_files,
    peers_of,
    ssd300_checkpoint,
    ssd300_scores,
)
from gpu_models import Image, Model, OnGpu, build, open_engine, write_onnx
from gpu_nms_cases import LEVELS, SIZES_HW, preprocess_levels
from gpu_record import Row, Rows, attempt, is_absence, is_lost, need, reason, write_figures
from gpu_timing import Contender, captured, medians_ms, on_the_clock, on_the_gpu

from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.detections import Detections
from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.machine import describe_machine
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.cuda.base import Cuda, CudaError, is_installed, open_cuda
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS, Nms, preprocess_bgr
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.tensorrt.versions import load_tensorrt

LARGE_BATCH = 32
SUPPRESSED_BATCHES = (1, 16)
# Of `--map`: detections count as equal within 0.0005 of AP (0.05 points).
AP_TOLERANCE = 0.0005


@dataclass(kw_only=True)
class Bench(Inputs):
    """The same on a GPU.

    Attributes:
        engines: TensorRT engines that have run here, by architecture, precision and batch.
    """

    cuda: Cuda
    engines: dict[tuple[str, str, int], Path] = field(default_factory=dict)

    def detectors(self, arch: str, batch: int) -> Iterator[tuple[str, Callable[[], GpuDetector]]]:
        """Every way to run an architecture in our pipeline here."""
        checkpoint = self.models[arch].checkpoint
        for name, half in (("PyTorch fp32", False), ("PyTorch fp16", True)):
            if checkpoint is not None:
                yield name, partial(open_on_pytorch, checkpoint, half=half, batch=batch)
        for (of, precision, size), path in self.engines.items():
            if (of, size) == (arch, batch):
                yield f"TensorRT {precision}", partial(open_engine, path)


def open_on_pytorch(checkpoint: Path, *, half: bool, batch: int) -> GpuDetector:
    """
    Raises:
        NotRunError: no PyTorch, or one without CUDA.
    """
    need("torch", "safetensors")
    from gpu_torch import open_on_torch

    return open_on_torch(checkpoint, half=half, batch=batch)


def tensorrt(bench: Bench, rows: list[Row]) -> None:
    """Which engines can be built and run here."""
    load_tensorrt()  # before files are exported for it
    for model, precision, find in onnx_files(bench, rows):
        for batch in (1,) if bench.quick else (1, LARGE_BATCH):

            def measure(find: Callable[[], Path] = find, key: tuple[str, str, int] = (model, precision, batch)) -> Row:
                engine, figures = build(find(), key[2], bench.folder)
                bench.engines[key] = engine
                return figures

            attempt(rows, {"model": model, "precision": precision, "batch": batch}, measure)


def correctness(bench: Bench, rows: list[Row]) -> None:
    """Kernels and detectors against the CPU's."""
    about: Row = {"check": "preprocess, largest difference in levels", "allowed": LEVELS}
    attempt(rows, about, partial(_preprocess_levels, bench))
    for case_name, make in cases_to_suppress(bench).items():
        about = {"check": f"NMS of {case_name}, images that differ from the reference", "allowed": 0}
        attempt(rows, about, partial(_nms_differences, bench, make))
    for arch, model in bench.each_model(rows):
        expected = cache(partial(_reference, bench, model))
        for name, open_gpu in bench.detectors(arch, 1):
            if "int8" not in name:  # its ranges are made up
                about = {"check": f"{arch}, {name}: share of the CPU's 20 best detections that it finds too"}
                attempt(rows, about, partial(_found_share, bench, open_gpu, expected))
    for model_name, data, split in bench.pairs:
        about = {"check": f"AP of {model_name} on {data} {split}"}
        attempt(rows, about, partial(_ap, bench, model_name, data, split))


def _preprocess_levels(bench: Bench) -> Row:
    worst = max(max(preprocess_levels(bench.cuda, *sizes).values()) for sizes in SIZES_HW)
    return {"found": worst, "ok": worst <= LEVELS}


def _nms_differences(bench: Bench, make: Callable[[], NmsCase]) -> Row:
    case = make()
    expected = case.expected()
    differing = sum(len(differing_images(found, expected)) for found in found_by(bench.cuda, case))
    return {"found": differing, "detections": sum(map(len, expected)), "ok": differing == 0 and len(expected[0]) > 0}


def _reference(bench: Bench, model: Model) -> tuple[str, Detections]:
    """The CPU's detections: of the ONNX file, which is exported here if need be, or else of the checkpoint."""
    try:
        file = write_onnx(model, "fp32", bench.folder)
    except Exception as error:
        return f"PyTorch, for want of an ONNX file: {reason(error)}", expected_detections(bench, model.file)
    return "ONNX Runtime", expected_detections(bench, file)


def _found_share(
    bench: Bench, open_gpu: Callable[[], GpuDetector], expect: Callable[[], tuple[str, Detections]]
) -> Row:
    """Of the same class, each corner within a hundredth of the frame, the score within a hundredth."""
    reference, expected = expect()
    with open_gpu() as detector:
        for _ in range(3):  # as it comes, captured, replayed
            (found,) = detector([bench.frame])
    best = range(min(20, len(expected)))
    near = 0.01 * max(bench.frame.shape)
    hits = [
        (
            (found.labels == expected.labels[i])
            & (np.abs(found.boxes_xyxy - expected.boxes_xyxy[i]).max(axis=1, initial=0) < near)
            & (np.abs(found.scores - expected.scores[i]) < 0.01)
        ).any()
        for i in best
    ]
    return {"found": float(np.mean(hits)), "detections": len(best), "reference": reference}


def _ap(bench: Bench, model_name: str, data: str, split: str) -> Row:
    """The CPU's and the GPU's, in the same precision."""
    need("pycocotools")
    from ssd_edge.evaluation.evaluate import evaluate

    model = model_of_pair(model_name)
    dataset = lint(read_dataset(Path(data), None if split == "all" else split))[0]

    def ap(detector: Detector) -> float:
        with detector:
            return evaluate(detector, dataset).metrics["AP"]

    row: Row = {"images": len(dataset), "cpu": ap(open_detector(model.file))}
    openers: dict[str, Callable[[], Detector]] = {
        "TensorRT fp32": lambda: open_engine(build(write_onnx(model, "fp32", bench.folder), 8, bench.folder)[0])
    }
    if (checkpoint := model.checkpoint) is not None:
        openers["PyTorch fp32"] = partial(open_on_pytorch, checkpoint, half=False, batch=8)
    for name, open_gpu in openers.items():
        try:
            row[name] = ap(open_gpu())
        except Exception as error:
            if is_lost(error):
                raise
            row |= {f"{name} {key}": text for key, text in reason(error).items()}
    measured = [row[name] for name in openers if name in row]
    if measured:
        row["ok"] = all(abs(value - row["cpu"]) <= AP_TOLERANCE for value in measured)
    return row


def suppression(bench: Bench, rows: list[Row]) -> None:
    """NMS of SSD300: threshold 0.01, 400 candidates, IoU 0.45, 200 detections; then against torchvision's here.

    torchvision's cannot be parted from softmax, decoding and clipping. So ours is measured with them too: softmax and
    decoding by PyTorch, of the same logits and offsets; our kernels clip.
    """
    for batch in SUPPRESSED_BATCHES:
        attempt(rows, {"batch": batch}, partial(_suppression_ms, bench, batch))
        if batch == 1:  # thousands of small operations per image in torchvision: more of them tell nothing new
            attempt(rows, {"batch": batch, "against": "torchvision"}, partial(_suppression_peer_ms, bench, batch))
    times = [row["our_clip_nms_gpu_ms"] for row in rows if "our_clip_nms_gpu_ms" in row]
    if len(times) == 2:
        name = "our_clip_nms_gpu_ms of batch {1} / batch {0}".format(*SUPPRESSED_BATCHES)
        rows.append({name: times[1] / times[0]})


def _suppression(bench: Bench, stack: ExitStack, shape: tuple[int, int, int]) -> Nms:
    """With the limits that torchvision's SSD300 has."""
    return stack.enter_context(Nms(bench.cuda, bench.cuda.module(KERNEL_SOURCE, KERNELS), *shape, 400, 200))


def _suppression_ms(bench: Bench, batch: int) -> Row:
    _, scores, source = ssd300_scores(bench, batch)
    with ExitStack() as stack:
        stream = stack.enter_context(bench.cuda.stream())
        ours = _suppression(bench, stack, (batch, *scores.shape[1:]))
        addresses = [uploaded(stack, bench.cuda, stream, values) for values in (ssd300_boxes(batch), scores)]
        launch = captured(
            stack, stream, lambda: ours.launch(stream, *addresses, score_threshold=0.01, iou_threshold=0.45)
        )
        found = medians_ms({"our_clip_nms_gpu_ms": on_the_gpu(stack, bench.cuda, stream, launch)}, bench.runs)
    return {**found, "scores": source, "scores_above_per_image": int((scores > 0.01).sum() / batch)}


def _suppression_peer_ms(bench: Bench, batch: int) -> Row:
    import_peers()
    import torch
    from gpu_torch import TorchvisionSuppression

    logits, scores, source = ssd300_scores(bench, batch)
    peer = TorchvisionSuppression(logits, ssd300_checkpoint(bench))
    with ExitStack() as stack, torch.inference_mode():
        peer.decode()
        torch.cuda.synchronize()
        stream = stack.enter_context(bench.cuda.stream())
        same_stream = torch.cuda.ExternalStream(stream.handle)  # type: ignore[no-untyped-call]
        ours = _suppression(bench, stack, (batch, *scores.shape[1:]))
        addresses = [peer.boxes.data_ptr(), peer.scores.data_ptr()]
        launch = captured(
            stack, stream, lambda: ours.launch(stream, *addresses, score_threshold=0.01, iou_threshold=0.45)
        )

        def theirs() -> None:
            peer.suppress()
            torch.cuda.synchronize()

        def ours_and_wait() -> None:
            with torch.cuda.stream(same_stream):
                peer.decode()
            launch()
            stream.synchronize()

        contenders: dict[str, Contender] = {
            "our_softmax_decode_clip_nms_ms": on_the_clock(ours_and_wait),
            "torchvision_softmax_decode_clip_nms_ms": on_the_clock(theirs),
        }
        found = medians_ms(contenders, bench.runs)
        output = np.empty(ours.output_bytes, np.uint8)
        stream.copy(output.ctypes.data, ours.output, output.nbytes)
        stream.synchronize()
        our_count = len(ours.read(output, [(300, 300)])[0])
        their_count = len(peer.suppress()[0]["labels"])
    times = found["torchvision_softmax_decode_clip_nms_ms"] / found["our_softmax_decode_clip_nms_ms"]
    counts = {"our_detections": our_count, "torchvision_detections": their_count}  # of the first image
    return {**found, "times_as_fast": times, **counts, "scores": source}


def preprocessing(bench: Bench, rows: list[Row]) -> None:
    """1920×1080 to 300×300."""

    def measure() -> Row:
        frame = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
        with ExitStack() as stack:
            stream = stack.enter_context(bench.cuda.stream())
            kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
            source = uploaded(stack, bench.cuda, stream, frame)
            out = stack.enter_context(bench.cuda.memory(3 * 300 * 300)).address
            work = captured(
                stack, stream, lambda: preprocess_bgr(stream, kernels, source, 5760, (1080, 1920), out, (300, 300))
            )
            nothing = captured(stack, stream, lambda: stream.fill(out, 0, 1))
            contenders = {
                "gpu_ms": on_the_gpu(stack, bench.cuda, stream, work),
                "graph_of_one_byte_ms": on_the_gpu(stack, bench.cuda, stream, nothing),  # what the timing itself costs
            }
            return medians_ms(contenders, bench.runs)

    attempt(rows, {"frame": "1920×1080", "input": "300×300"}, measure)
    if bench.cuda.gpu.integrated:
        about = {"frame": "1920×1080 in pinned memory", "input": "300×300"}
        attempt(rows, about, partial(_shared_memory_ms, bench))


def _shared_memory_ms(bench: Bench) -> Row:
    """What `SSD_EDGE_FRAMES` chooses between on a Jetson: the kernel on mapped memory, or on a copy."""
    frame_hw, size_hw, pitch = (1080, 1920), (300, 300), 3 * 1920
    size = frame_hw[0] * pitch
    with ExitStack() as stack:
        stream = stack.enter_context(bench.cuda.stream())
        kernels = bench.cuda.module(KERNEL_SOURCE, KERNELS)
        pinned = stack.enter_context(bench.cuda.host_memory(size, mapped=True))
        pinned.array[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        on_gpu = stack.enter_context(bench.cuda.memory(size)).address
        out = stack.enter_context(bench.cuda.memory(3 * size_hw[0] * size_hw[1])).address

        def copy() -> None:
            stream.copy(on_gpu, pinned.array.ctypes.data, size)

        def resize(source: int) -> None:
            preprocess_bgr(stream, kernels, source, pitch, frame_hw, out, size_hw)

        def copy_and_resize() -> None:
            copy()
            resize(on_gpu)

        works: dict[str, Callable[[], None]] = {
            "mapped_ms": partial(resize, pinned.address),
            "copied_ms": copy_and_resize,
            "copy_alone_ms": copy,
        }
        contenders = {
            name: on_the_gpu(stack, bench.cuda, stream, captured(stack, stream, work)) for name, work in works.items()
        }
        return medians_ms(contenders, bench.runs)


def whole_graph(bench: Bench, rows: list[Row]) -> None:
    """The GPU's work from a frame in pinned memory or on the GPU to detections in pinned memory; the engine alone.

    Upload and preprocessing are launched before the graph, which has the engine, NMS and the copy of the results.
    What the CPU does before and behind it is in `end_to_end`.
    """
    for arch, _ in bench.each_model(rows):
        for name, open_gpu in bench.detectors(arch, 1):
            attempt(rows, {"model": arch, "engine": name}, partial(_whole_graph_ms, bench, open_gpu))


def _whole_graph_ms(bench: Bench, open_gpu: Callable[[], GpuDetector]) -> Row:
    with ExitStack() as stack:
        detector = stack.enter_context(open_gpu())
        engine, cuda, slot = detector.engine, detector.engine.cuda, detector._slots[0]
        memory = stack.enter_context(cuda.memory(bench.frame.nbytes))
        engine.stream.copy(memory.address, bench.frame.ctypes.data, bench.frame.nbytes)
        works: dict[str, Callable[[], None]] = {}
        for name, frame in {"from_pinned_ms": bench.frame, "from_gpu_ms": OnGpu(memory, bench.frame.shape)}.items():
            for _ in range(3):  # step by step, captured, replayed
                detector([frame])
            works[name] = partial(detector._enqueue, slot, slot.place([detector._checked(0, frame)]))
        if not slot.graphs:
            raise RuntimeError("the network was not captured")
        graph = stack.enter_context(engine.capture(partial(engine.enqueue, 1)))
        works["engine_ms"] = partial(graph.launch, engine.stream)
        contenders = {name: on_the_gpu(stack, cuda, engine.stream, work) for name, work in works.items()}
        found = medians_ms(contenders, bench.runs)
    return {**found, "more_than_engine": found["from_gpu_ms"] / found["engine_ms"] - 1}


def end_to_end(bench: Bench, rows: list[Row]) -> None:
    """A frame in the CPU's memory to detections there, batch 1, each model's own thresholds.

    torch.compile, which takes minutes and may fail, comes last, in rows of its own.
    """
    for compiled in (False,) if bench.quick else (False, True):
        for arch, model in bench.each_model(rows):
            peers = peers_of(bench, model, compiled=compiled)
            about = {"model": arch, "weights": model.weights, "against": list(peers)}
            attempt(rows, about, partial(_end_to_end_ms, bench, arch, peers))


def _end_to_end_ms(bench: Bench, arch: str, peers: dict[str, Callable[[], Any]]) -> Row:
    contenders: dict[str, Contender] = {}
    row: Row = {}

    def left_out(name: str, error: Exception) -> None:
        if is_lost(error):
            raise error
        row.update({f"{name} {key}": text for key, text in reason(error).items()})

    with ExitStack() as stack:

        def add(name: str, make: Callable[[], Callable[[], object]]) -> None:
            try:
                run = make()
                run()
                contenders[name] = on_the_clock(run)
            except Exception as error:
                left_out(name, error)

        for name, open_gpu in bench.detectors(arch, 1):
            add(f"ssd-edge, {name}", partial(_our_peer, stack, open_gpu, bench.frame))
        for name, open_peer in peers.items():
            add(name, partial(_entered, stack, open_peer))
        row["ms"] = found = medians_ms(contenders, bench.runs, left_out)
    if eager := found.get("torchvision eager"):
        row["times_torchvision_eager"] = {name: eager / ms for name, ms in found.items()}
    return row


def _entered(stack: ExitStack, open_peer: Callable[[], Any]) -> Callable[[], object]:
    peer: Callable[[], object] = stack.enter_context(open_peer())
    return peer


def _our_peer(stack: ExitStack, open_gpu: Callable[[], GpuDetector], frame: Image) -> Callable[[], object]:
    return partial(stack.enter_context(open_gpu()), [frame])


def hardware_floor(bench: Bench, rows: list[Row]) -> None:
    """Engines at batch 32: share of what a matrix product reaches in half precision on this GPU."""
    need("torch", "safetensors")
    import torch
    from gpu_torch import tera_flop

    batch = 4 if bench.quick else LARGE_BATCH
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    peak = 2 * 8192**3 / medians_ms({"": on_the_clock(product)}, 20)[""] / 1e9  # TFLOPS
    for arch, model in bench.each_model(rows):
        if model.checkpoint is None:
            rows.append({"model": arch, "not_run": f"{model.file.name} is no checkpoint, whose arithmetic is counted"})
            continue
        count = cache(partial(tera_flop, model.checkpoint))
        for name, open_gpu in bench.detectors(arch, batch):

            def measure(open_gpu: Callable[[], GpuDetector] = open_gpu, count: Callable[[], float] = count) -> Row:
                work = batch * count()
                with ExitStack() as stack:
                    engine = stack.enter_context(open_gpu()).engine
                    engine.enqueue(batch)
                    graph = stack.enter_context(engine.capture(partial(engine.enqueue, batch)))
                    run = on_the_gpu(stack, engine.cuda, engine.stream, partial(graph.launch, engine.stream))
                    ms = medians_ms({"": run}, bench.runs)[""]
                return {
                    "engine_ms": ms,
                    "images_per_second": 1e3 * batch / ms,
                    "tera_flop": work,
                    "share_of_matmul": work / (ms / 1e3) / peak,
                }

            attempt(rows, {"model": arch, "engine": name, "batch": batch, "matmul_tflops": peak}, measure)


SECTIONS: dict[str, Callable[[Bench, list[Row]], None]] = {
    "tensorrt": tensorrt,
    "correctness": correctness,
    "suppression": suppression,
    "preprocess": preprocessing,
    "whole_graph": whole_graph,
    "end_to_end": end_to_end,
    "hardware_floor": hardware_floor,
}


def run_sections(bench: Bench, names: list[str], figures: dict[str, Any], output: Path | None) -> None:
    """Fill `figures` section by section; what there is, is kept after each row, until the GPU is lost."""
    for name in names:
        print(f"\n## {name}", flush=True)
        rows = Rows(lambda: write_figures(figures, output))
        figures[name] = rows
        try:
            SECTIONS[name](bench, rows)
        except Exception as error:
            if is_lost(error):
                rows.append({"failed": f"the GPU is lost: {type(error).__name__}: {error}"})
                traceback.print_exc()
                break
            if not is_absence(error):
                traceback.print_exc()
            rows.append(reason(error))
        rows.keep()


def print_table(figures: dict[str, Any]) -> None:
    """A line a row: names and figures."""
    for name, rows in figures.items():
        print(f"\n## {name}")
        for row in rows if isinstance(rows, list) else [rows]:
            if isinstance(row, dict):
                print("  " + "  ".join(f"{key} {_short(value)}" for key, value in row.items()))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str | bool | None]:
    """Of CUDA's packages and TensorRT, and PyTorch's own CUDA."""
    found: dict[str, str | bool | None] = {
        dist.name: dist.version
        for dist in distributions()
        if dist.name.startswith(("cuda-", "cuda_", "tensorrt", "pycuda", "nvidia-cuda-nvrtc"))
    }
    if is_installed("torch"):
        import torch

        found |= {
            "CUDA of PyTorch": torch.version.cuda,
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "torch.backends.cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        }
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ssdlite", type=Path, help="checkpoint or ONNX file of an SSDlite320 (default: bundled)")
    parser.add_argument(
        "--ssd300", type=Path, help="checkpoint or ONNX file of an SSD300-VGG16 (default: random, 90 classes)"
    )
    parser.add_argument(
        "--onnx", type=Path, nargs="*", default=[], metavar="FILE", help="further ONNX files to build and run"
    )
    parser.add_argument(
        *("--map", "-m"),
        nargs=3,
        action="append",
        default=[],
        metavar=("MODEL", "DATA", "SPLIT"),
        help="compare mAP: a .pt, an .onnx or `bundled`, a dataset, and its split or `all`; may be repeated",
    )
    parser.add_argument("--frame", type=Path, help="image to detect in (default: a synthetic one with four QR codes)")
    parser.add_argument("--runs", type=int, default=200, help="rounds per median (default: 200)")
    parser.add_argument(
        "--sections",
        nargs="*",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="(default: all); engines are measured only along with tensorrt, which builds them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="10 rounds, batch 1, no torch.compile: does it work at all"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="prepare everything that needs no GPU, and say what cannot be prepared"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    return parser


def main() -> None:
    """Command line."""
    parser = make_parser()
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        try:
            inputs = make_inputs(args, Path(name))
            if args.dry_run:
                raise SystemExit(dry_run(inputs, args.sections))
            opened = open_cuda()
        except (CudaError, MissingDependencyError, UsageError) as error:
            parser.exit(1, f"{error}\n")
        with opened as cuda:
            bench = Bench(**vars(inputs), cuda=cuda)
            figures: dict[str, Any] = {
                "machine": describe_machine(),
                "gpu": str(cuda.gpu),
                "versions": versions(),
                "runs": bench.runs,
                "weights": {arch: model.weights for arch, model in bench.models.items()},
                "absent": bench.absent,
            }
            run_sections(bench, args.sections, figures, args.output)
            print_table(figures)
    failed = sum("failed" in row for section in args.sections for row in figures.get(section, []))
    if failed:
        parser.exit(1, f"{failed} measurements failed; they are in the figures, word for word\n")


if __name__ == "__main__":
    main()
