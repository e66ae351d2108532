"""Previews that are closed when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ssd_edge.runtime.sinks.web.server import WebPreview


@pytest.fixture
def preview() -> Iterator[WebPreview]:
    """A preview for programs on this machine."""
    from ssd_edge.runtime.sinks.web.server import WebPreview  # needs the extra `web`

    with WebPreview(port=0) as preview:
        yield preview


@pytest.fixture
def closed_preview() -> Iterator[WebPreview]:
    """One that asks for a token."""
    from ssd_edge.runtime.sinks.web.server import WebPreview  # needs the extra `web`
    from tests.runtime.sinks.web.previews import TOKEN

    with WebPreview(port=0, token=TOKEN) as preview:
        yield preview
