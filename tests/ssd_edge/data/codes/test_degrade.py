import numpy as np

from ssd_edge.data.codes.backgrounds import TexturePool
from ssd_edge.data.codes.degrade import occlude

SIZE_HW = (240, 320)


def test_occlusion_hides_a_quarter_at_most() -> None:
    hull = np.array([[60.0, 60.0], [180.0, 60.0], [180.0, 180.0], [60.0, 180.0]])
    pool = TexturePool(0)
    hidden = []
    for seed in range(150):
        frame = np.full((*SIZE_HW, 3), 7, np.uint8)
        occlude(np.random.default_rng(seed), frame, [hull], pool)
        hidden.append((frame != 7).any(axis=2)[60:180, 60:180].mean())
    assert 0.02 < max(hidden) <= 0.26
    assert np.count_nonzero(hidden) < 50  # most codes are whole
