"""What is known of each source: newest frame, figures, scaled pictures."""

import time

import numpy as np
import pytest

from ssd_edge.runtime.sinks.web import board
from ssd_edge.runtime.sinks.web.server import WebPreview
from tests.runtime.sinks.web.previews import decoded, get_live, result, write


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


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [((540, 960), (540, 960)), ((720, 1280), (540, 960)), ((2160, 3840), (540, 960)), ((3000, 10), (960, 3))],
)
def test_a_picture_is_scaled_down_to_960_pixels(size_hw: tuple[int, int], expected_hw: tuple[int, int]) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    image[: size_hw[0] // 2] = 200
    small = decoded(board.picture(image))
    assert small.shape == (*expected_hw, 3)
    assert small.mean() == pytest.approx(100, abs=2)


def test_fps_and_frames(preview: WebPreview, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    one = board.Board(lambda result: result.frame.image_bgr)
    for index in range(40):
        now = 100 + index / 10
        one.add(result(index))
    (figures,) = one.figures()
    assert (figures.fps, figures.frames, figures.dropped, figures.silent_s) == (10.0, 40, 0, 0.0)
    now += 20
    (figures,) = one.figures()
    assert (figures.fps, figures.status, figures.detail) == (0.0, "stalled", "no frame for 20 s")
