"""Failed CUDA calls as errors that name the fix."""

from __future__ import annotations

from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.host.fixes import ANY_DOCKER_RUN

# Statuses after which a context is lost ("the process must be terminated and relaunched"), as the driver names them and
# as it words them: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html.
FATAL = {
    "CUDA_ERROR_DEINITIALIZED": "driver shutting down",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "uncorrectable ECC error encountered",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE": "uncorrectable NVLink error detected during the execution",
    "CUDA_ERROR_CONTAINED": "Invalid access of peer GPU memory over nvlink or a hardware error",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "the launch timed out and was terminated",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED": "context is destroyed",
    "CUDA_ERROR_ASSERT": "device-side assert triggered",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "hardware stack error",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "an illegal instruction was encountered",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "misaligned address",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE": "operation not supported on global/shared address space",
    "CUDA_ERROR_INVALID_PC": "invalid program counter",
    "CUDA_ERROR_LAUNCH_FAILED": "unspecified launch failure",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK": "tensor memory not completely freed",
    "CUDA_ERROR_MPS_CLIENT_TERMINATED": "the MPS client has been terminated by the server",
    "CUDA_ERROR_EXTERNAL_DEVICE": "an async error has occured in external entity outside of CUDA",
    "CUDA_ERROR_UNKNOWN": "unknown error",
}
# Statuses by which a driver refuses compiled kernels.
REFUSED_KERNELS = {
    "CUDA_ERROR_INVALID_IMAGE": "device kernel image is invalid",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "no kernel image is available for execution on the device",
    "CUDA_ERROR_INVALID_PTX": "a PTX JIT compilation failed",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the provided PTX was compiled with an unsupported toolchain.",
    "CUDA_ERROR_INVALID_SOURCE": "device kernel image is invalid",
}
# What to do about those that have to do with the machine.
REMEDIES = {
    **dict.fromkeys(
        REFUSED_KERNELS.items(),
        "the driver refuses the kernels that NVRTC compiled, as it does when NVRTC is of a newer CUDA than the driver: "
        "install the NVRTC of the driver's CUDA, for CUDA 12.6 (JetPack 6): pip install "
        "'nvidia-cuda-nvrtc-cu12==12.6.*', or update the driver; ssd-edge doctor shows both versions",
    ),
    ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"): (
        f"there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES or a container hides it ({ANY_DOCKER_RUN})"
    ),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"): (
        "the driver's library and its kernel module are of two versions, as after an update: restart the machine"
    ),
    ("CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"): (
        "libcuda.so is the toolkit's stub: take the toolkit's folder stubs out of LD_LIBRARY_PATH"
    ),
    ("CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"): (
        "another process has the GPU for itself alone; nvidia-smi names it"
    ),
}


class CudaError(SsdEdgeError):
    """A CUDA call failed. After one that is `fatal` the process can use the GPU no more."""

    fatal = False


class CudaMemoryError(CudaError):
    """There is not enough memory on the GPU, or of pinned memory."""


class CudaFatalError(CudaError):
    """The GPU's context is lost, as by an illegal address or a GPU that went away: only a new process can go on."""

    fatal = True


def cuda_failure(call: str, problem: str) -> CudaError:
    """The error for a call that failed.

    Args:
        problem: the name of the status in the driver (`CUDA_ERROR_…`), or the driver's words for it.
    """
    text = f"{call} failed: {problem}"
    if "CUDA_ERROR_OUT_OF_MEMORY" in problem or "out of memory" in problem:
        return CudaMemoryError(
            f"{text}; there is not enough memory: close what else uses the GPU, or take a smaller batch"
        )
    if any(name in problem or words in problem for name, words in FATAL.items()):
        return CudaFatalError(
            f"{text}; the GPU can be used no more by this process: start it again, and if that does not help, see "
            "nvidia-smi and dmesg for what is wrong with the GPU"
        )
    for (name, words), remedy in REMEDIES.items():
        if name in problem or words in problem:
            return CudaError(f"{text}; {remedy}")
    return CudaError(f"{text}; nvidia-smi shows the GPU's state")
