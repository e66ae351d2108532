"""Filters, zones and lines in a scene, and the options of a configuration file."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_edge.errors import UsageError
from ssd_edge.runtime.results import NO_TRACK
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions, understanding_options
from ssd_edge.runtime.tracking.tracker import TrackOptions
from ssd_edge.runtime.tracking.zones import Line, Zone
from tests.runtime.tracking.scene import CROSSING, NAMES, TRACKED, found, frame, needs_trackers, run


def test_without_options_everything_is_kept_and_nothing_tracked() -> None:
    detections = found([0, 0, 10, 10], [5, 5, 9, 9], labels=[0, 2])
    result = Understanding(NAMES).apply("door", frame(3), detections, 12.5)
    assert (result.source, result.age_ms, result.class_names) == ("door", 12.5, NAMES)
    assert result.tracks.tolist() == [NO_TRACK, NO_TRACK]
    assert "counts" not in result.record()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (UnderstandingOptions(classes=("car", "person")), [0, 1]),
        (UnderstandingOptions(min_size=(20.0, 40.0)), [1]),
        (UnderstandingOptions(min_size=20), [0, 1]),  # type: ignore[arg-type]
        (UnderstandingOptions(max_size=(0.1, 0.1)), [0, 2]),  # of 640 × 480
        (UnderstandingOptions(min_size=(20.0, 20.0), max_size=(0.1, 0.1), classes=("person",)), [0]),
    ],
)
def test_filters(options: UnderstandingOptions, kept: list[int]) -> None:
    detections = found([0, 0, 20, 20], [0, 0, 65, 49], [0, 0, 5, 40], labels=[0, 1, 2])
    result = Understanding(NAMES, options).apply("door", frame(0), detections, 1.0)
    assert result.detections.labels.tolist() == kept


@needs_trackers
def test_a_zone_and_a_line_in_a_scene() -> None:
    zone = Zone("yard", ((0.4, 0), (0.6, 0), (0.6, 1), (0.4, 1)))  # x 256–384
    line = Line("door", ((320, 0), (320, 479)))  # downwards: `in` is to the left
    understanding = Understanding(NAMES, UnderstandingOptions(zones=(zone,), lines=(line,)))
    ids, results = run(understanding, CROSSING, 100)
    events = [(event.kind, event.place, event.track) for result in results for event in result.events]
    right, left, still = (one[-1] for one in ids)
    assert [event for event in events if event[2] == right] == [
        ("enter", "yard", right),
        ("out", "door", right),
        ("leave", "yard", right),
    ]
    assert [event for event in events if event[2] == left] == [
        ("enter", "yard", left),
        ("in", "door", left),
        ("leave", "yard", left),
    ]
    assert [event for event in events if event[2] == still] == [("enter", "yard", still)]
    assert results[-1].counts == {"yard": {"inside": 1}, "door": {"in": 1, "out": 1}}
    for result in results[:-1]:  # the count is what the events say
        so_far = [event.kind for earlier in results[: result.frame.index + 1] for event in earlier.events]
        assert result.counts["yard"]["inside"] == so_far.count("enter") - so_far.count("leave")
    gone = [understanding.apply("scene", frame(at), found(), 1.0) for at in range(100, 140)]
    assert [event.kind for result in gone for event in result.events] == ["leave"]
    record = results[-1].record()
    assert record["counts"] == results[-1].counts
    assert all("track" in one for one in record["detections"])


@needs_trackers
def test_time_is_that_of_the_source() -> None:
    box = [100.0, 100.0, 200.0, 200.0]

    def tracks(fps: float | None, *captured_at: float) -> list[int]:
        understanding = Understanding(NAMES, TRACKED)
        frames = [frame(at, captured_at=seconds) for at, seconds in enumerate(captured_at)]
        if fps:
            frames = [replace(one, at_s=one.index / fps) for one in frames]
        return [int(understanding.apply("s", one, found(box), 1.0).tracks[0]) for one in frames]

    assert tracks(None, 100, 100.03, 100.06, 160, 160.03) == [-1, 1, 1, -1, 2]  # a live source was away for a minute
    assert tracks(30, 100, 100.03, 100.06, 160, 160.03) == [-1, 1, 1, 1, 1]  # a file was read with a pause
    assert tracks(None, 0, 5, 10, 15, 20)[-2:] == [1, 1]  # a frame every five seconds
    assert tracks(0.2, 0, 1, 2, 3, 4)[-2:] == [1, 1]  # so does this file


def test_a_table_says_the_same_as_the_options() -> None:
    table = {
        "classes": ["person"],
        "min_size": 10,
        "max_size": [0.5, 0.9],
        "track": {"lost_s": 2},
        "zone": [{"name": "yard", "polygon": [[0, 0], [0.5, 0], [0.5, 0.5]], "anchor": "centre"}],
        "line": [{"name": "door", "points": [[10, 20], [300, 20]]}],
    }
    assert understanding_options(table, "source door") == UnderstandingOptions(
        classes=("person",),
        min_size=(10, 10),
        max_size=(0.5, 0.9),
        track=TrackOptions(lost_s=2),
        zones=(Zone("yard", ((0, 0), (0.5, 0), (0.5, 0.5)), "centre"),),
        lines=(Line("door", ((10, 20), (300, 20))),),
    )
    assert understanding_options({}, "source door") == UnderstandingOptions()
    assert understanding_options({"track": True}, "source door").track == TrackOptions()
    assert understanding_options({"track": False}, "source door").track is None
    only_line = understanding_options({"line": table["line"]}, "source door")
    assert only_line.track == TrackOptions()  # lines need tracks


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"zones": []}, "^source door: unknown key 'zones'; did you mean 'zone'"),
        (
            {"zone": [{"name": "a", "poligon": []}]},
            "source door: zone 1: unknown key 'poligon'; did you mean 'polygon'",
        ),
        ({"zone": [{"name": "a"}]}, "source door: zone 1: it lacks polygon$"),
        ({"zone": [3]}, "zone 1: expected a table with name, polygon, anchor, got 3"),
        ({"zone": {"name": "a"}}, "source door: zone: expected tables in double brackets"),
        ({"zone": [{"name": "a", "polygon": [[0, 0], [1, 1]]}]}, "source door: zone 1: zone 'a': a polygon has 3"),
        ({"track": 3}, "track: expected a table with score, lost_s, frames, got 3"),
        ({"track": {"score": 2}}, "track: score must be a number from 0 to 1, got 2"),
        ({"track": {"lost_s": "1"}}, "track: lost_s must be seconds above 0, got '1'"),
        ({"track": {"frames": 0}}, "track: frames must be a whole number from 1 up, got 0"),
        ({"track": {"frames": True}}, "track: frames must be a whole number from 1 up, got True"),
        ({"classes": "person"}, "expected names such as"),
        ({"min_size": [1]}, "min_size: expected one number or"),
        ({"max_size": -1}, "max_size: expected one number or"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        understanding_options(table, "source door")


def test_an_unknown_class_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no class 'trafic light'; did you mean 'traffic light'"):
        Understanding(NAMES, UnderstandingOptions(classes=("trafic light",)))


@needs_trackers
def test_a_real_video(shared_data: Path) -> None:
    """Blobs that differ from the empty scene stand in for a detector of pedestrians."""
    video = cv2.VideoCapture(str(shared_data / "video" / "vtest.avi"))
    background = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
    zone = Zone("road", ((0, 0.3), (1, 0.3), (1, 1), (0, 1)))
    understanding = Understanding(("person",), UnderstandingOptions(min_size=(0.01, 0.03), zones=(zone,)))
    longest: dict[int, int] = {}
    kinds: list[str] = []
    for index in range(150):
        ok, image = video.read()
        assert ok
        mask = cv2.dilate(cv2.medianBlur(background.apply(image), 5), np.ones((9, 5), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        boxes = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:].tolist() if area > 400]
        if index < 20:
            continue  # the background is not known yet
        result = understanding.apply("vtest", Frame(image, index, 0.0, "vtest", at_s=index / 10), found(*boxes), 1.0)
        for track in result.tracks[result.tracks != NO_TRACK].tolist():
            longest[track] = longest.get(track, 0) + 1
        kinds += [event.kind for event in result.events]
    assert max(longest.values()) > 60  # someone is followed for six seconds
    assert kinds.count("enter") - kinds.count("leave") == result.counts["road"]["inside"]
    assert kinds.count("leave") > 0
