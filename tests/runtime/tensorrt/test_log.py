"""TensorRT's log: what is kept, and what an error quotes."""

from __future__ import annotations

from ssd_edge.runtime.tensorrt.log import MessageLog
from tests.fakes.tensorrt import Severity, fake_tensorrt
from tests.fakes.tensorrt_script import Script


def test_a_log_keeps_what_matters() -> None:
    script = Script()
    log = MessageLog(fake_tensorrt(script))
    for severity in Severity:
        log.logger.log(severity, f"a {severity.name}\nof two lines")
    log.logger.log(Severity.ERROR, "again. In f at /_src/x.cpp:12)")
    log.logger.log(Severity.ERROR, "again. In f at /_src/x.cpp:13)")
    assert [message.severity for message in log.messages[:4]] == ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"]
    assert len(log.messages) == 6
    assert log.quote() == "a INTERNAL_ERROR of two lines; a ERROR of two lines; again.)"


def test_a_log_that_was_cleared_quotes_what_came_since() -> None:
    log = MessageLog(fake_tensorrt(Script()))
    log.logger.log(Severity.ERROR, "earlier")
    log.clear()
    assert log.quote() == "it gives no reason"
    log.logger.log(Severity.ERROR, "later")
    assert log.quote() == "later"
