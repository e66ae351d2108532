"""A stream ends in time with complete outputs: signals, what hangs, a lost GPU."""

import signal
import socket
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.cuda.errors import CudaFatalError
from ssd_edge.runtime.results import Result
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.run import Stream, run_stream
from ssd_edge.runtime.stream.stop import END_S
from tests.fakes.scripted_sources import ScriptedPlace, wait_for
from tests.fakes.sink_after import SinkAfter
from tests.runtime.stream.streams import change_detectors, count_frames, read_lines, run_cli, write_video


def test_an_output_is_completed_before_a_detector_that_hangs_when_it_is_closed(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def hang(detector: Detector) -> None:
        monkeypatch.setattr(detector, "close", lambda: order.append("detector"))

    class Closed(SinkAfter):
        def close(self) -> None:
            order.append("output")

    change_detectors(monkeypatch, hang)
    run_stream(StreamConfig(write_video(tmp_path / "in.mp4", 3), model_path), extra_sinks=[Closed(9)], progress=False)
    assert order == ["output", "detector"]


def test_detections_that_take_too_long_at_the_end_are_given_up(
    tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Event()
    stopped_s: list[float] = []

    def slow_down(detector: Detector) -> None:
        infer = detector.infer

        def slow(images: Any) -> Any:
            if not stopped_s:
                stopped_s.append(time.monotonic())
                signal.raise_signal(signal.SIGTERM)
            end.wait(20)
            return infer(images)

        monkeypatch.setattr(detector, "infer", slow)

    class Closed(SinkAfter):
        closed_s = 0.0

        def close(self) -> None:
            self.closed_s = time.monotonic()
            end.set()  # only now the detector can be closed

    change_detectors(monkeypatch, slow_down)
    sink = Closed(99)
    stats = run_stream(
        StreamConfig(write_video(tmp_path / "in.mp4", 9), model_path, threads=2), extra_sinks=[sink], progress=False
    )
    assert (stats.frames, sink.left) == (0, 99)
    assert sink.closed_s - stopped_s[0] < END_S


def test_a_lost_gpu_ends_the_stream_at_once_and_what_hangs_is_named(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(detector: Detector) -> None:
        infer = detector.infer

        def lost(images: Any) -> Any:
            if is_stuck.is_set():
                raise CudaFatalError("illegal address")
            return infer(images)

        monkeypatch.setattr(detector, "infer", lost)

    class Stuck(SinkAfter):
        def write(self, result: Result, drawn_bgr: NDArray[np.uint8]) -> None:
            is_stuck.set()
            end.wait(20)

    is_stuck, end = Event(), Event()
    change_detectors(monkeypatch, lose)
    sources = [
        SourceConfig(ScriptedPlace([1, 0.01] * 1000).place, "camera"),
        SourceConfig(ScriptedPlace([1, end]).place, "stuck camera"),
    ]
    stream = Stream(StreamConfig(sources, model_path), extra_sinks=[Stuck(0)], progress=False)
    begin = time.monotonic()
    with pytest.raises(CudaFatalError, match="illegal address"):
        stream.run()
    assert time.monotonic() - begin < 4
    assert stream.hanging == ["stuck camera", "Stuck"]
    end.set()
    wait_for(lambda: not stream.hanging)


STREAM_SCRIPT = """
import sys
from pathlib import Path
from ssd_edge.runtime.sinks.base import Sink
from ssd_edge.runtime.stream.config import StreamConfig
from ssd_edge.runtime.stream.run import run_stream

class Pace(Sink):  # as slow as a camera, so that the signal comes in the middle
    needs_drawing = False

    def write(self, result, drawn_bgr):
        import time
        time.sleep(0.01)

source, model, video, lines = sys.argv[1:]
stats = run_stream(StreamConfig(source, Path(model), save=Path(video), jsonl=lines, threads=1), extra_sinks=[Pace()])
print(stats.frames)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_with_all_outputs_complete(
    tmp_path: Path, model_path: Path, number: signal.Signals
) -> None:
    source = write_video(tmp_path / "in.mp4", 3000)
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    command = [sys.executable, "-c", STREAM_SCRIPT, str(source), str(model_path), str(video), str(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: lines.exists() and lines.read_text().count("\n") > 10)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    frames = int(out)
    assert 10 < frames < 3000
    assert count_frames(video) == frames
    assert [line["frame"] for line in read_lines(lines)] == list(range(frames))
    assert f"{frames} frames in" in err
    assert "Traceback" not in err


def test_a_signal_ends_what_waits_for_a_dead_server(tmp_path: Path, model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        address = f"rtsp://me:s3cret@127.0.0.1:{silent.getsockname()[1]}/live"
        arguments = ["--rtsp", address, "--model", str(model_path), "--timeout", "30", "--jsonl", "-"]
        if find_spec("paho"):
            arguments += ["--mqtt", "mqtt://127.0.0.1:1"]  # away
        with run_cli(*arguments) as process:
            connection, _ = silent.accept()
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
            connection.close()
    assert (process.returncode, time.monotonic() - begin < 5) == (0, True), err
    assert "s3cret" not in err


def test_the_second_signal_ends_at_once(tmp_path: Path, model_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", 3000)
    script = """
        import sys, threading
        from pathlib import Path
        from ssd_edge.runtime.sinks.base import Sink
        from ssd_edge.runtime.stream.config import StreamConfig
        from ssd_edge.runtime.stream.run import run_stream

        class Stuck(Sink):
            def write(self, result, drawn_bgr):
                print("stuck", flush=True)
                threading.Event().wait()

        run_stream(StreamConfig(sys.argv[1], Path(sys.argv[2]), threads=1), extra_sinks=[Stuck()])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source), str(model_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    assert (process.returncode, time.monotonic() - begin < 1) == (-signal.SIGINT, True)
