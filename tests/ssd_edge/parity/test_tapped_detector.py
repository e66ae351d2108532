"""`TappedDetector`: what files other than ONNX give, how often a network runs, and what is closed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ssd_edge.errors import MissingDependencyError, ModelFileError
from ssd_edge.parity import run as parity_run
from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.run import parity
from ssd_edge.runtime.backends.base import Detector
from ssd_edge.runtime.detector import open_detector
from tests.fakes.plain_engine import FakeEngine
from tests.ssd_edge.parity.broken_graphs import noisy_weights
from tests.ssd_edge.parity.staged import staged

if TYPE_CHECKING:
    from tests.detectors.tiny_detector import Tiny


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Lets `.engine` files be opened as the ONNX files that they are; those that were."""
    opened: list[FakeEngine] = []

    def open_it(path: Path, **options: Any) -> Detector:
        if path.suffix != ".engine":
            return open_detector(path, **options)
        from ssd_edge.runtime.backends.onnxruntime import OnnxDetector

        opened.append(FakeEngine(OnnxDetector(path, threads=1)))
        return opened[-1]

    monkeypatch.setattr("ssd_edge.parity.tapped_detector.open_detector", open_it)
    return opened


def test_an_engine_is_compared_from_its_boxes_on(tiny: Tiny, tmp_path: Path, engines: list[FakeEngine]) -> None:
    good = tiny.write(tmp_path / "good.engine", parent_sha256="0" * 64)
    noisy = tiny.write(tmp_path / "noisy.engine", noisy_weights("backbone"))
    report = staged(tiny, good, noisy)
    first, second = (model.comparison for model in report.models)
    assert first is not None
    assert second is not None
    assert first.conclusion == "no stage departs; logits, offsets could not be compared"
    assert "graph or decode: offsets cannot be compared" in second.conclusion
    assert "a .engine file gives boxes and scores only" in report.table()
    assert "another checkpoint" not in report.table()  # an engine's origin is its ONNX file
    assert [engine.closed for engine in engines] == [True, True]


def test_each_network_runs_once_an_image(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd_edge.parity.tapped_detector import TappedDetector

    calls = []
    infer = TappedDetector.infer

    def counted(self: TappedDetector, images_rgb: NDArray[np.uint8]) -> Any:
        calls.append(len(images_rgb))
        return infer(self, images_rgb)

    monkeypatch.setattr(TappedDetector, "infer", counted)
    report = staged(tiny, tiny.onnx, tiny.onnx, images=4)
    assert calls == [1] * (4 * 3)
    assert report.images == 4


def test_an_interruption_closes_every_model(
    tiny: Tiny, tmp_path: Path, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> NDArray[np.uint8]:
        raise KeyboardInterrupt

    monkeypatch.setattr(parity_run, "load_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        staged(tiny, tiny.write(tmp_path / "a.engine"), tiny.write(tmp_path / "b.engine"))
    assert [engine.closed for engine in engines] == [True, True]


def test_a_model_that_cannot_be_opened_closes_those_before_it(
    tiny: Tiny, tmp_path: Path, engines: list[FakeEngine]
) -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        staged(tiny, tiny.write(tmp_path / "a.engine"), tmp_path / "none.onnx")
    assert [engine.closed for engine in engines] == [True]


def test_an_onnx_file_without_a_card_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = onnx.load(tiny.onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ModelFileError, match=r"bare\.onnx has no model card"):
        staged(tiny, tmp_path / "bare.onnx")


def test_without_the_onnx_package_its_extra_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ssd_edge.parity.taps_onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package onnx; .*\[export\]"):
        staged(tiny, tiny.onnx)
    parity(tiny.onnx, [tiny.onnx], tiny.dataset, max_drop=MaxDrop.parse("1%"), progress=False)  # mAP needs none
