"""`benchmarks/gpu/nvdec.py` without a GPU: what it compares and times, on memory that stands for a GPU's."""

import json
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from benchmarks.gpu import nvdec
from benchmarks.gpu.decoded_streams import repeated
from benchmarks.gpu.record import NotRunError
from ssd_edge.bundled import bundled_model
from ssd_edge.errors import SourceError
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.colours import BT601, BT709, BT709_FULL
from ssd_edge.runtime.cuda.device_frames import Nv12Frame
from ssd_edge.runtime.cuda.find import find_gpu
from ssd_edge.runtime.detector import open_detector
from tests.fakes.cuda_driver import driver_of_pyav
from tests.fakes.device_arrays import OnGpu
from tests.fakes.host_cuda import HostCuda
from tests.fakes.host_engine import HostEngine


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of H.264, 64×48, in which a square moves."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            image = np.full((48, 64, 3), (90, 120, 60), np.uint8)
            cv2.rectangle(image, (2 * number, 8), (2 * number + 16, 30), (20, 40, 230), -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def decoded(video: Path, *, wrong: int = 0) -> Iterator[list[Nv12Frame]]:
    """As NVDEC would give the frames, up to four at a time; luma `wrong` levels off."""
    _, frames = nvdec.cpu_frames(video, 100)
    for start in range(0, len(frames), 4):
        yield [Nv12Frame(OnGpu(np.minimum(frame + np.uint8(wrong), 255))) for frame in frames[start : start + 4]]


def test_frames_that_equal_the_cpus(video: Path) -> None:
    row = nvdec.compare(HostCuda(), lambda: decoded(video), video)
    assert (row["codec"], row["frames"], row["ok"]) == ("h264", nvdec.COMPARED, True)
    assert row["decoded_levels"] == 0
    assert max(row["kernel_levels"], row["input_levels"]) <= 1


def test_frames_that_differ(video: Path) -> None:
    """The decoder is told apart from the kernel."""
    row = nvdec.compare(HostCuda(), lambda: decoded(video, wrong=6), video)
    assert (row["decoded_levels"], row["ok"]) == (6, False)
    assert row["kernel_levels"] <= 1 < row["input_levels"]


def test_a_decoder_that_gives_too_few_frames(video: Path) -> None:
    assert not nvdec.compare(HostCuda(), lambda: iter(list(decoded(video))[:1]), video)["ok"]
    assert not nvdec.compare(HostCuda(), lambda: iter([]), video)["ok"]


def test_speed_is_of_what_follows_the_first_frames(video: Path) -> None:
    row = nvdec.speed(HostCuda(), lambda: decoded(video), 300)
    assert row["frames"] == 16
    assert row["frames_per_second"] > 0
    assert nvdec.speed(HostCuda(), lambda: decoded(video), 6)["frames"] == 8
    with pytest.raises(ValueError, match="too few frames"):
        nvdec.speed(HostCuda(), lambda: iter(list(decoded(video))[:1]), 300)
    with pytest.raises(ValueError, match="gave no frames"):
        nvdec.speed(HostCuda(), lambda: iter([]), 300)


def test_frames_are_detected_in(video: Path) -> None:
    with open_detector(bundled_model(), threads=1) as cpu:
        engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width))
        with GpuDetector(engine, cpu.card) as detector:
            row = nvdec.detect(lambda: detector, lambda: decoded(video), 5)
            assert (row["frames"], sum(engine.runs)) == (8, 12)


def test_nv12_of_i420() -> None:
    i420 = np.arange(24, dtype=np.uint8).reshape(6, 4)  # luma 4×4, u 16 17 18 19, v 20 21 22 23
    assert nvdec.nv12_of(i420, 4)[4:].tolist() == [[16, 20, 17, 21], [18, 22, 19, 23]]
    random = np.random.default_rng(0).integers(0, 256, (48 * 3 // 2, 64), np.uint8)
    nv12 = nvdec.nv12_of(random, 48)
    as_bgr = cv2.cvtColor(nv12, cv2.COLOR_YUV2BGR_NV12), cv2.cvtColor(random, cv2.COLOR_YUV2BGR_I420)
    assert np.array_equal(*as_bgr)


def fake_nvc(space: str, full: str) -> Any:
    """PyNvVideoCodec 2.2.4 as far as it is called: packets of no, two and one frames."""
    calls: list[Any] = []

    class Demuxer:
        def __iter__(self) -> Iterator[list[str]]:
            return iter([[], ["a", "b"], ["c"]])

        def GetNvCodecId(self) -> str:
            return "H264"

        def ColorSpace(self) -> str:
            return space

        def ColorRange(self) -> str:
            return full

    class Decoder:
        def Decode(self, packet: list[str]) -> list[str]:
            return packet

    def create_decoder(**options: Any) -> Decoder:
        calls.append(options)
        return Decoder()

    return types.SimpleNamespace(
        CreateDemuxer=lambda filename: Demuxer(),
        CreateDecoder=create_decoder,
        ColorSpace=types.SimpleNamespace(BT_601="601", BT_709="709"),
        ColorRange=types.SimpleNamespace(MPEG="limited", JPEG="full"),
        calls=calls,
    )


@pytest.mark.parametrize(
    ("space", "full", "colours"),
    [("709", "limited", BT709), ("709", "full", BT709_FULL), ("unspecified", "limited", BT601)],
)
def test_frames_of_pynvvideocodec(space: str, full: str, colours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nvc = fake_nvc(space, full)
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", nvc)
    found = list(nvdec.pynvvideocodec_frames(Path("video.mp4")))
    assert [[frame.luma for frame in frames] for frames in found] == [["a", "b"], ["c"]]
    assert all(frame.colours == colours and frame.chroma is None for frames in found for frame in frames)
    assert nvc.calls == [{"gpuid": 0, "codec": "H264", "usedevicememory": True}]


def test_pyav_takes_the_accelerator(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real PyAV: without a driver it says so, and does not decode on the CPU instead."""
    if find_gpu() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(SourceError, match="no NVIDIA GPU can be used here"):
        list(nvdec.pyav_frames(video))


def test_the_real_pyav_on_a_driver_that_decodes_nothing(video: Path, tmp_path: Path) -> None:
    """Pictures differ from the CPU's, and what is fetched from the GPU is what lies there; all frames stay there."""
    code = f"""
from pathlib import Path
from benchmarks.gpu import nvdec
from benchmarks.gpu.decoded_streams import repeated
from benchmarks.gpu.record import Rows
from ssd_edge.bundled import bundled_model
from ssd_edge.errors import SourceError
from ssd_edge.runtime.backends.gpu_detector import GpuDetector
from ssd_edge.runtime.detector import open_detector
from tests.fakes.host_cuda import HostCuda
from tests.fakes.host_engine import HostEngine

cpu = open_detector(bundled_model(), threads=1)
engine = HostEngine(cpu.infer, (cpu.card.height, cpu.card.width))
nvdec.open_cuda, nvdec.open_detector_on_gpu = HostCuda, lambda folder: GpuDetector(engine, cpu.card)
nvdec.DECODERS, nvdec.SOURCES = {{"PyAV": nvdec.DECODERS["PyAV"]}}, 2
figures = {{"rows": Rows()}}
nvdec.measure(figures, lambda: None, Path({str(video)!r}), 6)
nvdec.write_figures(figures, Path({str(tmp_path / "rows.json")!r}))
"""
    ended = driver_of_pyav(tmp_path).run(code)
    assert ended.returncode == 0, ended.stderr
    compared, decoded, detected, *streamed = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (compared["frames"], compared["ok"], compared["fetched_levels"]) == (nvdec.COMPARED, False, 0)
    assert compared["kernel_levels"] <= 1 < compared["decoded_levels"]
    assert (decoded["frames"], detected["frames"]) == (6, 6)
    assert [row["decoders"] for row in streamed] == [["h264 (NVDEC)"], ["h264 (FFmpeg)"]]
    assert [(row["sources"], row["frames"], row["ok"]) for row in streamed] == [(2, 12, True)] * 2
    assert all(row["streams_of_30_fps"] > 0 and row["processors_per_stream"] > 0 for row in streamed)


def test_a_video_that_goes_on_and_on(video: Path, tmp_path: Path) -> None:
    with av.open(str(repeated(video, tmp_path / "long.mp4", 50))) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 50
    times = [float(frame.time or 0) for frame in frames]
    assert times == pytest.approx([number / 10 for number in range(50)], abs=1e-3)
    assert np.array_equal(frames[3].to_ndarray(), frames[43].to_ndarray())


def run(monkeypatch: pytest.MonkeyPatch, output: Path, video: Path) -> tuple[Any, dict[str, Any]]:
    """Exit status and figures."""
    monkeypatch.setattr(sys, "argv", ["nvdec.py", str(video), "-o", str(output)])
    with pytest.raises(SystemExit) as ended:
        nvdec.main()
    return ended.value.code, json.loads(output.read_text())


def test_what_is_absent_is_said_and_is_no_failure(video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvdec, "find_gpu", lambda: None)
    status, figures = run(monkeypatch, tmp_path / "a.json", video)
    assert (status, figures["skipped"]) == (0, "there is no NVIDIA GPU, or no cuda-core")
    assert figures["rows"][0]["size"] == "64×48"
    monkeypatch.setattr(nvdec, "find_gpu", lambda: "a GPU")
    monkeypatch.setattr(nvdec, "NVDEC_LIBRARY", "libabsent.so.1")
    status, figures = run(monkeypatch, tmp_path / "b.json", video)
    assert status == 0
    assert "no decoder in the driver: libabsent.so.1" in figures["skipped"]
    for package in ("av", "PyNvVideoCodec"):
        monkeypatch.setitem(sys.modules, package, None)
    status, figures = run(monkeypatch, tmp_path / "c.json", video)
    assert (status, figures["skipped"]) == (0, "neither PyNvVideoCodec nor PyAV (av) is installed")
    assert figures["rows"] == [{"decoder": "PyAV on the CPU", "not_run": "av not installed"}]


@pytest.mark.parametrize(("wrong", "engine"), [(0, "no engine"), (6, "no engine"), (0, "broken")])
def test_the_whole_program(
    wrong: int, engine: str, video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Frames that differ, or a row that failed, are a failure; what is not installed is none."""

    def no_detector(_: Path) -> None:
        raise RuntimeError("broken") if engine == "broken" else NotRunError(engine)

    monkeypatch.setattr(nvdec, "why_not", lambda: None)
    monkeypatch.setattr(nvdec, "open_cuda", HostCuda)
    monkeypatch.setattr(nvdec, "open_detector_on_gpu", no_detector)
    decoders = {"good": ("av", lambda path: decoded(path, wrong=wrong)), "other": ("of_this_name_is_nothing", decoded)}
    monkeypatch.setattr(nvdec, "DECODERS", decoders)
    status, figures = run(monkeypatch, tmp_path / "nvdec.json", video)
    assert status == (1 if wrong or engine == "broken" else 0)
    rows = figures["rows"][1:]
    assert [row["decoder"] for row in rows] == ["good"] * 3 + ["PyAV", "PyAV on the CPU"] + ["other"] * 3
    assert (rows[0]["ok"], rows[1]["frames"]) == (not wrong, 16)
    assert (rows[2].get("not_run"), rows[2].get("failed")) == (
        (None, "RuntimeError: broken") if engine == "broken" else ("no engine", None)
    )
    assert {row["what"] for row in rows[3:5]} == {"streams"}
    assert {row["not_run"] for row in rows[5:]} == {"of_this_name_is_nothing not installed"}
    assert "under_way" not in figures


def test_a_decoder_that_ends_the_process_is_named(video: Path, tmp_path: Path) -> None:
    """As PyNvVideoCodec does when a call of CUDA fails."""
    code = f"""
import os, sys
from benchmarks.gpu import nvdec
from tests.fakes.host_cuda import HostCuda
nvdec.why_not, nvdec.open_cuda = lambda: None, HostCuda
nvdec.open_detector_on_gpu = lambda _: nvdec.need("of_this_name_is_nothing")
nvdec.DECODERS = {{"good": ("sys", lambda _: iter([])), "bad": ("sys", lambda _: os._exit(1))}}
sys.argv = ["nvdec.py", {str(video)!r}, "-o", {str(tmp_path / "nvdec.json")!r}]
nvdec.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1, ended.stderr
    figures = json.loads((tmp_path / "nvdec.json").read_text())
    assert figures["under_way"] == "bad"
    assert [row["decoder"] for row in figures["rows"][1:]] == ["good"] * 3
