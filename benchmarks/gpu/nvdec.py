"""A video decoded by the GPU (NVDEC), its frames detected in where they lie: is it right, and how fast is it.

    python -m benchmarks.gpu.nvdec video.mp4 -o nvdec.json

Decodes with PyNvVideoCodec and with PyAV as streams do (`--hwaccel cuda`), whichever are installed; PyAV is also the
CPU's decoder to compare with. Then many streams at once, decoded by the GPU and by the processor. Exit status 1: frames
differ from the CPU's, or a row failed. What is absent is recorded, and no failure. Calls are checked against the
bindings of PyNvVideoCodec 2.2.4 and PyAV 18.1; nothing here has run on a GPU yet.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.models import Image, build, bundled
from benchmarks.gpu.nms_cases import LEVELS
from benchmarks.gpu.record import NotRunError, Row, Rows, attempt, need, write_figures
from ssd_edge.bundled import bundled_model
from ssd_edge.machine import describe_machine
from ssd_edge.packages import is_installed
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT709_FULL
from ssd_edge.runtime.cuda.base import Cuda
from ssd_edge.runtime.cuda.device_frames import Nv12Frame, device_frame
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import Plane, preprocess_yuv
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.pixels import GpuPicture, YuvPlanes
from ssd_edge.runtime.preprocess import preprocess
from ssd_edge.runtime.sources.base import SourceOptions

NVDEC_LIBRARY = "libnvcuvid.so.1"  # of the driver
COMPARED = 12  # frames
CPU_FRAMES = 100  # to time
BATCH = 4
SOURCES = 16  # streams at once
SIZE_HW = (320, 320)  # of the bundled model
# Standards that leave decoders no freedom: every one gives the same bytes. Those whose transform is defined in real
# numbers (MPEG-1, MPEG-2, MPEG-4 part 2) allow a level, which adds up until the next key frame.
EXACT_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
INEXACT_LEVELS = 8

# Frames as a decoder gives them, in lists: those of one list are valid until the next list is asked for.
Frames = Iterator[list[Any]]
Decode = Callable[[], Frames]


def pynvvideocodec_frames(video: Path) -> Frames:
    """By PyNvVideoCodec: one array of luma and chroma each. Its memory is reused by the next `Decode`."""
    nvc = importlib.import_module("PyNvVideoCodec")
    demuxer = nvc.CreateDemuxer(filename=str(video))
    decoder = nvc.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True)
    full = demuxer.ColorRange() == nvc.ColorRange.JPEG
    if demuxer.ColorSpace() == nvc.ColorSpace.BT_709:
        colours = BT709_FULL if full else BT709
    else:
        colours = BT601_FULL if full else BT601
    for packet in demuxer:
        if frames := decoder.Decode(packet):
            yield [Nv12Frame(frame, colours=colours) for frame in frames]


def pyav_frames(video: Path) -> Frames:
    """By PyAV, as a stream does; each frame's memory is its own while it lives."""
    from ssd_edge.runtime.sources.video import open_video

    with open_video(video, SourceOptions(hwaccel="cuda", gpu=True)) as source:
        for frame in source.frames():
            yield [frame.pixels]


DECODERS: dict[str, tuple[str, Callable[[Path], Frames]]] = {  # by name: the package, and what decodes with it
    "PyAV": ("av", pyav_frames),
    "PyNvVideoCodec": ("PyNvVideoCodec", pynvvideocodec_frames),  # last: it ends the process when CUDA fails
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("video", type=Path, help="8-bit 4:2:0 video in a codec that the GPU decodes, such as H.264")
    parser.add_argument("--frames", type=int, default=300, help="at most, for each figure (default: 300)")
    parser.add_argument("--dry-run", action="store_true", help="decode on the CPU only")
    parser.add_argument("-o", "--output", type=Path, help="write the outcome here as JSON")
    args = parser.parse_args()
    if not args.video.is_file():
        parser.exit(1, f"{args.video} is not a file; give a video, such as an H.264 file\n")
    figures: dict[str, Any] = {"machine": describe_machine(), "video": args.video.name}
    rows = Rows(lambda: write_figures(figures, args.output))
    figures["rows"] = rows
    attempt(rows, {"decoder": "PyAV on the CPU"}, partial(_cpu_figures, args.video))
    why = why_not()
    if args.dry_run:
        dry_streams(rows, args.video)
        print(f"dry run: the GPU {'could decode' if why is None else f'would be left out: {why}'}")
        raise SystemExit(1 if any("failed" in row for row in rows) else 0)
    if why is not None:
        figures["skipped"] = why
        print(f"skipped: {why}")
    else:
        measure(figures, rows.keep, args.video, args.frames)
    rows.keep()
    raise SystemExit(1 if any(row.get("ok") is False or "failed" in row for row in rows) else 0)


def dry_streams(rows: list[Row], video: Path) -> None:
    """Streams that the processor decodes and detects in."""
    with tempfile.TemporaryDirectory() as folder, open_detector(bundled_model()) as detector:
        add_streams(rows, lambda: detector, video, Path(folder), {"PyAV on the CPU": "none"}, 2)


def why_not() -> str | None:
    """What the machine lacks to decode on the GPU; None: nothing."""
    if not any(is_installed(package) for package, _ in DECODERS.values()):
        return "neither PyNvVideoCodec nor PyAV (av) is installed"
    if find_gpu() is None:
        return "there is no NVIDIA GPU, or no cuda-core"
    try:
        ctypes.CDLL(NVDEC_LIBRARY)
    except OSError as error:
        return f"no decoder in the driver: {error}; a container needs NVIDIA_DRIVER_CAPABILITIES with `video` in it"
    return None


def measure(figures: dict[str, Any], write: Callable[[], object], video: Path, most: int) -> None:
    """Add the rows of each decoder to the figures."""
    rows: list[Row] = figures["rows"]
    if is_installed("av"):
        from ssd_edge.runtime.sources.hardware import accelerator_of

        accelerator_of(SourceOptions(gpu=True))  # before the GPU is opened
    with open_cuda() as cuda, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        @cache  # opened after the first frames were compared: it takes longer than they do
        def detector() -> GpuDetector:
            return stack.enter_context(open_detector_on_gpu(folder))

        for name, (package, decode) in DECODERS.items():
            figures["under_way"] = name  # stays in the file where the decoder ends the process
            write()
            frames = partial(_frames, package, decode, video)
            attempt(rows, {"decoder": name, "what": "compare"}, partial(compare, cuda, frames, video))
            attempt(rows, {"decoder": name, "what": "decode"}, partial(speed, cuda, frames, most))
            attempt(rows, {"decoder": name, "what": "detect"}, partial(detect, detector, frames, most))
            if package == "av":
                add_streams(rows, detector, video, folder, {"PyAV": "cuda", "PyAV on the CPU": "none"}, most)
    del figures["under_way"]


def add_streams(
    rows: list[Row], open_detector: Callable[[], Detector], video: Path, folder: Path, ways: dict[str, str], most: int
) -> None:
    """A row of many streams at once for each way to decode: its name, and the `hwaccel` of it."""

    def streamed(hwaccel: str) -> Row:
        need("av")
        from benchmarks.gpu.decoded_streams import repeated, stream_row

        detector = open_detector()
        return stream_row(detector, repeated(video, folder / "repeated.mp4", most), hwaccel, SOURCES)

    for name, hwaccel in ways.items():
        attempt(rows, {"decoder": name, "what": "streams"}, partial(streamed, hwaccel))


def _frames(package: str, decode: Callable[[Path], Frames], video: Path) -> Frames:
    need(package)
    return decode(video)


def open_detector_on_gpu(folder: Path) -> GpuDetector:
    """The bundled model: in PyTorch, in half precision, where it has CUDA; else a TensorRT engine, which is built here.

    Raises:
        MissingDependencyError: neither is installed.
        RuntimeError: the GPU refuses the engine.
    """
    model = bundled()
    assert model.onnx is not None
    assert model.checkpoint is not None
    try:
        need("torch", "torchvision", "safetensors")
        from benchmarks.gpu.torch_peers import open_on_torch

        return open_on_torch(model.checkpoint, half=True, batch=BATCH, slots=2)
    except NotRunError:
        detector = open_detector(build(model.onnx, BATCH, folder)[0])
        assert isinstance(detector, GpuDetector)
        return detector


def compare(cuda: Cuda, decode: Decode, video: Path) -> Row:
    """The first frames: as decoded, and as the model's input, against the CPU's; in levels of 0–255.

    The input is compared twice. `kernel_levels` is that of the very bytes that the GPU decoded, put through OpenCV: the
    kernel's own error. `input_levels` is that of the CPU's decoder put through OpenCV. `fetched_levels` is the error of
    a picture that a sink fetches from the GPU.
    """
    need("av")
    codec, expected = cpu_frames(video, COMPARED)
    decoded_levels, kernel_levels, input_levels, fetched_levels, count = 0, 0, 0, 0, 0
    for frame in islice((frame for frames in decode() for frame in frames), len(expected)):
        nv12, image = downloaded(cuda, frame)
        if nv12.shape != expected[count].shape:
            raise ValueError(f"NV12 of {nv12.shape} from the GPU, and {expected[count].shape} from the CPU")
        decoded_levels = max(decoded_levels, _levels(nv12, expected[count]))
        if isinstance(frame, GpuPicture):
            fetched_levels = max(fetched_levels, _levels(nv12_in_memory(frame), nv12))
        kernel_levels = max(kernel_levels, _levels(image, on_the_cpu(nv12)))
        input_levels = max(input_levels, _levels(image, on_the_cpu(expected[count])))
        count += 1
    allowed = LEVELS if codec in EXACT_CODECS else INEXACT_LEVELS
    return {
        "codec": codec,
        "frames": count,
        "decoded_levels": decoded_levels,
        "fetched_levels": fetched_levels,
        "kernel_levels": kernel_levels,
        "input_levels": input_levels,
        "allowed": {"kernel_levels": LEVELS, "input_levels": allowed},
        "ok": 0 < count == len(expected)
        and fetched_levels == 0
        and kernel_levels <= LEVELS
        and input_levels <= allowed,
    }


def surface_of(frame: Any) -> Any:
    """What the GPU reads of a frame."""
    return frame.surface if isinstance(frame, GpuPicture) else frame


def downloaded(cuda: Cuda, frame: Any) -> tuple[Image, Image]:
    """uint8 [H·3/2, W] NV12 as it lies on the GPU, and uint8 [320, 320, 3] RGB that the kernel makes of it (BT.601)."""
    with ExitStack() as stack:
        stream = stack.enter_context(cuda.stream())
        taken = device_frame(surface_of(frame), cuda, stream)
        assert taken.chroma is not None
        nv12 = np.empty((taken.height * 3 // 2, taken.width), np.uint8)
        planes = (
            (taken.address, taken.pitch, taken.height),
            (taken.chroma.plane.address, taken.chroma.plane.pitch, taken.height // 2),
        )
        target = nv12.ctypes.data
        for address, pitch, rows in planes:
            stream.copy_rows(target, taken.width, address, pitch, taken.width, rows)
            target += rows * taken.width
        image = np.empty((*SIZE_HW, 3), np.uint8)
        out = stack.enter_context(cuda.memory(image.nbytes)).address
        luma = Plane(taken.address, taken.pitch, taken.height, taken.width)
        preprocess_yuv(stream, cuda.module(KERNEL_SOURCE, KERNELS), luma, taken.chroma.plane, out, SIZE_HW)
        stream.copy(image.ctypes.data, out, image.nbytes)
        stream.synchronize()
    return nv12, image


def nv12_in_memory(picture: GpuPicture) -> Image:
    """uint8 [H·3/2, W] NV12, by way of the picture's own download."""
    planes = picture.download()
    assert isinstance(planes, YuvPlanes)
    return np.concatenate([planes.luma, planes.chroma[0].reshape(-1, planes.luma.shape[1])])


def on_the_cpu(nv12: Image) -> Image:
    """The model's input by OpenCV, with the colours that the kernel takes by default."""
    height = len(nv12) * 2 // 3
    return preprocess(YuvPlanes(nv12[:height], (nv12[height:].reshape(height // 2, -1, 2),)), SIZE_HW)


def _levels(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


def cpu_frames(video: Path, count: int) -> tuple[str, list[Image]]:
    """The codec's name, and the first frames as uint8 [H·3/2, W] NV12, decoded on the CPU.

    Raises:
        NotRunError: another pixel format.
    """
    import av

    with av.open(str(video)) as container:
        codec = container.streams.video[0].codec_context.name
        frames = []
        for frame in islice(container.decode(video=0), count):
            if frame.format.name not in ("yuv420p", "yuvj420p"):
                raise NotRunError(f"{video.name} has {frame.format.name} frames; expected yuv420p")
            i420: Any = frame.to_ndarray()
            frames.append(nv12_of(i420, frame.height))
    return codec, frames


def nv12_of(i420: Image, height: int) -> Image:
    """The same bytes with u and v in turns: uint8 [H·3/2, W] of I420 to NV12."""
    u, v = i420[height:].reshape(2, -1)
    return np.concatenate([i420[:height], np.stack([u, v], axis=1).reshape(height // 2, -1)])


def _cpu_figures(video: Path) -> Row:
    """Frames per second of the CPU, to compare with; libavcodec chooses how many threads it takes."""
    need("av")
    import av

    codec, frames = cpu_frames(video, COMPARED)
    if not frames:
        raise ValueError(f"{video.name} has no frames")
    height, width = frames[0].shape
    with av.open(str(video)) as container:
        begin = time.perf_counter()
        count = sum(1 for _ in islice(container.decode(video=0), CPU_FRAMES))
        per_second = count / (time.perf_counter() - begin)
    return {"codec": codec, "size": f"{width}×{height * 2 // 3}", "frames": count, "frames_per_second": per_second}


def speed(cuda: Cuda, decode: Decode, most: int) -> Row:
    """Frames per second of decoding alone, after the first list of frames, which takes the decoder's set-up."""
    frames = decode()
    with cuda.stream() as stream:
        device_frame(surface_of(_first(frames)[-1]), cuda, stream)
        stream.synchronize()
        begin, count, last = time.perf_counter(), 0, None
        for some in frames:
            count, last = count + len(some), some[-1]
            if count >= most:
                break
        if last is None:
            raise ValueError("the video has too few frames to time")
        device_frame(surface_of(last), cuda, stream)  # the stream waits for it
        stream.synchronize()
        seconds = time.perf_counter() - begin
    return {"frames": count, "frames_per_second": count / seconds}


def _first(frames: Frames) -> list[Any]:
    for some in frames:
        return some
    raise ValueError("the decoder gave no frames")


def detect(open_detector: Callable[[], GpuDetector], decode: Decode, most: int) -> Row:
    """Frames per second from the video to detections, after the first list of frames.

    A list is done before the next is decoded, as PyNvVideoCodec reuses its memory. So this is a lower bound.
    """
    frames, detector = decode(), open_detector()
    detector(_first(frames))
    begin, count, found = time.perf_counter(), 0, 0
    for some in frames:
        found += sum(len(image.above(0.4)) for image in detector(some))
        count += len(some)
        if count >= most:
            break
    if count == 0:
        raise ValueError("the video has too few frames to time")
    return {
        "frames": count,
        "frames_per_second": count / (time.perf_counter() - begin),
        "detections_above_0.4_per_frame": found / count,
    }


if __name__ == "__main__":
    main()
