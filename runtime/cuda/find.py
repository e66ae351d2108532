"""Find and open a GPU, with whichever package for CUDA is installed."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from ssd_edge.errors import MissingDependencyError, UsageError
from ssd_edge.packages import is_installed
from ssd_edge.runtime.cuda.base import Cuda, Gpu
from ssd_edge.runtime.cuda.errors import CudaError

logger = logging.getLogger(__name__)

CUDA_VARIABLE = "SSD_EDGE_CUDA"
IMPLEMENTATIONS = {"core": "cuda.core", "pycuda": "pycuda"}  # and the package of each


def open_cuda(device: int = 0) -> Cuda:
    """Open a GPU by its number: with cuda-python where it is installed, else with PyCUDA.

    The environment variable `SSD_EDGE_CUDA`, `core` or `pycuda`, chooses.

    Raises:
        MissingDependencyError: neither is installed, or not the chosen one.
        CudaError: no driver, one too old, or no such GPU.
        UsageError: `SSD_EDGE_CUDA` is something else.
    """
    cuda: Cuda = _implementation().open_cuda(device)
    return cuda


def read_gpu(device: int = 0) -> Gpu:
    """A GPU by its number. Makes no context on it.

    Raises:
        As `open_cuda`.
    """
    gpu: Gpu = _implementation().read_gpu(device)
    return gpu


def find_gpu(device: int = 0) -> Gpu | None:
    """As `read_gpu`; None without a package for CUDA, a driver that fits it, or a GPU."""
    try:
        return read_gpu(device)
    except (CudaError, MissingDependencyError) as error:
        logger.debug("no GPU: %s", error)
        return None


def _implementation() -> Any:
    """The module that implements the interface here."""
    chosen = os.environ.get(CUDA_VARIABLE) or next((n for n, p in IMPLEMENTATIONS.items() if is_installed(p)), "core")
    if chosen not in IMPLEMENTATIONS:
        raise UsageError(f"{CUDA_VARIABLE}={chosen}: expected {' or '.join(IMPLEMENTATIONS)}, or nothing")
    return importlib.import_module(f"ssd_edge.runtime.cuda.{chosen}")
