"""PyTorch's device: the default, and the one that a user names. Needs torch."""

from __future__ import annotations

import torch

from ssd_edge.errors import UsageError


def default_device() -> str:
    """`cuda` where PyTorch finds a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_device(name: str, *, purpose: str = "run") -> torch.device:
    """The device of that name: `cpu`, `cuda`, `cuda:1` and so on.

    Args:
        purpose: what the CPU would do instead, for the error.

    Raises:
        UsageError: it is not there, or the name is something else.
    """
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda or cuda:1 and so on")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(
                f"--device {chosen}: PyTorch finds no CUDA device here; leave it out to {purpose} on the CPU"
            )
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {chosen}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return chosen
