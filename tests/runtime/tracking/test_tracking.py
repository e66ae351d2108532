"""Filters, tracks through crossings, misses and occlusions, and the options of a configuration file."""

import importlib.util
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from ssd_edge.detections import Detections
from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.runtime.results import NO_TRACK, Result
from ssd_edge.runtime.sources.base import Frame
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions, understanding_options
from ssd_edge.runtime.tracking.tracker import TrackOptions
from ssd_edge.runtime.tracking.zones import Line, Zone

needs_trackers = pytest.mark.skipif(
    importlib.util.find_spec("trackers") is None, reason="trackers is not installed: pip install '.[track]'"
)
NAMES = ("person", "car", "traffic light")
TRACKED = UnderstandingOptions(track=TrackOptions())
Path = Callable[[float], tuple[float, float]]  # frame: the centre at that time


def frame(index: int, size_hw: tuple[int, int] = (480, 640), captured_at: float | None = None) -> Frame:
    image = np.zeros((*size_hw, 3), np.uint8)
    return Frame(image, index, index / 30 if captured_at is None else captured_at, "scene")


def found(*boxes_xyxy: list[float], labels: list[int] | None = None, score: float = 0.9) -> Detections:
    count = len(boxes_xyxy)
    boxes = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, score), np.array(labels or [0] * count, np.int64))


def run(
    understanding: Understanding,
    paths: list[Path],
    frames: int,
    *,
    hidden: Callable[[int, int], bool] = lambda thing, at: False,
    scale: float = 1.0,
    size: tuple[float, float] = (40, 80),
    noise: float = 1.0,
) -> tuple[list[list[int]], list[Result]]:
    """The ids that each thing had, and the results: boxes that tremble, in an order that changes."""
    rng = np.random.default_rng(0)
    ids: list[list[int]] = [[] for _ in paths]
    results = []
    for at in range(frames):
        seen = [thing for thing in rng.permutation(len(paths)).tolist() if not hidden(thing, at)]
        boxes = []
        for thing in seen:
            x, y = paths[thing](at)
            box = np.array([x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2])
            boxes.append((scale * (box + rng.normal(0, noise, 4))).tolist())
        picture = frame(at, (round(480 * scale), round(640 * scale)))
        results.append(understanding.apply("scene", picture, found(*boxes), 1.0))
        for thing, track in zip(seen, results[-1].tracks.tolist(), strict=True):
            ids[thing].append(track)
    return ids, results


def switches(ids: list[list[int]]) -> int:
    """How often a thing got another id."""
    tracks = [[track for track in one if track != NO_TRACK] for one in ids]
    return sum(before != after for one in tracks for before, after in itertools.pairwise(one))


CROSSING: list[Path] = [
    lambda t: (60 + 5 * t, 150 + t),
    lambda t: (560 - 5 * t, 170 + t),
    lambda t: (300, 60 + 3 * t),
]


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
@pytest.mark.parametrize("scale", [0.5, 1.0, 6.0])
def test_things_that_cross_keep_their_ids_at_every_resolution(scale: float) -> None:
    ids, _ = run(Understanding(NAMES, TRACKED), CROSSING, 100, scale=scale)
    assert switches(ids) == 0
    assert {track for one in ids for track in one} == {NO_TRACK, 1, 2, 3}
    assert [one.index(next(track for track in one if track > 0)) for one in ids] == [1, 1, 1]  # from the second frame


@needs_trackers
def test_missed_detections() -> None:
    missed = np.random.default_rng(1).random((3, 100)) < 0.25
    missed[:, :2] = False
    ids, _ = run(Understanding(NAMES, TRACKED), CROSSING, 100, hidden=lambda thing, at: bool(missed[thing, at]))
    assert switches(ids) == 0
    assert max(map(max, ids)) == 3


@needs_trackers
def test_an_occlusion_of_many_frames() -> None:
    ids, _ = run(Understanding(NAMES, TRACKED), CROSSING, 100, hidden=lambda thing, at: thing == 0 and 40 <= at < 60)
    assert switches(ids) == 0
    # Gone for longer than a second: another id, and no number given twice.
    ids, _ = run(Understanding(NAMES, TRACKED), CROSSING, 100, hidden=lambda thing, at: thing == 0 and 40 <= at < 80)
    assert switches(ids) == 1
    assert ids[0][-1] == 4


@needs_trackers
def test_classes_never_share_a_track() -> None:
    understanding = Understanding(tuple(map(str, range(90))), TRACKED)
    box = [100.0, 100.0, 200.0, 200.0]
    both = [understanding.apply("s", frame(at), found(box, box, labels=[88, 89]), 1.0).tracks for at in range(4)]
    assert [tracks.tolist() for tracks in both[1:]] == [[1, 2]] * 3
    swapped = understanding.apply("s", frame(4), found(box, box, labels=[89, 88]), 1.0)
    assert swapped.tracks.tolist() == [2, 1]


@needs_trackers
def test_weak_detections_carry_a_track_on_but_begin_none() -> None:
    understanding = Understanding(NAMES, UnderstandingOptions(track=TrackOptions(score=0.6, frames=3)))
    box = [100.0, 100.0, 200.0, 200.0]
    scores = [0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 0.3, 0.3]
    tracks = [understanding.apply("s", frame(at), found(box, score=score), 1.0) for at, score in enumerate(scores)]
    assert [int(result.tracks[0]) for result in tracks] == [-1, -1, -1, -1, -1, 1, 1, 1]
    understanding = Understanding(NAMES, UnderstandingOptions(track=TrackOptions(score=0.3)))
    tracks = [understanding.apply("s", frame(at), found(box, score=0.35), 1.0) for at in range(3)]
    assert [int(result.tracks[0]) for result in tracks] == [-1, 1, 1]


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
        understanding = Understanding(NAMES, TRACKED, fps=fps)
        frames = [frame(at, captured_at=seconds) for at, seconds in enumerate(captured_at)]
        return [int(understanding.apply("s", one, found(box), 1.0).tracks[0]) for one in frames]

    assert tracks(None, 100, 100.03, 100.06, 160, 160.03) == [-1, 1, 1, -1, 2]  # a live source was away for a minute
    assert tracks(30, 100, 100.03, 100.06, 160, 160.03) == [-1, 1, 1, 1, 1]  # a file was read with a pause
    assert tracks(None, 0, 5, 10, 15, 20)[-2:] == [1, 1]  # a frame every five seconds
    assert tracks(0.2, 0, 1, 2, 3, 4)[-2:] == [1, 1]  # so does this file


@needs_trackers
def test_a_source_that_begins_anew_gets_new_ids() -> None:
    zone = Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1)))
    understanding = Understanding(NAMES, UnderstandingOptions(zones=(zone,)), fps=30)
    box = [100.0, 100.0, 200.0, 200.0]
    results = [understanding.apply("s", frame(at), found(box), 1.0) for at in (*range(5), *range(5))]
    assert [int(result.tracks[0]) for result in results] == [-1, 1, 1, 1, 1, -1, 2, 2, 2, 2]
    assert [(event.kind, event.track) for result in results for event in result.events] == [
        ("enter", 1),
        ("leave", 1),
        ("enter", 2),
    ]


@needs_trackers
def test_nothing_grows_over_many_tracks() -> None:
    understanding = Understanding(NAMES, TRACKED)
    for at in range(1500):  # a new thing every three frames, each seen for two
        x = 37 * (at // 3) % 600
        understanding.apply("s", frame(at), found(*[[x, 10.0, x + 20.0, 40.0]] * (at % 3 < 2)), 1.0)
    assert understanding._tracker is not None
    assert len(understanding._tracker.alive) <= 31  # those of the last second


def test_without_tracks_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from ssd_edge.runtime.tracking.analytics import Understanding; Understanding(('a',)); "
        "print({'trackers', 'supervision', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_missing_package_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"need the package supervision.*pip install '\.\[track\]'"):
        Understanding(NAMES, TRACKED)


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
def test_a_real_video(shared_data: pathlib.Path) -> None:
    """Blobs that differ from the empty scene stand in for a detector of pedestrians."""
    video = cv2.VideoCapture(str(shared_data / "video" / "vtest.avi"))
    background = cv2.createBackgroundSubtractorMOG2(detectShadows=False)
    zone = Zone("road", ((0, 0.3), (1, 0.3), (1, 1), (0, 1)))
    understanding = Understanding(("person",), UnderstandingOptions(min_size=(0.01, 0.03), zones=(zone,)), fps=10)
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
        result = understanding.apply("vtest", Frame(image, index, 0.0, "vtest"), found(*boxes), 1.0)
        for track in result.tracks[result.tracks != NO_TRACK].tolist():
            longest[track] = longest.get(track, 0) + 1
        kinds += [event.kind for event in result.events]
    assert max(longest.values()) > 60  # someone is followed for six seconds
    assert kinds.count("enter") - kinds.count("leave") == result.counts["road"]["inside"]
    assert kinds.count("leave") > 0
