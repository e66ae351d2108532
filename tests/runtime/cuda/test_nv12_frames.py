"""Frames of video decoders: NV12 in one array or two, and PyAV's."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssd_edge.images import ImageError
from ssd_edge.runtime.colours import BT601, BT709
from ssd_edge.runtime.cuda.device_frames import Chroma, Nv12Frame, is_device_frame
from ssd_edge.runtime.cuda.preprocess import Plane
from tests.fakes.device_arrays import CUDA, ByDlpack, ByInterface, FakeStream, NoStream, take


@pytest.mark.parametrize(
    ("attributes", "found"),
    [({"sw_format": SimpleNamespace(name="yuv444p")}, "yuv444p"), ({}, "3 planes")],  # PyAV 17.1 names no format
)
def test_hardware_frames_of_other_formats_say_what_they_are(attributes: dict[str, Any], found: str) -> None:
    planes = tuple(NoStream(np.zeros((4, 6), np.uint8)) for _ in range(3))
    frame = SimpleNamespace(format=SimpleNamespace(name="cuda"), planes=planes, **attributes)
    assert is_device_frame(frame)
    with pytest.raises(ImageError, match=f"a frame of PyAV in {found} on the GPU; expected nv12"):
        take(frame)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize("luma_shape", [(4, 6), (4, 6, 1)])  # the latter in PyNvVideoCodec
@pytest.mark.parametrize("chroma_shape", [(2, 3, 2), (2, 6)])
def test_nv12_in_two_arrays(offer: Any, luma_shape: tuple[int, ...], chroma_shape: tuple[int, ...]) -> None:
    luma = np.lib.stride_tricks.as_strided(np.zeros((4, 11), np.uint8), luma_shape, (11, 1, 1)[: len(luma_shape)])
    chroma = np.zeros((2, 7 * 2), np.uint8)[:, :6].reshape(chroma_shape)
    chroma = np.lib.stride_tricks.as_strided(chroma, strides=(14, *chroma.strides[1:]))
    given = Nv12Frame(offer(luma), offer(chroma), BT709)
    assert is_device_frame(given)
    frame = take(given)
    assert (frame.address, frame.pitch, frame.height, frame.width) == (luma.ctypes.data, 11, 4, 6)
    assert frame.chroma == Chroma(Plane(chroma.ctypes.data, 14, 2, 3), BT709)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(("margin", "pitch"), [(0, 8), (3, 11)])
def test_nv12_in_one_array(offer: Any, margin: int, pitch: int) -> None:
    planes = np.zeros((9, 8 + margin), np.uint8)[:, :8]
    frame = take(Nv12Frame(offer(planes)))
    assert (frame.address, frame.pitch, frame.height, frame.width) == (planes.ctypes.data, pitch, 6, 8)
    assert frame.chroma == Chroma(Plane(planes[6:].ctypes.data, pitch, 3, 4), BT601)


@pytest.mark.parametrize("offer", [ByInterface, ByDlpack])
@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [
        (np.zeros((4, 6, 3), np.uint8), None, r"the luma .* shape \[4, 6, 3\]; expected uint8 \[height, width\]"),
        (np.zeros((4, 6), np.float32), np.zeros((2, 6), np.uint8), "the luma of an NV12 frame on the GPU of type"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.float32), "the chroma of an NV12 frame on the GPU of type"),
        (np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8), r"expected uint8 \[2, 3, 2\] or \[2, 6\] with"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8), r"shape \[2, 3\]; expected"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 2, 3), np.uint8), r"shape \[2, 2, 3\]; expected"),
        (np.zeros((0, 6), np.uint8), None, "at least one pixel"),
        (np.zeros((4, 6), np.uint8), None, r"one array of shape \[4, 6\]; expected \[height · 3/2, width\]"),
        (np.zeros((6, 5), np.uint8), None, "5×4; its sides have to be even"),
        (np.zeros((5, 6), np.uint8), np.zeros((2, 6), np.uint8), "6×5; its sides have to be even"),
        (np.zeros((4, 12), np.uint8)[:, ::2], np.zeros((2, 6), np.uint8), r"luma .* strides of \[12, 2\] bytes"),
        (np.zeros((4, 6), np.uint8)[::-1], np.zeros((2, 6), np.uint8), r"luma .* strides of \[-6, 1\] bytes"),
        (np.zeros((4, 6), np.uint8), np.zeros((2, 2, 3), np.uint8).swapaxes(1, 2), r"chroma .* \[6, 1, 3\] bytes"),
    ],
)
def test_what_is_no_nv12_is_refused(offer: Any, luma: np.ndarray, chroma: np.ndarray | None, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        take(Nv12Frame(offer(luma), None if chroma is None else offer(chroma)))


def test_both_planes_are_of_this_gpu_and_waited_for() -> None:
    luma, chroma = np.zeros((4, 6), np.uint8), np.zeros((2, 6), np.uint8)
    with pytest.raises(ImageError, match="a frame on GPU 1, and the detector runs on GPU 0"):
        take(Nv12Frame(ByDlpack(luma), ByDlpack(chroma, (CUDA, 1))))
    for planes in ((luma, ByInterface(chroma)), (ByInterface(luma), chroma)):
        with pytest.raises(ImageError, match=r"a ndarray in the processor's memory.*COLOR_YUV2BGR_NV12"):
            take(Nv12Frame(*planes))
    on = FakeStream()
    take(Nv12Frame(ByInterface(luma, stream=1), ByInterface(chroma, stream=5)), stream=on)
    assert on.waited == [1, 5]


def test_both_planes_are_kept_as_long_as_the_frame() -> None:
    planes = ByInterface(np.zeros((4, 6), np.uint8)), ByInterface(np.zeros((2, 6), np.uint8))
    alive = [weakref.ref(plane) for plane in planes]
    frame = take(Nv12Frame(*planes))
    del planes
    gc.collect()
    assert all(each() is not None for each in alive)
    del frame
    gc.collect()
    assert all(each() is None for each in alive)
