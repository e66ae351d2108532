"""Twenty minutes with all outputs: memory stays flat, and frames get no older.

On a machine that does nothing else: how many frames wait at a time moves memory by a MiB or two, which a quarter of an
hour cannot tell from a slope when other work changes it. `SSD_EDGE_SOAK_MINUTES=120` tells more.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest

MINUTES = float(os.environ.get("SSD_EDGE_SOAK_MINUTES", "20"))
WARM_UP = 0.3  # of that time; memory settles within five minutes, so that a shorter run tells less
SLOPE_MIB_PER_H = 1.0
NEEDS = {"paho": "mqtt", "uvicorn": "web", "prometheus_client": "web", "trackers": "track"}
CONFIG = """
    [recording]
    segment = "10s"
    keep = "20MB"
    [mqtt]
    url = "mqtt://127.0.0.1:{mqtt_port}"
    [web]
    port = {web_port}
    [[source]]
    uri = "{folder}/mpeg4.mp4"
    name = "door"
    realtime = true
    loop = true
    [[source.zone]]
    name = "left"
    polygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
"""
# Each loop sets a clock back. Sources next to the first one are slower, as two cores have to detect in all of them.
OTHERS = """
    [[source]]
    uri = "{folder}/{codec}.mkv"
    name = "{codec}"
    realtime = true
    loop = true
    max_fps = 5
"""
CODECS = {"mpeg4": "yuv420p", "libx265": "yuv420p", "mjpeg": "yuvj420p"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def write_video(path: Path, codec: str) -> None:
    """A square that walks across noise; 640×360, 30 FPS, 20 s."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 80, (360, 640, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"x265-params": "log-level=none"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 360, CODECS[codec]
        for index in range(600):
            image = noise.copy()
            image[90:180, index : index + 160] = (0, 0, 255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_is_flat_and_frames_get_no_older(tmp_path: Path, model_path: Path) -> None:
    for package, extra in NEEDS.items():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}; pip install '.[{extra}]'")
    mqtt_port, web_port = free_port(), free_port()
    config = tmp_path / "streams.toml"
    text = CONFIG.format(mqtt_port=mqtt_port, web_port=web_port, folder=tmp_path)
    for codec in CODECS:
        if codec == "mpeg4":
            write_video(tmp_path / "mpeg4.mp4", codec)
        elif codec in av.codecs_available:
            write_video(tmp_path / f"{codec}.mkv", codec)
            text += OTHERS.format(folder=tmp_path, codec=codec)
    config.write_text(text)
    broker = None
    if shutil.which("mosquitto"):  # else it is away all the time
        broker = subprocess.Popen(
            ["mosquitto", "-p", str(mqtt_port)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
    command = [sys.executable, "-m", "ssd_edge", "stream", "--config", str(config), "--model", str(model_path)]
    command += ["--save", str(tmp_path / "out.mp4"), "--jsonl", str(tmp_path / "out.jsonl")]
    times_s, memory_mib, p95_ages_ms = [], [], []
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        begin = time.monotonic()
        while (now_s := time.monotonic() - begin) < 60 * MINUTES:
            time.sleep(1)
            assert process.poll() is None, (tmp_path / "log").read_text()
            if now_s > 5:  # someone looks
                with urllib.request.urlopen(f"http://127.0.0.1:{web_port}/live?after=0", timeout=10) as answer:
                    answer.read()
            if now_s > 60 * MINUTES * WARM_UP:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                times_s.append(now_s)
                memory_mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - stopped < 5
    if broker is not None:
        broker.terminate()
        broker.wait()
    for line in (tmp_path / "log").read_text().splitlines():
        if " | age p50 " in line:
            p95_ages_ms.append(float(line.split(" | age p50 ")[1].split()[2]))
    slope = 3600 * np.polyfit(times_s, memory_mib, 1)[0]
    print(f"memory {memory_mib[0]:.1f} to {memory_mib[-1]:.1f} MiB, {slope:+.1f} an hour; age p95 {p95_ages_ms} ms")
    assert slope < SLOPE_MIB_PER_H
    half = len(p95_ages_ms) // 2
    assert np.median(p95_ages_ms[half:]) < 1.5 * np.median(p95_ages_ms[:half]) + 5
