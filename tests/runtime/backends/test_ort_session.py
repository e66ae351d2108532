"""How sessions of ONNX Runtime are opened: threads, waiting, what is left alone; all are opened in one place."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from ssd_edge.card import INT8_METADATA_KEY
from ssd_edge.runtime.backends import ort_session
from ssd_edge.runtime.backends.ort_session import open_session

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def opened_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The options and arguments that a session is made from; no model is opened."""

    def call(**arguments: Any) -> Any:
        made: list[Any] = []
        monkeypatch.setattr(ort, "InferenceSession", lambda source, options, providers: made.append(options))
        open_session(b"", **arguments)
        return made[0]

    return call


def entry(options: Any, name: str) -> str | None:
    try:
        return str(options.get_session_config_entry(f"session.{name}"))
    except RuntimeError:  # it was not set
        return None


def test_threads_sleep_and_are_as_many_as_may_run(
    opened_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_session, "compute_threads", lambda: 5)
    options = opened_with()
    assert options.intra_op_num_threads == 5
    assert (entry(options, "intra_op.allow_spinning"), entry(options, "inter_op.allow_spinning")) == ("0", "0")
    assert (options.log_severity_level, options.enable_cpu_mem_arena) == (3, True)
    assert opened_with(threads=3).intra_op_num_threads == 3


def test_on_request(opened_with: Callable[..., Any]) -> None:
    options = opened_with(spin=True, arena=False)
    assert (entry(options, "intra_op.allow_spinning"), entry(options, "inter_op.allow_spinning")) == ("1", "1")
    assert not options.enable_cpu_mem_arena


@pytest.mark.parametrize(("target", "disabled"), [("tensorrt", "1"), ("cpu", None), (None, None)])
def test_pairs_for_tensorrt_are_left_alone(
    opened_with: Callable[..., Any], target: str | None, disabled: str | None
) -> None:
    metadata = {INT8_METADATA_KEY: json.dumps({"target": target})} if target else {}
    assert entry(opened_with(metadata=metadata), "disable_quant_qdq") == disabled


def test_a_path_and_its_bytes_are_the_same_model(model_path: Path) -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    of_path, of_bytes = (
        open_session(source).run(None, {"images": images}) for source in (model_path, model_path.read_bytes())
    )
    assert all(map(np.array_equal, of_path, of_bytes))
    assert open_session(model_path).get_providers() == ["CPUExecutionProvider"]


def test_threads_rest_after_a_run(model_path: Path) -> None:
    """Spinning, they would burn up to 0.1 s of processor time here."""
    session = open_session(model_path, threads=4)
    session.run(None, {"images": np.zeros((1, 32, 32, 3), np.uint8)})
    begin = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - begin < 0.02


def test_all_sessions_are_opened_here() -> None:
    folders = ("ssd_edge", "runtime", "export", "calib")
    files = {path.resolve() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    opening = [path.name for path in files if "InferenceSession(" in path.read_text(encoding="utf-8")]
    assert opening == ["ort_session.py"]
