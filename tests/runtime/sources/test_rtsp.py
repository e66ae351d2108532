"""A real RTSP server that goes and comes back: seen in time, nothing lost while it is there, nothing left behind."""

import gc
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from ssd_edge.errors import SourceError
from ssd_edge.runtime.sources.base import SourceOptions
from ssd_edge.runtime.sources.find import find_source
from ssd_edge.runtime.sources.gstreamer import GStreamer
from ssd_edge.runtime.sources.worker import OK, RECONNECTING, Retry, SourceWorker
from ssd_edge.runtime.stream.config import SourceConfig, StreamConfig
from ssd_edge.runtime.stream.run import run_stream
from tests.fakes.scripted_sources import wait_for

PYTHON = "/usr/bin/python3"  # the one that Debian's bindings are for
SERVER = Path(__file__).with_name("rtsp_server.py")
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
HAS_ELEMENT = (
    "import sys, gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None); "
    "sys.exit(Gst.ElementFactory.find(sys.argv[1]) is None)"
)
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
OPENS_S = 1.5  # what opening a stream takes here, on two busy cores


class RtspServer:
    """One address at which the server can be started and killed."""

    def __init__(self, *login: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._login = login
        self._process: subprocess.Popen[str] | None = None

    def url(self, login: str = "", path: str = "live") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        command = [PYTHON, str(SERVER), str(self.port), *self._login]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=10)
            self._process = None


@pytest.fixture
def start_server() -> Iterator[Callable[..., RtspServer]]:
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", NEEDS], capture_output=True, timeout=60).returncode:
        pytest.skip(f"no gst-rtsp-server; sudo apt install {PACKAGES}")
    servers = []

    def start(*login: str) -> RtspServer:
        servers.append(RtspServer(*login))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


class Watched:
    """A worker whose frames are taken as they come, with when its status changed."""

    def __init__(self, url: str, retry: Retry, hwaccel: str) -> None:
        self.changed = threading.Condition()
        self.statuses: list[tuple[float, str]] = []
        options = SourceOptions(timeout_s=1.0, hwaccel=hwaccel)
        self.worker = SourceWorker(
            find_source(url, options),
            self.changed,
            retry=retry,
            timeout_s=options.timeout_s,
            on_status=lambda status, _: self.statuses.append((time.monotonic(), status)),
        )
        self.indexes: list[int] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()
        self.worker.start()

    def _take(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.worker.ready or self.worker.over)
                if self.worker.over:
                    return
                self.indexes.append(self.worker.take().index)


@pytest.fixture(params=["none", "gstreamer"])
def hwaccel(request: pytest.FixtureRequest) -> str:
    """Through FFmpeg, and through GStreamer."""
    if request.param == "gstreamer":
        request.getfixturevalue("gstreamer")
    return str(request.param)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_stream_with_a_password(start_server: Callable[..., RtspServer], transport: str, hwaccel: str) -> None:
    server = start_server("user.name", "pa@ss:w/rd")
    url = server.url(f"user.name:{quote('pa@ss:w/rd', safe='')}@")
    with find_source(url, SourceOptions(transport=transport, timeout_s=5, hwaccel=hwaccel)).open() as source:
        assert source.live
        frames = source.frames()
        assert [next(frames).image_bgr.shape for _ in range(30)] == [(240, 320, 3)] * 30
        assert len(udp_sockets()) == (2 if transport == "udp" else 0)  # RTP and RTCP


def test_a_password_that_nobody_wants(start_server: Callable[..., RtspServer], hwaccel: str) -> None:
    place = find_source(start_server().url("me:s3cret@"), SourceOptions(timeout_s=5, hwaccel=hwaccel))
    for _ in range(2):
        with place.open() as source:
            assert next(source.frames()).size_hw == (240, 320)
        time.sleep(1.0)  # the server is done with its picture


def test_h265_that_comes_with_sound(start_server: Callable[..., RtspServer], hwaccel: str) -> None:
    url = start_server().url(path="sound")
    with find_source(url, SourceOptions(timeout_s=5, hwaccel=hwaccel)).open() as source:
        assert source.decoder == {"none": "hevc (FFmpeg)", "gstreamer": "avdec_h265 (GStreamer)"}[hwaccel]
        frames = source.frames()
        times = [next(frames).media_time_s for _ in range(30)]
    steps = np.diff([one for one in times if one is not None])  # FFmpeg's first frame has none
    assert len(steps) > 20
    assert np.median(steps) == pytest.approx(1 / 30, abs=0.002)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("path", "element", "codec"), [("sound", "x265enc", "hevc"), ("mjpeg", "jpegenc", "mjpeg")], ids=["H.265", "MJPEG"]
)
def test_other_codecs(
    start_server: Callable[..., RtspServer], path: str, element: str, codec: str, transport: str
) -> None:
    if subprocess.run([PYTHON, "-c", HAS_ELEMENT, element], capture_output=True, timeout=60).returncode:
        pytest.skip(f"no {element}; sudo apt install {PACKAGES} gstreamer1.0-plugins-bad")
    options = SourceOptions(transport=transport, timeout_s=5, hwaccel="none")
    with find_source(start_server().url(path=path), options).open() as source:
        frames = source.frames()
        found = [next(frames) for _ in range(30)]
        assert source.decoder.startswith(codec)
    assert {frame.size_hw for frame in found} == {(240, 320)}
    times = [frame.media_time_s for frame in found if frame.media_time_s is not None]
    assert len(times) > 20
    assert times == sorted(set(times))


def test_each_source_has_its_own_transport(start_server: Callable[..., RtspServer]) -> None:
    url = start_server().url()
    before = udp_sockets()
    tcp, udp = (SourceOptions(transport=one, timeout_s=5, hwaccel="none") for one in ("tcp", "udp"))
    with find_source(url, tcp).open() as over_tcp:
        assert udp_sockets() == before
        with find_source(url, udp).open() as over_udp:
            assert len(udp_sockets() - before) == 2
            for _ in zip(range(20), over_tcp.frames(), over_udp.frames(), strict=False):
                pass


@pytest.mark.parametrize(
    ("login", "path", "message"),
    [
        ("", "live", r"or asks for them \(401\); give rtsp://USER:PASSWORD@"),
        ("me:wr0ng@", "live", r"does not accept this user and password, .*\(401\)"),
        ("me:right@", "nothing", r"nothing at this path \(404\); check the path"),
    ],
)
def test_a_refusal_says_what_to_do(
    start_server: Callable[..., RtspServer], login: str, path: str, message: str
) -> None:
    url = start_server("me", "right").url(login, path)
    with pytest.raises(SourceError, match=message) as caught:
        find_source(url, SourceOptions(timeout_s=5, hwaccel="none")).open()
    assert "wr0ng" not in str(caught.value)
    assert "right@" not in str(caught.value)


@pytest.mark.parametrize(("path", "login", "said"), [("live", "me:wrong@", "401"), ("nothing", "me:right@", "404")])
def test_what_gstreamer_is_told_is_told(
    start_server: Callable[..., RtspServer], gstreamer: GStreamer, path: str, login: str, said: str
) -> None:
    url = start_server("me", "right").url(login, path)
    with pytest.raises(
        SourceError, match=rf"^rtsp://\*\*\*@127.0.0.1:\d+/{path}: GStreamer says: .*\({said}\)"
    ) as caught:
        find_source(url, SourceOptions(hwaccel="gstreamer")).open()
    assert login[3:-1] not in str(caught.value)


def test_a_wrong_password_is_never_shown(
    start_server: Callable[..., RtspServer], model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("me", "right")
    source = SourceConfig(server.url("me:s3cret@"), retries=0)
    with pytest.raises(Exception, match=r"cannot open rtsp://\*\*\*@127.0.0.1:\d+/live") as caught:
        run_stream(StreamConfig([source], model_path), progress=False)
    assert "s3cret" not in f"{caught.value} {caplog.text}"


def restart(server: RtspServer, watched: Watched, retry: Retry, away_s: float) -> float:
    """Kill the server, start it again later; seconds from then until the worker noticed."""
    known = len(watched.statuses)
    server.kill()
    wait_for(lambda: RECONNECTING in [status for _, status in watched.statuses[known:]])
    time.sleep(away_s)
    server.start()
    begin = time.monotonic()
    wait_for(lambda: watched.worker.status == OK, timeout_s=30)
    return watched.statuses[-1][0] - begin


@pytest.mark.parametrize(
    ("times", "path"),
    [(3, "live"), *(pytest.param(20, path, marks=pytest.mark.long) for path in ("live", "sound", "mjpeg"))],
)
def test_every_return_is_noticed_and_nothing_is_left_behind(
    start_server: Callable[..., RtspServer], times: int, path: str, hwaccel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server()
    retry = Retry(first_s=0.25, most_s=1.0)
    watched = Watched(server.url(path=path), retry, hwaccel)
    wait_for(lambda: watched.worker.status == OK)
    restart(server, watched, retry, 0.1)  # what is made once only is made now
    gc.collect()
    threads, files, memory = os_threads(), open_files(), resident_mib()
    noticed_s = []
    for _ in range(times):
        time.sleep(random.uniform(0.1, 0.8))
        noticed_s.append(restart(server, watched, retry, random.uniform(0.0, 2.0)))
    assert max(noticed_s) < 2 * retry.most_s + OPENS_S
    gc.collect()
    assert os_threads() <= threads
    assert open_files() <= files
    assert watched.worker.hanging == 0
    if times >= 20:
        assert resident_mib() - memory < 20
    assert watched.worker.close(5)
    assert watched.indexes == sorted(set(watched.indexes))  # none twice
    with capsys.disabled():
        print(
            f"\nnoticed after {sorted(round(one, 2) for one in noticed_s)} s, memory {resident_mib() - memory:+.1f} MiB"
        )


def test_no_line_is_lost_or_doubled_while_the_server_is_there(
    start_server: Callable[..., RtspServer], model_path: Path, tmp_path: Path
) -> None:
    server, lines, log = start_server(), tmp_path / "a.jsonl", tmp_path / "log"
    command = [sys.executable, "-m", "ssd_edge", "stream", "--rtsp", server.url(), "--model", str(model_path)]
    with log.open("w") as err, subprocess.Popen([*command, "--timeout", "1", "--jsonl", str(lines)], stderr=err) as run:
        try:
            for time_lost in range(1, 4):
                seen = len(read(lines))
                wait_for(lambda: len(read(lines)) > seen + 30)  # noqa: B023
                server.kill()  # the last time for good: no frame may come, and be dropped, while the stream is ended
                wait_for(lambda: log.read_text().count(": reconnecting: ") == time_lost)  # noqa: B023
                if time_lost < 3:
                    server.start()
            wait_for(lambda: has_settled(lines))
            run.terminate()
            run.wait(timeout=10)
        finally:
            run.kill()
    said = log.read_text()
    assert run.returncode == 0, said
    indexes = [json.loads(line)["frame"] for line in read(lines)]
    dropped = int(said.rpartition(" dropped")[0].rpartition(" ")[2])
    assert indexes == sorted(set(indexes))
    assert indexes[-1] + 1 - len(indexes) == dropped
    assert said.count(": ok") == 2


def has_settled(path: Path) -> bool:
    """No line comes any more: the model is done with the last frame."""
    lines = len(read(path))
    time.sleep(1.0)
    return len(read(path)) == lines


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def os_threads() -> int:
    """Those of libraries too."""
    return len(os.listdir("/proc/self/task"))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def udp_sockets() -> set[str]:
    """Those of this process, by inode."""
    ours = {os.path.realpath(link).rpartition("/")[2] for link in Path("/proc/self/fd").iterdir()}
    inodes = {line.split()[9] for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]}
    return {inode for inode in inodes if f"socket:[{inode}]" in ours}


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
