"""What a thread's work gives or raises arrives; Ctrl-C ends the work before it goes on."""

import signal
import threading
import time

import pytest

from ssd_edge.runtime.tensorrt.threads import in_thread


def test_the_result_arrives_from_another_thread() -> None:
    assert in_thread(threading.current_thread) is not threading.current_thread()
    assert in_thread(lambda: None) is None


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(3)])
def test_an_error_arrives_as_it_was_raised(error: BaseException) -> None:
    def fail() -> None:
        raise error

    def cancel() -> None:
        raise AssertionError("nothing was interrupted")

    with pytest.raises(type(error)) as raised:
        in_thread(fail, cancel)
    assert raised.value is error


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_cancels_the_work_and_waits_for_its_end(fails: bool) -> None:
    cancelled, ended = threading.Event(), threading.Event()

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        assert cancelled.wait(20)
        time.sleep(0.1)  # TensorRT ends when it comes to it
        ended.set()
        if fails:
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        in_thread(work, cancelled.set)
    assert ended.is_set()
