from ssd_edge.card import ModelCard
from ssd_edge.parity.compare_cards import card_differences


def test_cards_differ_in_what_takes_effect_only() -> None:
    card = ModelCard("a", 64, 64, ("x",), (1,), (0.0,) * 3, (1.0,) * 3, 0.01, 0.5, 10, 10)
    values = vars(card) | {"precision": "int8", "parent_sha256": "0", "metrics": {"AP": 0.5}, "training_data": "d"}
    assert card_differences(card, ModelCard(**values)) == ()
    (difference,) = card_differences(card, ModelCard(**(vars(card) | {"candidates": 20})))
    assert (difference.name, difference.reference, difference.model) == ("candidates", "10", "20")
