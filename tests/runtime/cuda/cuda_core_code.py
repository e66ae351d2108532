"""Code that calls all of cuda.core and of the driver's bindings that runtime/cuda/core.py calls, and what it prints."""

PREFACE = """
import threading
import numpy as np
from ssd_edge.runtime.cuda import core as cuda_core
from ssd_edge.runtime.cuda.errors import CudaError
from ssd_edge.runtime.cuda.find import find_gpu, open_cuda
cuda_core.compile_kernels = lambda source, compute_capability: b"\\x7fELF"  # NVRTC asks a driver for more
"""

# Looks up every member of cuda.core and of the bindings that the module names, which it reads from its code.
NAMES = """
import ast
import inspect
import operator
import re
from ssd_edge.runtime.cuda import core as cuda_core
nodes = ast.walk(ast.parse(inspect.getsource(cuda_core)))
attributes = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
names = {found[1] for text in attributes if (found := re.fullmatch(r"(?:\\w+[.])*?((?:core|driver)[.][\\w.]+)", text))}
assert {"core.EventOptions", "driver.cuMemAlloc", "driver.CUmemorytype.CU_MEMORYTYPE_UNIFIED"} <= names, names
for name in names:
    operator.attrgetter(name)(cuda_core.load_api())
"""

MEMORY = """
with open_cuda() as gpu, gpu.stream() as stream, gpu.memory(12) as memory, gpu.host_memory(8, mapped=True) as pinned:
    content = np.arange(12, dtype=np.uint8)
    stream.copy(memory.address, content.ctypes.data, 12)
    stream.fill(memory.address + 7, 99, 1)
    stream.copy_rows(pinned.address, 4, memory.address, 6, 3, 2)
    stream.synchronize()
    gpu.synchronize()
    print(pinned.array.tolist(), gpu.free_memory(), gpu.device_of(memory.address), stream.handle)
"""
MEMORY_PRINTS = ["[0, 1, 2, 0, 6, 99, 8, 0] (3, 4) 0 8192"]

KERNELS = """
with open_cuda() as gpu, gpu.stream() as stream, gpu.event(timing=True) as start, gpu.event() as end:
    kernel = gpu.module("", ["k"])["k"]
    gpu.core.ObjectCode.from_ptx(b".version 8.0")
    for shared_bytes in (0, 60000):
        arguments = [np.uint64(1 << 40), np.int32(-7), np.float32(2.5)]
        stream.launch(kernel, (1, 2, 3), (4, 5, 6), arguments, shared_bytes=shared_bytes)
    stream.record(start)
    stream.wait(start)
    end.synchronize()
    print(end.elapsed_ms(start))
    stream.wait_stream(1)
    stream.begin_capture()
    with stream.end_capture() as graph:
        graph.launch(stream)
"""
KERNELS_PRINTS = ["1.5"]
