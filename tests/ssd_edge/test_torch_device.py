"""The device that PyTorch takes by default, and the one that a user names."""

import pytest

torch = pytest.importorskip("torch")

from ssd_edge.errors import UsageError  # noqa: E402
from ssd_edge.torch_device import default_device, torch_device  # noqa: E402


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """So many GPUs that PyTorch finds."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


@pytest.mark.parametrize(("gpus", "expected"), [(0, "cpu"), (1, "cuda"), (2, "cuda")], indirect=["gpus"])
def test_the_default_is_the_gpu_where_there_is_one(gpus: int, expected: str) -> None:
    assert default_device() == expected
    assert str(torch_device(default_device())) == expected


@pytest.mark.parametrize("gpus", [2], indirect=True)
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_devices_that_are_there(gpus: int, name: str) -> None:
    assert str(torch_device(name)) == name


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", "--device cuda: PyTorch finds no CUDA device here; leave it out to run on the CPU"),
        (2, "cuda:2", "--device cuda:2: there are 2 GPUs, numbered from 0"),
        (2, "gpu", "--device gpu: expected cpu, cuda or cuda:1 and so on"),
        (2, "meta", "--device meta: expected cpu, cuda or cuda:1 and so on"),
        (2, "", "--device : expected cpu, cuda or cuda:1 and so on"),
    ],
    indirect=["gpus"],
)
def test_devices_that_are_not(gpus: int, name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        torch_device(name)
    assert str(error.value) == message


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_the_message_says_what_the_cpu_would_do(gpus: int) -> None:
    with pytest.raises(UsageError, match="leave it out to train on the CPU"):
        torch_device("cuda", purpose="train")
