"""Machines, and the commands that install TensorRT on them."""

from __future__ import annotations

from ssd_edge.runtime.host.kind import Host

NO_GPU = Host()
DESKTOP = Host(nvidia=True, driver="580.65.06")
OLDER_DRIVER = Host(nvidia=True, driver="550.54.15")
JETSON = Host(nvidia=True, jetson=True, jetpack="6.2")
INSTALL = "in the folder of ssd-edge: pip install "
RTX, TENSORRT, FOR_CUDA_12 = (
    f"{INSTALL}{what}" for what in ("'.[rtx]'", "'.[tensorrt]'", "'.[cuda12]' 'tensorrt-cu12>=10.3'")
)
JETPACK = "sudo apt install nvidia-jetpack"
