"""Recovery finds the fewest layers, by few trials."""

import json
from collections.abc import Collection

import pytest

from ssd_edge.calib.recovery import Point, Recovery, Trials, rank, recover

LAYERS = [f"layer{number}" for number in range(16)]


class Model:
    """A model of which each layer costs some AP and some error in int8; and counts how often it is asked."""

    def __init__(self, drops: dict[str, float], errors: dict[str, float] | None = None) -> None:
        self.drops, self.errors, self.asked = drops, errors or drops, 0

    def ap(self, kept: Collection[str]) -> float:
        self.asked += 1
        return 0.5 - sum(drop for name, drop in self.drops.items() if name not in kept)

    def error(self, kept: Collection[str]) -> float:
        return sum(error for name, error in self.errors.items() if name not in kept)

    def cost(self, kept: Collection[str]) -> float:
        return 10.0 + len(kept)

    def recover(self, floor: float) -> Recovery:
        return recover(LAYERS, Trials(self.ap, self.error, self.cost), reference_ap=0.5, floor=floor)


def test_a_model_that_is_good_enough_loses_nothing() -> None:
    model = Model({"layer3": 0.004})
    found = model.recover(floor=0.495)
    assert (found.chosen.kept_float, found.chosen.cost, found.enough, model.asked) == ((), 10.0, True, 1)
    assert found.chosen.ap == pytest.approx(0.496)
    assert (found.ranking, found.costly) == ((), False)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 16])
def test_the_fewest_layers_are_given_back(count: int) -> None:
    drops = dict.fromkeys(LAYERS[:count], 0.01)
    model = Model(drops, {name: 1.0 - 0.01 * number for number, name in enumerate(LAYERS)})
    found = model.recover(floor=0.499)
    assert found.chosen.kept_float == tuple(LAYERS[:count])
    assert found.enough
    assert model.asked <= 2 * 5 + count  # doubling, halving, and a trial for each one given back


def test_a_harmless_layer_that_ranks_high_goes_back_to_int8() -> None:
    model = Model({"layer1": 0.02, "layer4": 0.02}, {"layer1": 3.0, "layer2": 2.0, "layer4": 1.0})
    found = model.recover(floor=0.49)
    assert found.chosen.kept_float == ("layer1", "layer4")
    assert [entry.layer for entry in found.ranking[:3]] == ["layer1", "layer2", "layer4"]
    assert ("layer1", "layer2", "layer4") in [point.kept_float for point in found.curve]


def test_a_bound_that_float_cannot_hold_is_told() -> None:
    model = Model({"layer0": 0.1})
    found = recover(LAYERS, Trials(model.ap, model.error, model.cost), reference_ap=0.5, floor=0.6)
    assert not found.enough
    assert found.chosen.kept_float == tuple(found.chosen.kept_float)
    assert len(found.chosen.kept_float) == 16


def test_a_fifth_of_the_speed_is_costly() -> None:
    drops = dict.fromkeys(LAYERS, 0.01)
    assert not Model(dict.fromkeys(LAYERS[:2], 0.01)).recover(0.499).costly  # 12 to 10
    assert Model(drops).recover(0.499).costly


def test_sensitivity_is_of_one_layer_alone() -> None:
    model = Model({}, {"layer0": 1.0, "layer5": 4.0, "layer6": 4.0})
    ranking = rank(LAYERS, model.error)
    assert [(entry.layer, entry.error) for entry in ranking[:3]] == [("layer5", 4.0), ("layer6", 4.0), ("layer0", 1.0)]


def test_the_report_has_all_that_was_measured() -> None:
    found = Model({"layer0": 0.02, "layer1": 0.01}).recover(floor=0.495)
    values = json.loads(found.to_json())
    assert (values["enough"], values["floor"], values["chosen"]["kept_float"]) == (True, 0.495, ["layer0", "layer1"])
    assert [len(point["kept_float"]) for point in values["curve"]] == sorted(
        len(point["kept_float"]) for point in values["curve"]
    )
    assert "2 of 16 layers given back to float: AP 0.5000" in str(found)


@pytest.mark.parametrize(
    ("ap", "cost", "better"), [(0.5, 1.0, True), (0.5, 1.3, False), (0.5, 1.2, False), (0.4, 1.0, False)]
)
def test_one_recovery_is_better_than_another_by_its_cost_where_both_hold_the_bound(
    ap: float, cost: float, better: bool
) -> None:
    def recovery(ap: float, cost: float) -> Recovery:
        return Recovery(0.5, 0.45, Point(("a",), ap, cost), (Point((), 0.4, 1.0), Point(("a",), ap, cost)))

    assert recovery(ap, cost).better_than(recovery(0.5, 1.2)) == better
    assert recovery(ap, cost).better_than(recovery(0.4, 1.0)) == (ap == 0.5)  # that one fails


@pytest.mark.parametrize(("ap", "cost", "wants"), [(0.5, 1.2, False), (0.5, 1.21, True), (0.4, 1.0, True)])
def test_fine_tuning_is_wanted_where_the_bound_fails_or_costs_more_than_a_fifth(
    ap: float, cost: float, wants: bool
) -> None:
    assert Recovery(0.5, 0.45, Point(("a",), ap, cost), (Point((), 0.4, 1.0),)).wants_finetuning == wants
