"""Tracks through crossings, misses and occlusions, and what a track begins and ends with."""

import subprocess
import sys

import numpy as np
import pytest

from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.results import NO_TRACK
from ssd_edge.runtime.tracking.analytics import Understanding, UnderstandingOptions
from ssd_edge.runtime.tracking.tracker import Tracker, TrackOptions
from ssd_edge.runtime.tracking.zones import Zone
from tests.runtime.tracking.scene import CROSSING, NAMES, TRACKED, found, frame, needs_trackers, run, switches


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
def test_a_source_that_begins_anew_gets_new_ids() -> None:
    zone = Zone("all", ((0, 0), (1, 0), (1, 1), (0, 1)))
    understanding = Understanding(NAMES, UnderstandingOptions(zones=(zone,)))
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
    tracker = Tracker(TrackOptions())
    for at in range(1500):  # a new thing every three frames, each seen for two
        x = 37 * (at // 3) % 600
        tracker.update(found(*[[x, 10.0, x + 20.0, 40.0]] * (at % 3 < 2)), at / 30)
    assert 1 <= len(tracker.alive) <= 31  # those of the last second


def test_without_tracks_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from ssd_edge.runtime.tracking.analytics import Understanding; Understanding(('a',)); "
        "print({'trackers', 'supervision', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "set()\n"


def test_a_missing_package_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"need the package supervision.*pip install '\.\[track\]'"):
        Understanding(NAMES, TRACKED)
