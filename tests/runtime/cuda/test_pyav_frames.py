"""The real PyAV's frames on the GPU, in the real cuda.core, on a driver without a GPU."""

from collections.abc import Callable

import pytest

from tests.fakes.cuda_driver import driver_of_pyav

Run = Callable[[str], tuple[list[str], list[str]]]
# A frame as a decoder makes it: uint8 [8, 16] luma in rows of 20 bytes, and [4, 8, 2] chroma. NumPy's capsules own the
# memory and say that it is a GPU's.
PREFACE = """
import numpy as np
import av
from av.video.frame import VideoFrame
from ssd_edge.images import ImageError
from ssd_edge.runtime.cuda.find import open_cuda
from ssd_edge.runtime.cuda.dlpack import DLPACK_CUDA, tensor_of
from ssd_edge.runtime.cuda.device_frames import Nv12Frame, device_frame, is_device_frame
from ssd_edge.runtime.colours import BT601, BT601_FULL, BT709, BT709_FULL

def on_gpu(array):
    capsule = array.__dlpack__()
    tensor_of(capsule).device_type = DLPACK_CUDA
    return capsule

def frame_of(luma, chroma, format="nv12", **options):
    return VideoFrame.from_dlpack([on_gpu(luma), on_gpu(chroma)], format=format, **options)

luma, chroma = np.zeros((8, 20), np.uint8)[:, :16], np.zeros((4, 8, 2), np.uint8)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run code; the lines that it prints, and those on standard error: calls of the driver."""
    pytest.importorskip("cuda.core")
    driver = driver_of_pyav(tmp_path_factory.mktemp("driver"), decodes=False)

    def run_code(code: str) -> tuple[list[str], list[str]]:
        result = driver.run(PREFACE + code, SSD_EDGE_CUDA="core")
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines(), [line.rstrip() for line in result.stderr.splitlines()]

    return run_code


def test_a_frame_and_its_planes_are_taken_as_they_lie(run: Run) -> None:
    """Both planes refuse a stream, so the context is waited for before either gives its memory."""
    code = """
frame = frame_of(luma, chroma)
try:
    frame.planes[0].__dlpack__(stream=2)
except NotImplementedError as error:
    print(error)
with open_cuda() as gpu, gpu.stream() as stream:
    for given in (frame, Nv12Frame(*frame.planes)):
        taken = device_frame(given, gpu, stream)
        print(is_device_frame(given), taken.height, taken.width, taken.pitch, taken.chroma.plane.pitch)
        print(taken.address == luma.ctypes.data, taken.chroma.plane.address == chroma.ctypes.data)
"""
    printed, calls = run(code)
    assert printed[0].startswith("CUDA stream synchronization is not supported")
    assert printed[1:] == ["True 8 16 20 16", "True True"] * 2
    assert calls.count("cuCtxSynchronize") == 4


def test_colours_are_those_that_the_video_names(run: Run) -> None:
    code = """
names = {id(each): name for name, each in list(globals().items()) if name.startswith("BT")}
frame = frame_of(luma, chroma)
with open_cuda() as gpu, gpu.stream() as stream:
    for space, of_range in ((1, 1), (1, 2), (1, 0), (2, 0), (5, 1), (6, 2)):
        frame.colorspace, frame.color_range = space, of_range
        print(names[id(device_frame(frame, gpu, stream).chroma.colours)])
"""
    assert run(code)[0] == ["BT709", "BT709_FULL", "BT709", "BT601", "BT601", "BT601_FULL"]


def test_frames_that_are_no_nv12_say_what_they_are(run: Run) -> None:
    code = """
frame = frame_of(luma.astype(np.uint16), chroma.astype(np.uint16), "p010le")
on_cpu = VideoFrame(16, 8, "nv12")
with open_cuda() as gpu, gpu.stream() as stream:
    for given in (frame, Nv12Frame(*frame.planes), Nv12Frame(*on_cpu.planes)):
        try:
            device_frame(given, gpu, stream)
        except ImageError as error:
            print(error)
print(is_device_frame(on_cpu), is_device_frame(on_cpu.planes[0]))
"""
    printed, _ = run(code)
    unfit = "the luma of an NV12 frame on the GPU of type (1, 16, 1) (DLPack)"
    assert printed[0].startswith(("a frame of PyAV in p010le on the GPU; expected nv12", unfit))
    assert printed[1].startswith(unfit)
    assert printed[2].startswith("the luma of an NV12 frame is a VideoPlane in the processor's memory")
    assert printed[3] == "False False"


def test_the_video_is_opened_before_the_detector(run: Run) -> None:
    """As docs/gpu.md says: FFmpeg refuses a primary context with other flags than its own; or it takes the current."""
    open_video = """
from av.codec import Codec
from av.codec.hwaccel import HWAccel

def open_video(**options):
    HWAccel("cuda", is_hw_owned=True, options=options).create(Codec("h264", "r"))
"""
    first = """
open_video()
with open_cuda() as gpu:
    print("opened")
"""
    second = """
with open_cuda() as gpu, gpu.stream() as stream:
    try:
        open_video()
    except OSError:
        print("refused")
    open_video(primary_ctx="0", current_ctx="1")
    print("opened")
"""
    assert run(open_video + first)[0] == ["opened"]
    assert run(open_video + second)[0] == ["refused", "opened"]
