"""Whatever is written, no password of an address is in it, however odd the password is."""

import io
import logging

import pytest

from ssd_edge.runtime.redact import CleanFilter, clean_text, clean_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://10.0.0.1:554/a", "rtsp://10.0.0.1:554/a"),
        ("rtsp://user:pass@10.0.0.1/a", "rtsp://***@10.0.0.1/a"),
        ("RTSPS://user.name:pa%40ss@[::1]:554/a", "RTSPS://***@[::1]:554/a"),
        ("rtsp://token@host/a", "rtsp://***@host/a"),
        ("rtsp://user:p@ss:w/ord@host", "rtsp://***@host"),
        ("rtsp://user:p@ss/w#rd@host/a", "rtsp://***@host/a"),
        ("rtsp://user:12/34@host/a", "rtsp://***@host/a"),
        ("rtsp://user:p ss\n@host/a", "rtsp://***@host/a"),
        ("rtsp://user:p?ss@host/a", "rtsp://***"),
        ("user.name:pa%40ss@host", "***@host"),
        ("user:p@ss:w/ord@host", "***@host"),
        ("http://host/cgi?user=me&password=xy", "http://host/cgi?…"),
        ("http://host/cgi?user=me&password=x@y", "http://***"),
        ("http://host/a#access_token=xy", "http://host/a#…"),
        ("rtsp://u:p@host/cam/realmonitor?channel=1&subtype=0", "rtsp://***@host/cam/realmonitor?channel=1&subtype=0"),
        ("rtsp://host/a?token=xy&channel=2&sig=z", "rtsp://host/a?channel=2&…"),
        ("rtsp://host/user=me&password=xy&channel=1.sdp?", "rtsp://host/user=me&password=***&channel=1.sdp?"),
        ("rtsp://host/user=me_password=xy_channel=1.sdp", "rtsp://host/user=me_password=***"),
        ("/data/12:30@gate.mp4", "/data/12:30@gate.mp4"),
        ("videos/photo@2x?.jpg", "videos/photo@2x?.jpg"),
        ("0", "0"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert clean_url(url) == shown
    assert clean_url(shown) == shown
    if "\n" not in url:
        assert clean_text(f"cannot open {url} now") == f"cannot open {shown} now"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'rtsp://u:s3cret@a/x' and rtsp://v:s3cret@b", "'rtsp://***@a/x' and rtsp://***@b"),
        ("rtsp://u:s3 cret@a/x failed", "rtsp://***@a/x failed"),
        ("http://10.0.0.1:80: mail me@home", "http://10.0.0.1:80: mail me@home"),
        ("login 'user:s3cret@host' failed", "login '***@host' failed"),
        ("rtspsrc user-pw=s3cret ! fakesink", "rtspsrc user-pw=*** ! fakesink"),
        ('{"password": "s3 \\"cret", "b": 1}', '{"password": ***, "b": 1}'),
        ("Broker(password='s3 cret', port=1)", "Broker(password=***, port=1)"),
        ("authorization: Basic s3cret==\nHost: a", "authorization: ***\nHost: a"),
        ("the password: check it at 12:30", "the password: check it at 12:30"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert clean_text(text) == shown


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(written: io.StringIO) -> logging.Logger:
    logger = logging.Logger("any")
    handler = logging.StreamHandler(written)
    handler.addFilter(CleanFilter())
    logger.addHandler(handler)
    return logger


def test_messages_tracebacks_and_stacks(logger: logging.Logger, written: io.StringIO) -> None:
    url = "rtsp://user:s3cret@host/a"
    try:
        try:
            raise ValueError(f"no answer from {url}")
        except ValueError as error:
            raise OSError("cannot open user:s3cret@host") from error
    except OSError:
        logger.exception("source %s: %d frames", url, 3)
    logger.warning("rtsp://user:s3cret@host", stack_info=True)
    text = written.getvalue()
    assert "source rtsp://***@host/a: 3 frames" in text
    assert "ValueError: no answer from rtsp://***@host/a" in text
    assert "OSError: cannot open ***@host" in text
    assert text.count("Traceback") == 2
    assert "Stack (most recent call last)" in text
    assert "s3cret" not in text.replace('"rtsp://user:s3cret@host"', "")


def test_arguments_that_do_not_fit(
    logger: logging.Logger, written: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning("%d frames of %s", "rtsp://user:s3cret@host/a")
    assert written.getvalue() == "%d frames of %s ('rtsp://***@host/a',)\n"
    assert capsys.readouterr().err == ""
