"""The bundled model finds what it should, or is a problem."""

import numpy as np
import pytest

from ssd_edge.runtime.doctor import bundled_model
from ssd_edge.runtime.doctor.finding import OK, PROBLEM


def test_the_bundled_model_finds_the_code() -> None:
    found = bundled_model.bundled()
    assert (found.status, found.facts["found"]) == (OK, ["qr_code"])
    assert found.facts["ms"] > 0


def test_a_model_that_finds_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_model, "qr_picture", lambda: np.zeros((480, 640, 3), np.uint8))
    found = bundled_model.bundled()
    assert (found.status, found.summary) == (PROBLEM, "runs, but finds nothing in a picture of one QR code")
