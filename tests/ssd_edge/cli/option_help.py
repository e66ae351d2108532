"""What `--help` says of one option."""

import re

import pytest

from ssd_edge.cli.main import main


def option_help(command: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `ssd-edge COMMAND --help` says of `option`, on one or two lines."""
    monkeypatch.setenv("COLUMNS", "1000")  # no text is wrapped; a long name still has its text on the next line
    with pytest.raises(SystemExit):
        main([command, "--help"])
    found = re.search(rf"^  {option} .*(\n {{8}}.*)?$", capsys.readouterr().out, re.MULTILINE)
    assert found, option
    return found[0]
