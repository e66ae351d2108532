"""What a command complained of."""

import pytest


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message on standard error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("ssd-edge: ")]
    return line
