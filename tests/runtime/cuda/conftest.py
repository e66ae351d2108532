"""The kernels on the host, with the threads of a block in several orders, so that what depends on one is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.host_cuda import ORDERS, HostCuda


@pytest.fixture(params=ORDERS, ids=["forward", "reverse", "shuffled"])
def cuda(request: pytest.FixtureRequest) -> Iterator[HostCuda]:
    with HostCuda(order=request.param) as cuda:
        yield cuda
        assert cuda.allocated == 0
