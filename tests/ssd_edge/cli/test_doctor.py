"""`ssd-edge doctor`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_edge.cli.main import main
from ssd_edge.runtime.doctor import diagnosis
from ssd_edge.runtime.doctor.diagnosis import CHECKS, Diagnosis
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding
from tests.runtime.doctor.findings import findings

DOCS = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--json", "FILE"]])
def test_the_commands_outputs_and_exit_status(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doctor.json"
    result = Diagnosis(findings(model=Finding(PROBLEM, "crashed")))
    monkeypatch.setattr(diagnosis, "diagnose", lambda: result)
    assert main(["doctor", *(str(file) if word == "FILE" else word for word in arguments)]) == 1
    said = capsys.readouterr()
    assert said.out == (result.to_json() if arguments == ["--json"] else result.table()) + "\n"
    assert said.err.startswith("ssd-edge: error: nothing can be streamed on this machine: bundled model: crashed")
    assert file.exists() == ("FILE" in arguments)


def test_the_command_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "s3cret-of-the-environment"
    monkeypatch.setenv("CAMERA_PASSWORD", secret)
    command = [
        sys.executable,
        "-c",
        "import sys; from ssd_edge.cli.main import main; sys.exit(main(['doctor', '--json']))",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert secret not in result.stdout
    report = json.loads(result.stdout)
    assert set(report) == {"format", "ssd_edge", "runs_on", "checks"}
    assert report["format"] == 1
    assert report["runs_on"] in ("cpu", "gpu")
    assert list(report["checks"]) == list(CHECKS)
    assert report["checks"]["model"]["facts"]["found"] == ["qr_code"]
    documented = documented_facts()
    assert set(documented) == set(CHECKS)
    for key, finding in report["checks"].items():
        assert set(finding) == {"status", "summary", "facts", "gives", "fix"}
        assert finding["status"] in (OK, NONE, MISSING, PROBLEM)
        assert set(finding["facts"]) in (set(), documented[key]), key


def documented_facts() -> dict[str, set[str]]:
    """The keys of `facts` of each check, as docs/doctor.md has them."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: set(re.findall(r"`(\w+)`", facts)) for key, facts in rows}
