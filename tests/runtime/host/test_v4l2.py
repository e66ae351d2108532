"""What a camera says that it can do."""

from ssd_edge.runtime.host import v4l2
from ssd_edge.runtime.host.v4l2 import Camera, Mode, read_camera
from tests.fakes.webcam import FakeWebcam, Formats

WEBCAM: Formats = {
    b"MJPG": {(1920, 1080): [(1, 30), (1, 15)], (640, 480): [(1001, 30000)]},
    b"YUYV": {(640, 480): [(1, 30)]},
}


def test_modes_of_a_webcam() -> None:
    assert read_camera(3, FakeWebcam(WEBCAM)) == Camera(
        "HD Webcam",
        "uvcvideo",
        (
            Mode("MJPG", 1920, 1080, (15.0, 30.0)),
            Mode("MJPG", 640, 480, (29.97,)),
            Mode("YUYV", 640, 480, (30.0,)),
        ),
    )


def test_sizes_and_rates_in_a_range() -> None:
    driver = FakeWebcam({b"NV12": {(32, 1920, 2, 16, 1080, 2): [(1, 60, 1, 5, 1, 1)]}})
    camera = read_camera(3, driver)
    assert camera is not None
    assert camera.modes == (Mode("NV12", 1920, 1080, (5.0, 60.0), (32, 16)),)


def test_a_node_of_metadata_is_no_camera() -> None:
    assert read_camera(3, FakeWebcam(WEBCAM, capture=0x00800000)) is None


def test_a_driver_that_never_says_no_more() -> None:
    def ioctl(_: int, request: int, buffer: bytearray) -> None:
        if request == v4l2.QUERYCAP:
            FakeWebcam({}).capabilities(buffer)

    camera = read_camera(3, ioctl)
    assert camera is not None
    assert len(camera.modes) == 2  # one of each kind of buffers
