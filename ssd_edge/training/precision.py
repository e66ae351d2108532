"""Mixed precision: whether it helps, and with which type."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def choose_type(model: nn.Module, device: torch.device, wanted: bool | None) -> torch.dtype | None:
    """The type in which the network computes beside float32, or None for float32 alone.

    bfloat16 where the device has it; else, on a GPU, float16, whose gradients need scaling.

    Args:
        wanted: None chooses what is faster. A GPU's is; a CPU's is where it computes in bfloat16 and no convolution is
            depthwise. Measured on an AVX-512 BF16 processor: the backward pass of a strided or 5×5 depthwise
            convolution takes three to seven times as long in bfloat16 as in float32, more than the other layers gain.
    """
    on_gpu = device.type == "cuda"
    if wanted is None:
        depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in model.modules())
        wanted = on_gpu or (_cpu_has_bfloat16() and not depthwise)
    if not wanted:
        return None
    return torch.float16 if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False) else torch.bfloat16


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)  # x86 names, and ARM's
