"""What the server answers; viewers of any kind cost the stream nothing."""

import json
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import SinkError, UsageError
from ssd_edge.runtime.sinks.web import board, server
from ssd_edge.runtime.sinks.web.server import WebPreview
from tests.runtime.sinks.web.previews import TOKEN, get, get_live, port_of, result, wait_until, write


def is_serving() -> bool:
    """A preview has its thread."""
    return any(thread.name == "web preview" for thread in threading.enumerate())


def test_a_port_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="port 70000 cannot be"):
        WebPreview(port=70000)


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


def test_a_name_that_is_no_utf8(preview: WebPreview) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write(preview, result(source=name))
    assert get_live(preview)[0]["sources"][0]["source"] == name
    assert json.loads(get(preview, "/healthz")[2])["sources"][0]["source"] == name
    assert b'ssd_edge_frames_total{source="caf?.mp4"} 1.0' in get(preview, "/metrics")[2]


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


def test_nothing_is_drawn_or_encoded_unless_someone_looks(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def encode(image_bgr: NDArray[np.uint8]) -> bytes:
        encoded.append(1)
        return b"jpeg"

    monkeypatch.setattr(board, "picture", encode)
    for index in range(50):
        write(preview, result(index))
    get(preview, "/")
    get(preview, "/metrics")
    get(preview, "/healthz")
    assert not encoded
    monkeypatch.setattr(board, "PICTURE_PERIOD_S", 1000.0)
    for _ in range(10):  # of ten viewers
        get(preview, "/live")
    assert len(encoded) == 1


def test_viewers_that_are_stuck_cost_nothing(
    preview: WebPreview, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Each asks 100 times for a megabyte and reads nothing.
    answers = []

    def answer(self: board.Board, after: int) -> bytes:
        answers.append(1)
        return bytes(2**20)

    handles = Path("/proc/self/fd")
    handles_before = len(list(handles.iterdir())) if handles.exists() else 0
    monkeypatch.setattr(board.Board, "update", answer)
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
    assert not is_serving()
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
        wait_until(lambda: preview.open_connections == 1)
        wait_until(lambda: preview.open_connections == 0, 15)


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
    wait_until(lambda: preview.open_connections == 0)
    assert get(preview, "/")[0] == 200


def test_close_sends_waiting_viewers_away(preview: WebPreview) -> None:
    write(preview, result())
    number = get_live(preview)[0]["number"]
    statuses: list[int] = []
    waiting = threading.Thread(target=lambda: statuses.append(get(preview, f"/live?after={number}")[0]))
    waiting.start()
    idle = socket.create_connection(("127.0.0.1", port_of(preview)))
    wait_until(lambda: preview.open_connections == 2)
    begin = time.monotonic()
    preview.close()
    assert time.monotonic() - begin < 1
    waiting.join(5)
    assert statuses == [200]
    assert not is_serving()
    idle.close()
    preview.close()  # once more does no harm
    write(preview, result())  # nor does a late frame
