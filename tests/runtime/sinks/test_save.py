"""The name of an output says which sink writes it."""

from pathlib import Path

import pytest

from ssd_edge.errors import SinkError
from ssd_edge.runtime.sinks.save import save_sink
from tests.fakes.any_source import AnySource


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"\.webm is no known kind"):
        save_sink(tmp_path / "a.webm", AnySource())
