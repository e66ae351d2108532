"""Decoders in hardware: the real PyAV and FFmpeg, on a driver without a GPU that stands in for NVIDIA's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from ssd_edge.errors import SourceError
from ssd_edge.runtime.cuda.find import find_gpu
from ssd_edge.runtime.gpu_use import driver_problem
from ssd_edge.runtime.pixels import YuvPlanes
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import find_source
from ssd_edge.runtime.sources.hardware import with_decoder
from ssd_edge.runtime.sources.video import open_video
from tests.fakes.cuda_driver import driver_of_pyav
from tests.runtime.sources.sample_video import encode, ramp

Run = Callable[..., list[str]]
NO_GPU = find_gpu() is None
PREFACE = """
import sys
import numpy as np
from dataclasses import replace
from pathlib import Path
from ssd_edge.errors import SourceError
from ssd_edge.runtime.cuda.device_frames import device_frame
from ssd_edge.runtime.pixels import GpuPicture, YuvPlanes
from ssd_edge.runtime.preprocess import preprocess
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.video import open_video

def expected(n, size_hw):
    '''What libnvcuvid.c "decodes": luma and chroma of the n-th picture.'''
    (y, x), (uv_y, uv_x) = np.mgrid[:size_hw[0], :size_hw[1]], np.mgrid[:-(-size_hw[0] // 2), :-(-size_hw[1] // 2)]
    return (40 * n + 2 * x + y).astype(np.uint8), np.stack([100 + n + uv_x, 30 + n + uv_y], -1).astype(np.uint8)

def levels_apart(planes, n, size_hw):
    luma, chroma = expected(n, size_hw)
    found = planes.luma, np.concatenate([plane.reshape(*plane.shape[:2], -1) for plane in planes.chroma], -1)
    return max(int(np.abs(one.astype(int) - two).max()) for one, two in zip(found, (luma, chroma), strict=True))

def open(path, hwaccel="auto", gpu=True):
    return open_video(Path(path), SourceOptions(hwaccel=hwaccel, gpu=gpu))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run code with arguments, on the driver; the lines that it prints."""
    drivers = {decodes: driver_of_pyav(tmp_path_factory.mktemp("driver"), decodes=decodes) for decodes in (True, False)}

    def run_code(code: str, *arguments: object, decodes: bool = True) -> list[str]:
        result = drivers[decodes].run(PREFACE + code, *map(str, arguments), SSD_EDGE_CUDA="core")
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return run_code


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames of H.264, 64×48, that say that they are in BT.709."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    encode(path, [ramp(shift=number % 8) for number in range(40)], colour_space=1, options={"bf": "0", "refs": "1"})
    return path


def test_pictures_stay_on_the_gpu_for_a_detector_there(run: Run, video: Path) -> None:
    """However many are held; the kernel reads them where they lie."""
    pytest.importorskip("cuda.core")
    code = """
from tests.fakes.host_cuda import HostCuda
from ssd_edge.runtime.colours import BT709
from ssd_edge.runtime.cuda.kernels import KERNEL_SOURCE, KERNELS
from ssd_edge.runtime.cuda.preprocess import Plane, preprocess_yuv

with open(sys.argv[1]) as source:
    pictures = [frame.pixels for frame in source.frames()]
print(source.decoder, len(pictures), {type(each).__name__ for each in pictures}, {each.size_hw for each in pictures})
print(max(levels_apart(each.download(), n, (48, 64)) for n, each in enumerate(pictures)))
print({each.download().colours == BT709 for each in pictures})
cuda, image = HostCuda(), np.empty((30, 40, 3), np.uint8)
with cuda.stream() as stream:
    for picture in pictures[::13]:
        frame = device_frame(picture.surface, cuda, stream)
        luma, kernels = Plane(frame.address, frame.pitch, *picture.size_hw), cuda.module(KERNEL_SOURCE, KERNELS)
        preprocess_yuv(stream, kernels, luma, frame.chroma.plane, image.ctypes.data, (30, 40), colours=BT709)
        levels = np.abs(image.astype(int) - preprocess(picture.download(), (30, 40))).max()
        print(frame.chroma.colours == BT709, levels <= 1)
print(picture.bgr().shape)
"""
    assert run(code, video) == [
        "h264 (NVDEC) 40 {'GpuPicture'} {(48, 64)}",
        "0",
        "{True}",
        *["True True"] * 4,
        "(48, 64, 3)",
    ]


def test_pictures_are_downloaded_for_a_detector_on_the_processor(run: Run, video: Path) -> None:
    code = """
with open(sys.argv[1], "cuda", gpu=False) as source:
    for n, frame in enumerate(source.frames()):
        assert isinstance(frame.pixels, YuvPlanes) and levels_apart(frame.pixels, n, (48, 64)) == 0
print(n, source.decoder)
with open(sys.argv[1], gpu=False) as source:
    print(type(next(source.frames()).pixels).__name__, source.decoder)
"""
    assert run(code, video) == ["39 h264 (NVDEC)", "YuvPlanes h264 (FFmpeg)"]


def test_pictures_that_the_kernel_cannot_read_are_downloaded(run: Run, video: Path, tmp_path: Path) -> None:
    """Ten bits, and what is to be turned."""
    pictures = [ramp((64, 96), shift) for shift in range(3)]
    deep, turned = tmp_path / "deep.mp4", tmp_path / "turned.mp4"
    encode(
        deep, pictures, codec="libx265", pixel_format="yuv420p10le", options={"x265-params": "bframes=0:log-level=none"}
    )
    turn(video, turned)
    code = """
for path, n, size_hw in zip(sys.argv[1:], (2, 39), ((64, 96), (48, 64))):
    with open(path) as source:
        *_, frame = source.frames()
    planes = frame.pixels.turned(-90) if "turned" in path else frame.pixels
    print(source.decoder, frame.size_hw, levels_apart(planes, n, size_hw))
"""
    assert run(code, deep, turned) == ["hevc (NVDEC) (64, 96) 0", "h264 (NVDEC) (64, 48) 0"]


def turn(video: Path, target: Path) -> None:
    """The same video, to be shown turned by 90°."""
    with av.open(str(video)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        assert isinstance(stream, VideoStream)
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def test_what_the_gpu_does_not_take_is_decoded_on_the_processor(run: Run, tmp_path: Path) -> None:
    wide, jpegs = tmp_path / "wide.mp4", tmp_path / "jpegs.avi"  # the stand-in takes 640 pixels
    encode(wide, [ramp((48, 656))] * 3)
    encode(jpegs, [ramp()] * 3, codec="mjpeg", pixel_format="yuvj420p")
    code = """
for path in sys.argv[1:]:
    for hwaccel in ("auto", "cuda"):
        try:
            with open(path, hwaccel) as source:
                *_, frame = source.frames()
            print(source.decoder, frame.size_hw, type(frame.pixels).__name__, frame.image_bgr[-1, -1].tolist()[1] > 200)
        except SourceError as error:
            print(error)
"""
    found = run(code, wide, jpegs)
    fix = (
        "give --hwaccel auto, which decodes on the processor where it has to, or another video, such as H.264 in 4:2:0"
    )
    assert found[0] == "h264 (FFmpeg) (48, 656) YuvPlanes True"
    assert found[1] == f"{wide}: NVDEC does not take h264 in yuv420p, 656×48; {fix}"
    assert found[2] == "mjpeg (FFmpeg) (48, 64) YuvPlanes True"
    assert found[3] == f"{jpegs}: NVDEC does not take mjpeg; {fix}"


def test_a_driver_without_a_decoder(run: Run, video: Path) -> None:
    code = """
with open(sys.argv[1]) as source:
    print(len(list(source.frames())), source.decoder)
try:
    open(sys.argv[1], "cuda")
except SourceError as error:
    print(error)
"""
    first, second = run(code, video, decodes=False)
    assert first == "40 h264 (FFmpeg)"
    assert second.startswith("--hwaccel cuda: the NVIDIA driver here has no decoder (libnvcuvid.so.1: cannot open")
    assert second.endswith(
        "a container needs `video` in NVIDIA_DRIVER_CAPABILITIES; --hwaccel auto decodes on the processor where it has "
        "to"
    )


def test_sources_are_opened_again_next_to_a_detector(run: Run, video: Path) -> None:
    """In other threads too: FFmpeg's first device gives the GPU's context the flags that it wants."""
    pytest.importorskip("cuda.core")
    code = """
import threading
from ssd_edge.runtime.cuda.find import open_cuda
from ssd_edge.runtime.sources.find import find_source

def look():
    with open(sys.argv[1], "cuda") as source:
        print(len(list(source.frames())))

if sys.argv[2] == "late":
    with open_cuda():
        try:
            look()
        except SourceError as error:
            print(error)
else:
    find_source("rtsp://127.0.0.1:9/", SourceOptions(gpu=True))  # not opened yet
    with open_cuda():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
"""
    assert run(code, video, "early") == ["40"]
    (late,) = run(code, video, "late")
    assert late.startswith("--hwaccel cuda: FFmpeg cannot use the GPU (Operation not supported), as where this process")


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu(video: Path) -> None:
    with open_video(video, SourceOptions(gpu=True)) as source:
        assert isinstance(next(source.frames()).pixels, YuvPlanes)
        assert source.decoder == "h264 (FFmpeg)"
    advice = "--hwaccel auto decodes on the processor where it has to"
    for hwaccel, message in (
        ("cuda", f"no NVIDIA GPU can be used here ({driver_problem()}); see `ssd-edge doctor`"),
        ("qsv", "this PyAV cannot use Quick Sync (Function not implemented); --hwaccel gstreamer may"),
    ):
        for uri in (video, "rtsp://127.0.0.1:9/", "http://127.0.0.1:9/"):  # also of what is not opened yet
            with pytest.raises(SourceError) as raised:
                find_source(uri, SourceOptions(hwaccel=hwaccel)).open()
            assert str(raised.value) == f"--hwaccel {hwaccel}: {message}; {advice}"


def test_another_decoder_gives_what_the_containers_does(video: Path) -> None:
    """As Quick Sync's do, which have other names; here FFmpeg's own."""
    with av.open(str(video)) as container:
        codec = container.streams.video[0].codec_context
        other = with_decoder(codec, "h264", None)
        pictures = [
            (codec.decode(packet), other.decode(packet if packet.size else None)) for packet in container.demux(video=0)
        ]
    count = 0
    for one, two in ((one, two) for pair in pictures for one, two in zip(*pair, strict=True)):
        assert (one.pts, one.time_base) == (two.pts, two.time_base)
        assert np.array_equal(one.to_ndarray(), two.to_ndarray())
        count += 1
    assert count == 40


def test_a_stream_with_an_engine_leaves_pictures_on_the_gpu(
    run: Run, video: Path, model_path: Path, tmp_path: Path
) -> None:
    """Detections are those of the same pictures in memory; a recording fetches each picture."""
    code = """
import json
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.detector import open_detector
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.stream import run as stream
from ssd_edge.runtime.stream.config import StreamConfig
from tests.fakes.host_engine import HostEngine

video, model, out = map(Path, sys.argv[1:])
cpu = open_detector(model, threads=1)

class Kinds(Sink):
    found = set()

    def write(self, result, image_bgr):
        self.found.add(type(result.frame.pixels).__name__)

def detections(hwaccel):
    with open(video, hwaccel, gpu=False) as source:
        return [len(cpu([frame.pixels])[0]) for frame in source.frames()]

stream.open_detector = lambda *_, **__: GpuDetector(HostEngine(cpu.infer, (cpu.card.height, cpu.card.width)), cpu.card)
config = StreamConfig(video, Path("model.engine"), jsonl=str(out / "a.jsonl"), save=out / "a.mp4")
print(stream.run_stream(config, extra_sinks=[Kinds()], progress=False).frames, Kinds.found)
found = [len(json.loads(line)["detections"]) for line in (out / "a.jsonl").read_text().splitlines()]
print(found == detections("cuda"), found == detections("none"))
with open(out / "a.mp4", "none") as source:
    print(len(list(source.frames())))
"""
    assert run(code, video, model_path, tmp_path) == ["40 {'GpuPicture'}", "True False", "40"]
