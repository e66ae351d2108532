"""What tracks do in zones and at lines."""

import logging

import numpy as np
import pytest

from ssd_edge.runtime.results import Event
from ssd_edge.runtime.tracking.geometry import in_pixels
from ssd_edge.runtime.tracking.watch import PlaceWatch, Seen
from ssd_edge.runtime.tracking.zones import Line, Zone

SIZE_HW = (1000, 1000)  # a pixel is a unit of REFERENCE
SQUARE = ((400.0, 400.0), (600.0, 400.0), (600.0, 600.0), (400.0, 600.0))
DOOR = ((400.0, 500.0), (600.0, 500.0))  # going right: `in` is below


def box_at(x: float, y: float, side: float = 40) -> Seen:
    """A box of 40 × 40, hence with a margin of 4, that stands at x, y."""
    return Seen(1, np.array([x - side / 2, y - side, x + side / 2, y]))


def walk(watch: PlaceWatch, *points: tuple[float, float] | None) -> list[list[str]]:
    """The kinds of the events of each frame of track 5; None: not found there."""
    return [
        [event.kind for event in watch.update({5: box_at(*point)} if point else {}, {5}, SIZE_HW)] for point in points
    ]


def inside(watch: PlaceWatch) -> int:
    return watch.counts["z"]["inside"]


def test_enter_and_leave_with_hysteresis() -> None:
    watch = PlaceWatch([Zone("z", SQUARE)], [])
    assert watch.update({5: box_at(500, 399)}, {5}, SIZE_HW) == ()
    assert watch.update({5: box_at(500, 401)}, {5}, SIZE_HW) == (Event("enter", "z", 5, 1),)
    # On the edge, three pixels to and fro: within the margin of four.
    assert walk(watch, (500, 397), (500, 402), (500, 397), (500, 500)) == [[], [], [], []]
    assert inside(watch) == 1
    assert walk(watch, (500, 605), (500, 605)) == [["leave"], []]
    assert inside(watch) == 0


def test_a_track_that_is_lost_inside_leaves_when_it_is_over() -> None:
    watch = PlaceWatch([Zone("z", SQUARE)], [])
    assert walk(watch, (500, 500), None, None) == [["enter"], [], []]
    assert inside(watch) == 1
    assert watch.update({}, set(), SIZE_HW) == (Event("leave", "z", 5, 1),)
    assert inside(watch) == 0


def test_the_anchor_decides() -> None:
    for anchor, kinds in (("bottom", []), ("centre", ["enter"])):
        assert walk(PlaceWatch([Zone("z", SQUARE, anchor)], []), (500, 610)) == [kinds]  # its centre is at 590


def test_the_border_of_the_picture_belongs_to_a_zone_of_all_of_it() -> None:
    watch = PlaceWatch([Zone("z", ((0, 0), (1, 0), (1, 1), (0, 1)))], [])
    for size_hw in ((1080, 1919), (719, 333)):
        height, width = size_hw
        scale = 1000 / max(size_hw)
        found = Seen(0, np.array([width - 20, height - 30, width, height], np.float32) * np.float32(scale))
        assert len(watch.update({1: found}, {1}, size_hw)) == 1
        watch.update({}, set(), size_hw)


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ([(500, 450), (500, 550)], [[], ["in"]]),
        ([(500, 550), (500, 450)], [[], ["out"]]),
        ([(500, 450), (500, 503), (500, 497), (500, 503)], [[], [], [], []]),  # on it, within the margin
        ([(500, 450), (500, 503), (500, 510), (500, 520)], [[], [], ["in"], []]),  # slowly
        ([(500, 450), None, None, (500, 550)], [[], [], [], ["in"]]),  # hidden while it crosses
        ([(500, 450), (500, 550), (500, 450)], [[], ["in"], ["out"]]),
        ([(700, 450), (700, 550), (500, 550), (500, 450)], [[], [], [], ["out"]]),  # around the end, then back over it
        ([(500, 502), (500, 550)], [[], []]),  # it has begun on this side
    ],
)
def test_lines_count_each_way(path: list[tuple[float, float] | None], kinds: list[list[str]]) -> None:
    watch = PlaceWatch([], [Line("door", DOOR)])
    assert walk(watch, *path) == kinds
    all_kinds = [kind for of_frame in kinds for kind in of_frame]
    assert watch.counts == {"door": {"in": all_kinds.count("in"), "out": all_kinds.count("out")}}


def test_fractions_and_another_resolution_mean_the_same_place() -> None:
    watch = PlaceWatch(
        [Zone("z", ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)))], [Line("l", ((0.3, 0.5), (0.7, 0.5)))]
    )
    assert [event.kind for event in watch.update({5: box_at(500, 450)}, {5}, (1000, 1000))] == ["enter"]
    assert [event.kind for event in watch.update({5: box_at(500, 550)}, {5}, (500, 500))] == ["in"]
    assert in_pixels(((0.5, 0.25),), (200, 100)).tolist() == [[50.0, 50.0]]
    assert in_pixels(((5.0, 25.0),), (200, 100)).tolist() == [[5.0, 25.0]]


def test_nothing_is_kept_of_tracks_that_are_over() -> None:
    watch = PlaceWatch([Zone("z", SQUARE)], [Line("door", DOOR)])
    for track in range(1000):
        watch.update({track: box_at(500, 450)}, {track}, SIZE_HW)
    assert inside(watch) == 1
    again = {track: box_at(500, 550) for track in range(999)}  # behind the line that they came to: none has crossed it
    assert {event.kind for event in watch.update(again, {*again, 999}, SIZE_HW)} == {"enter"}
    assert watch.counts["door"] == {"in": 0, "out": 0}


def test_a_place_outside_of_the_picture_is_named(caplog: pytest.LogCaptureFixture) -> None:
    watch = PlaceWatch([Zone("z", SQUARE)], [Line("edge", ((0, 200), (300, 200)))])
    with caplog.at_level(logging.WARNING):
        watch.update({}, set(), (240, 320))
        watch.update({}, set(), (240, 320))
    assert [record.getMessage()[:8] for record in caplog.records] == ["zone 'z'"]
