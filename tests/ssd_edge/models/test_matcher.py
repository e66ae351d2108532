import torch

from ssd_edge.models.matcher import match


def test_every_object_gets_a_default_box_and_the_later_object_wins() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20]])
    objects = torch.tensor(
        [[[0.0, 0, 10, 8], [11, 1, 13, 3], [12, 1, 14, 3]], [[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    )
    present = torch.tensor([[True, True, True], [False, False, False]])
    # Object 0 overlaps anchor 0 by 0.8; objects 1 and 2 overlap anchor 1 by 0.04 each, and it is best for both.
    assert match(objects, present, anchors).tolist() == [[0, 2, -1], [-1, -1, -1]]
