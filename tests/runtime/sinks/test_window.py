"""A window ends the stream when its user asks for it, and says when there is no display."""

import shutil
import subprocess
import sys
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.base import EndOfStream
from ssd_edge.runtime.sinks.window import WindowSink
from tests.runtime.sinks.frames import frame, result
from tests.runtime.stream.streams import run_cli, write_video


def test_a_window_a_source_ends_at_q_at_esc_and_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, opened, closed = [-1], [], []
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    monkeypatch.setattr("cv2.namedWindow", lambda title, _: opened.append(title))
    monkeypatch.setattr("cv2.imshow", lambda *_: None)
    monkeypatch.setattr("cv2.waitKey", lambda _: keys[-1])
    monkeypatch.setattr("cv2.getWindowProperty", lambda title, _: float(title not in closed))
    monkeypatch.setattr("cv2.destroyAllWindows", opened.clear)
    with closing(WindowSink()) as window:
        window.idle()  # before the first frame
        for source in ("door", "yard", "door"):
            window.write(result(frame(), source), frame().image_bgr)
        assert opened == ["ssd-edge: door", "ssd-edge: yard"]
        for key in (ord("x"), ord("q"), 27):
            keys.append(key)
            with pytest.raises(EndOfStream) if key != ord("x") else nullcontext():
                window.idle()
        keys.append(-1)
        window.idle()
        closed.append("ssd-edge: yard")
        for end in (window.idle, lambda: window.write(result(frame(), "yard"), frame().image_bgr)):
            with pytest.raises(EndOfStream):
                end()
    assert opened == []


def test_a_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    with pytest.raises(SinkError, match="cannot open a window"):
        WindowSink()


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb; sudo apt install xvfb")
def test_a_window_on_a_real_display(tmp_path: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "in.mp4", 60)
    display = subprocess.Popen(
        ["Xvfb", "-displayfd", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert display.stdout is not None
        monkeypatch.setenv("DISPLAY", f":{display.stdout.readline().strip()}")
        with run_cli("--video", str(video), "--model", str(model_path), "--show") as process:
            _, err = process.communicate(timeout=30)
    finally:
        display.terminate()
        display.communicate(timeout=30)
    assert process.returncode == 0
    assert err.startswith(f"{video}: 60 frames in"), err
    assert err.count("\n") == 1  # Qt has nothing to say
