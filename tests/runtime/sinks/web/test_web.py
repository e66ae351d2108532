"""The page in a real browser, and what it tells to whom; viewers of any kind cost the stream nothing."""

# ruff: noqa: E402

import http.client
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="no web server: pip install '.[web]'")
pytest.importorskip("uvicorn", reason="no web server: pip install '.[web]'")
parser = pytest.importorskip("prometheus_client.parser", reason="no metrics: pip install '.[web]'")

from ssd_edge.detections import Detections
from ssd_edge.errors import SinkError, UsageError
from ssd_edge.runtime.results import Event, Result
from ssd_edge.runtime.sinks.web import board, server
from ssd_edge.runtime.sinks.web.access import Token, choose_token
from ssd_edge.runtime.sinks.web.server import WebPreview
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.stats import StreamStats
from tests.runtime.sinks.web.chromium import Chromium
from tests.runtime.sinks.web.web_scenes import Codes, play

TOKEN = Token("0123456789abcdef")
SECRET_PATHS = ("/", "/live", "/metrics", "/page.css", "/page.js", "/page.svg", "/nothing", "//", "/healthz/")


@pytest.fixture
def preview() -> Iterator[WebPreview]:
    with WebPreview(port=0) as preview:
        yield preview


@pytest.fixture
def closed_preview() -> Iterator[WebPreview]:
    """One that asks for a token."""
    with WebPreview(port=0, token=TOKEN) as preview:
        yield preview


@pytest.fixture
def playing() -> Iterator[Callable[[WebPreview], None]]:
    """Feeds a preview with moving codes until the test ends."""
    done = threading.Event()
    threads = []

    def start(preview: WebPreview) -> None:
        settings: dict[str, Any] = {"fps": 10.0, "until": done.is_set}
        threads.append(threading.Thread(target=play, args=(preview, Codes("gate")), kwargs=settings))
        threads[-1].start()

    yield start
    done.set()
    for thread in threads:
        thread.join()


def result(index: int = 0, source: str = "gate", *, size_hw: tuple[int, int] = (48, 64), grey: int = 0) -> Result:
    found = Detections(np.array([[1, 2, 30, 40]]), np.array([0.75]), np.array([1]))
    frame = Frame(np.full((*size_hw, 3), grey, np.uint8), index, time.monotonic(), source)
    event = Event("enter", "dock", track=7, label=1)
    return Result(source, frame, found, ("red", "green"), age_ms=12.0, tracks=np.array([7]), events=(event,))


def write(preview: WebPreview, one: Result) -> None:
    preview.write(one, one.frame.image_bgr)


def port_of(preview: WebPreview) -> int:
    return int(preview.url.rstrip("/").rpartition(":")[2])


def get(preview: WebPreview, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(preview), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def get_live(preview: WebPreview, after: int = 0) -> tuple[dict[str, Any], list[np.ndarray | None]]:
    """An update, and the picture of each source that has a new one."""
    line, _, rest = get(preview, f"/live?after={after}")[2].partition(b"\n")
    update = json.loads(line)
    pictures: list[np.ndarray | None] = []
    for source in update["sources"]:
        jpeg, rest = rest[: source.get("jpeg", 0)], rest[source.get("jpeg", 0) :]
        pictures.append(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None)
    assert not rest
    return update, pictures


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


CARD = "document.querySelector('article:has(img:not([hidden]))')"  # of the source that has a picture


def picture_pixels(page: Chromium) -> np.ndarray:
    """What the screen shows of the picture."""
    x, y, width, height = page.evaluate(
        "(({x, y, width, height}) => [x, y, width, height].map(Math.round))"
        f"({CARD}.querySelector('img').getBoundingClientRect())"
    )
    screen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return screen[y : y + height, x : x + width].astype(int)


def test_the_page_in_a_browser(preview: WebPreview, playing: Callable[[WebPreview], None], tmp_path: Path) -> None:
    preview.status("camera 3", "reconnecting", "trying again in 16 s")
    with Chromium(tmp_path) as page:
        playing(preview)
        luma = {}
        for width, scheme in ((360, "light"), (1920, "dark")):
            page.open(preview.url, size_wh=(width, 1000), scheme=scheme)
            page.wait_for(CARD)
            dropped = f"{CARD}.querySelector('.dropped').textContent"
            first, before = picture_pixels(page), page.evaluate(dropped)
            page.wait_for(f"{dropped} != '{before}'")
            assert np.abs(picture_pixels(page) - first).mean() > 1
            assert first.std() > 10  # no plain ground
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            screen = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
            luma[scheme] = screen[-1, 4]
        text = page.evaluate("document.body.innerText")
        for shown in (
            "1 of 2 ok",
            "reconnecting",
            "trying again in 16 s",
            "entered loading bay",
            "loading bay: inside",
        ):
            assert shown in text
        assert "qr_code #1 0." in text
        assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")
        assert page.evaluate(f"{CARD}.querySelector('img').alt") == "Live picture of gate"
        assert luma["light"] > 200 > 60 > luma["dark"]
        assert page.complaints == []

        preview.close()
        overall = "document.querySelector('#overall').textContent"
        page.wait_for(f"{overall} == 'no connection'")
        with WebPreview(port=port_of(preview)) as restarted:  # the page goes on by itself
            write(restarted, result())
            page.wait_for(f"{overall} == '1 of 1 ok'")
            page.wait_for(f"{CARD}.querySelector('img').naturalWidth == 64")


def test_a_browser_needs_the_token_once(
    closed_preview: WebPreview, playing: Callable[[WebPreview], None], tmp_path: Path
) -> None:
    playing(closed_preview)
    with Chromium(tmp_path) as page:
        page.open(closed_preview.url)
        page.wait_for("document.body?.innerText.startsWith('401')")
        assert page.evaluate("document.images.length") == 0
        page.open(f"{closed_preview.url}?token={TOKEN.value}")
        page.wait_for(CARD)
        assert page.evaluate("location.href") == closed_preview.url
        assert page.evaluate("document.cookie") == ""
        (cookie,) = page.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["session"]) == (True, "Lax", True)
        assert all("status of 401" in complaint for complaint in page.complaints)  # of the address without it


def test_without_the_token_nothing_is_shown(closed_preview: WebPreview) -> None:
    write(closed_preview, result())
    offers = (
        ("Host", "x/healthz?"),
        ("X", ""),
        ("Authorization", "Bearer 0123456789abcdeX"),
        ("Authorization", "Bearer "),
        ("Authorization", "Basic 0123456789abcdef"),
        ("Authorization", "Bearer 0123456789abcdef\xe9"),
        ("Cookie", "ssd_edge_1=0123456789abcdef"),
    )
    for name, value in offers:
        for path in (*SECRET_PATHS, "/?token=0123456789abcdeX", "/?token=", "/live?token=0123456789abcdef"):
            status, headers, body = get(closed_preview, path, **{name: value})
            assert (status, body[:4]) == (401, b"401:")
            assert not any(secret in body for secret in (b"gate", b"img", b"ssd_edge", TOKEN.value.encode()))
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Set-Cookie"] is None
        status, _, body = get(closed_preview, "/healthz", **{name: value})
        assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_programs_send_the_token_in_a_header(closed_preview: WebPreview) -> None:
    write(closed_preview, result())
    bearer = {"Authorization": f"Bearer {TOKEN.value}"}
    assert b'ssd_edge_frames_total{source="gate"} 1.0' in get(closed_preview, "/metrics", **bearer)[2]
    assert json.loads(get(closed_preview, "/healthz", **bearer)[2])["sources"][0]["source"] == "gate"


def test_the_cookie_is_of_this_port(closed_preview: WebPreview) -> None:
    status, headers, _ = get(closed_preview, f"/?token={TOKEN.value}")
    assert (status, headers["Location"]) == (303, "./")
    assert headers["Set-Cookie"].startswith(f"ssd_edge_{port_of(closed_preview)}={TOKEN.value};")
    assert get(closed_preview, "/", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200


def test_another_name_for_this_machine_shows_nothing(preview: WebPreview) -> None:
    write(preview, result())
    hosts = ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "192.168.0.2", "evil/healthz?")
    for host, path in itertools.product(hosts, SECRET_PATHS):
        assert get(preview, path, Host=host)[0] == 403, (host, path)
    assert json.loads(get(preview, "/healthz", Host="evil.example")[2]) == {"status": "ok"}
    for host in ("localhost:1", "127.0.0.1", "[::1]:8080"):
        assert get(preview, "/", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.2", "camera.local"])
def test_another_address_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="needs a token"):
        WebPreview(host, 0)


def test_a_port_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="port 70000 cannot be"):
        WebPreview(port=70000)


def test_all_addresses_with_a_token_that_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    token = choose_token("auto")
    assert token is not None
    with WebPreview("0.0.0.0", 0, token=token) as preview:
        assert capsys.readouterr().err == f"web preview at {preview.url}?token={token.value}\n"
        assert get(preview, "/")[0] == 401
        assert get(preview, "/", Authorization=f"Bearer {token.value}", Host="camera.local")[0] == 200
    assert capsys.readouterr() == ("", "")
    assert token.value not in repr(token)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN.value}\n")
    assert choose_token(str(path)) == TOKEN
    assert choose_token("auto") != choose_token("auto")
    monkeypatch.delenv("SSD_EDGE_WEB_TOKEN", raising=False)
    assert choose_token(None) is None
    monkeypatch.setenv("SSD_EDGE_WEB_TOKEN", TOKEN.value)
    assert choose_token(None) == TOKEN
    with pytest.raises(UsageError, match=r"cannot read a token from .*missing"):
        choose_token(str(tmp_path / "missing"))


@pytest.mark.parametrize("value", ["", "short", "fifteen-letters", "0123456789abcde;", "0123456789abcdeé", "a b" * 9])
def test_tokens_that_cannot_be_used(value: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(value, encoding="utf-8")
    with pytest.raises(UsageError, match="16 to 256 letters") as raised:
        choose_token(str(tmp_path / "token"))
    assert len(value) < 5 or value not in str(raised.value)


def test_a_port_in_use(preview: WebPreview) -> None:
    port = port_of(preview)
    with pytest.raises(SinkError, match=f"port {port} of 127.0.0.1: Address already in use; choose another"):
        WebPreview(port=port)
    preview.close()
    WebPreview(port=port).close()  # free again at once


def test_an_address_that_this_machine_does_not_have() -> None:
    with pytest.raises(SinkError, match=r"of 192\.0\.2\.1"):  # RFC 5737: for documentation only
        WebPreview("192.0.2.1", 0, token=TOKEN)


def test_health(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    def health() -> tuple[int, list[tuple[str, str]]]:
        status, _, body = get(preview, "/healthz")
        return status, [(one["source"], one["status"]) for one in json.loads(body)["sources"]]

    assert health() == (503, [])  # nothing has begun
    write(preview, result())
    assert health() == (200, [("gate", "ok")])
    preview.status("yard", "reconnecting", "no answer")
    assert health() == (503, [("gate", "ok"), ("yard", "reconnecting")])
    preview.status("yard", "ok", "")
    assert health() == (200, [("gate", "ok"), ("yard", "ok")])
    monkeypatch.setattr(board, "STALE_S", -1.0)  # nobody has told that it is stalled
    assert health() == (503, [("gate", "stalled"), ("yard", "stalled")])
    preview.status("gate", "ended", "")
    assert health()[1][0] == ("gate", "ended")


def test_metrics(preview: WebPreview) -> None:
    for index in (0, 1, 5, 0):  # three dropped; then it begins again
        write(preview, result(index))
    preview.stats("gate", StreamStats(4, 3, 1.0, (1.0, 2.0, 30.0), (12.0, 12.0, 12.0)))
    preview.status('ya"rd\n', "failed", "")
    _, headers, body = get(preview, "/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["process_resident_memory_bytes",] > 0
    for name, value in {
        ("ssd_edge_frames_total", "gate"): 4,
        ("ssd_edge_dropped_frames_total", "gate"): 3,
        ("ssd_edge_source_up", "gate"): 1,
        ("ssd_edge_source_up", 'ya"rd\n'): 0,
        ("ssd_edge_source_status", "failed", 'ya"rd\n'): 1,
        ("ssd_edge_age_seconds", "0.95", "gate"): 0.012,
        ("ssd_edge_latency_seconds", "0.99", "gate"): 0.03,
        ("ssd_edge_detections_total", "gate", "green"): 4,
        ("ssd_edge_events_total", "dock", "enter", "gate", "green"): 4,
    }.items():
        assert samples[name] == pytest.approx(value), name
    documented = Path(__file__).parents[4] / "docs" / "web.md"
    text = documented.read_text(encoding="utf-8")
    assert {name[0] for name in samples if f"`{name[0]}`" not in text and name[0].startswith("ssd_edge")} == set()


def test_a_name_that_is_no_utf8(preview: WebPreview) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write(preview, result(source=name))
    assert get_live(preview)[0]["sources"][0]["source"] == name
    assert json.loads(get(preview, "/healthz")[2])["sources"][0]["source"] == name
    assert b'ssd_edge_frames_total{source="caf?.mp4"} 1.0' in get(preview, "/metrics")[2]


def test_an_update_has_the_newest_frames_only(preview: WebPreview) -> None:
    for index in range(20):
        write(preview, result(index, grey=10 * index))
    write(preview, result(0, "yard", size_hw=(1080, 1920)))
    update, (gate, yard) = get_live(preview)
    assert gate is not None
    assert yard is not None
    assert (gate.shape, yard.shape) == ((48, 64, 3), (540, 960, 3))
    assert gate.mean() == pytest.approx(190, abs=2)
    assert [source["source"] for source in update["sources"]] == ["gate", "yard"]
    record = update["sources"][0]["record"]
    assert (record["frame"], record["detections"][0]["track"]) == (19, 7)
    assert update["events"][-1] | {"time": 0} == {
        "source": "yard",
        "time": 0,
        "kind": "enter",
        "place": "dock",
        "track": 7,
        "class": "green",
    }

    write(preview, result(20, grey=50))
    again, (gate, yard) = get_live(preview, update["number"])
    assert gate is not None
    assert yard is None  # no newer one
    assert gate.mean() == pytest.approx(50, abs=2)
    assert again["number"] > update["number"]


def test_a_number_of_another_server_gets_all(preview: WebPreview) -> None:
    write(preview, result())
    for after in ("999", "-1", "x", "", "9" * 5000):
        line, _, jpeg = get(preview, f"/live?after={after}")[2].partition(b"\n")
        assert json.loads(line)["sources"][0]["jpeg"] == len(jpeg) > 0


def test_without_a_new_picture_the_figures_come_alone(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LONGEST_WAIT_S", 0.1)
    assert get_live(preview)[0]["sources"] == []
    write(preview, result())
    number = get_live(preview)[0]["number"]
    preview.status("gate", "stalled", "no frame for 3 s")
    update, (picture,) = get_live(preview, number)
    assert picture is None
    assert (update["sources"][0]["status"], update["number"]) == ("stalled", number)


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [((540, 960), (540, 960)), ((720, 1280), (540, 960)), ((2160, 3840), (540, 960)), ((3000, 10), (960, 3))],
)
def test_a_picture_is_scaled_down_to_960_pixels(size_hw: tuple[int, int], expected_hw: tuple[int, int]) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    image[: size_hw[0] // 2] = 200
    small = cv2.imdecode(np.frombuffer(board.picture(image), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (*expected_hw, 3)
    assert small.mean() == pytest.approx(100, abs=2)


def test_nothing_is_encoded_or_drawn_unless_someone_looks(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    monkeypatch.setattr(board, "picture", lambda image_bgr: encoded.append(1) or b"jpeg")
    monkeypatch.setattr(server, "LOOKING_S", 0.5)
    for index in range(50):
        write(preview, result(index))
    get(preview, "/")
    get(preview, "/metrics")
    get(preview, "/healthz")
    assert (len(encoded), preview.needs_drawing) == (0, False)
    monkeypatch.setattr(board, "PICTURE_PERIOD_S", 1000.0)
    for _ in range(10):  # of ten viewers
        get(preview, "/live")
    assert (len(encoded), preview.needs_drawing) == (1, True)
    wait_until(lambda: not preview.needs_drawing)


def test_viewers_that_are_stuck_cost_nothing(
    preview: WebPreview, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Each asks 100 times for a megabyte and reads nothing.
    answers = []
    handles = Path("/proc/self/fd")
    handles_before = len(list(handles.iterdir())) if handles.exists() else 0
    monkeypatch.setattr(board.Board, "update", lambda self, after: answers.append(1) or bytes(2**20))
    write(preview, result())
    stuck = [socket.create_connection(("127.0.0.1", port_of(preview))) for _ in range(10)]
    for client in stuck:
        client.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
    wait_until(lambda: len(answers) >= 10)
    before = -1
    while before != len(answers):
        before = len(answers)
        time.sleep(0.3)
    assert len(answers) < 200  # what the system's own buffers took, of 1000
    assert get(preview, "/healthz")[0] == 200
    begin = time.monotonic()
    preview.close()
    assert time.monotonic() - begin < 1
    assert not preview._thread.is_alive()
    if handles_before:
        assert len(list(handles.iterdir())) <= handles_before - 1 + len(stuck)  # less the port that it listened at
    assert caplog.records == []
    for client in stuck:
        client.close()


def test_viewers_that_read_nothing_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("no TCP_USER_TIMEOUT on this system")
    monkeypatch.setattr(server, "STUCK_MS", 300)
    monkeypatch.setattr(board.Board, "update", lambda self, after: bytes(2**25))
    with WebPreview(port=0) as preview, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port_of(preview)))
        client.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connections = preview._server.server_state.connections
        wait_until(lambda: len(connections) == 1)
        wait_until(lambda: len(connections) == 0, 15)


def test_connections_have_a_bound(preview: WebPreview) -> None:
    clients = [socket.create_connection(("127.0.0.1", port_of(preview))) for _ in range(server.MAX_CONNECTIONS + 20)]

    def hung_up(client: socket.socket) -> bool:
        client.setblocking(False)
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    wait_until(lambda: sum(map(hung_up, clients)) == 20)
    for client in clients:
        client.close()
    wait_until(lambda: not preview._server.server_state.connections)
    assert get(preview, "/")[0] == 200


def test_close_sends_waiting_viewers_away(preview: WebPreview) -> None:
    write(preview, result())
    number = get_live(preview)[0]["number"]
    statuses: list[int] = []
    waiting = threading.Thread(target=lambda: statuses.append(get(preview, f"/live?after={number}")[0]))
    waiting.start()
    idle = socket.create_connection(("127.0.0.1", port_of(preview)))
    wait_until(lambda: len(preview._server.server_state.connections) == 2)
    begin = time.monotonic()
    preview.close()
    assert time.monotonic() - begin < 1
    waiting.join(5)
    assert statuses == [200]
    assert not preview._thread.is_alive()
    idle.close()
    preview.close()  # once more does no harm
    write(preview, result())  # nor does a late frame


def test_fps_and_frames(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(board.time, "monotonic", lambda: now)
    one = board.Board()
    for index in range(40):
        now = 100 + index / 10
        one.add(result(index), np.zeros((4, 4, 3), np.uint8))
    (figures,) = one.figures()
    assert (figures.fps, figures.frames, figures.dropped, figures.silent_s) == (10.0, 40, 0, 0.0)
    now += 20
    (figures,) = one.figures()
    assert (figures.fps, figures.status, figures.detail) == (0.0, "stalled", "no frame for 20 s")
