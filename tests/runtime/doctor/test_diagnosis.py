"""The table, the JSON and the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_edge.cli import main as cli
from ssd_edge.errors import SsdEdgeError
from ssd_edge.runtime.doctor import diagnosis
from ssd_edge.runtime.doctor.diagnosis import CHECKS, Diagnosis
from ssd_edge.runtime.doctor.finding import MISSING, NONE, OK, PROBLEM, Finding

DOCS = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"


def findings(**changes: Finding) -> dict[str, Finding]:
    return {key: changes.get(key, Finding(OK, "fine")) for key in CHECKS}


def test_the_table() -> None:
    missing = Finding(MISSING, "not installed", {}, "training", "pip install it")
    wrong = Finding(PROBLEM, "no permission", {}, None, "usermod")
    lines = (
        Diagnosis(findings(torch=missing, cameras=wrong, gpu_use=Finding(NONE, "no NVIDIA GPU"))).table().splitlines()
    )
    assert lines[0] == "ok       Python         fine"
    assert "PROBLEM  cameras        no permission" in lines
    assert "-        models on GPU  no NVIDIA GPU" in lines
    assert lines[len(CHECKS) :] == [
        *("", "Streams run on this machine, on the processor."),
        *("", "To fix:", "  cameras", "      usermod"),
        *("", "To add, if wanted:", "  PyTorch, for training", "      pip install it"),
    ]


def test_what_streams_run_on() -> None:
    unused = Finding(PROBLEM, "cuda-core is not installed here", fix="install it")
    assert Diagnosis(findings()).runs_on == "gpu"
    assert "Streams run on this machine, on the GPU." in Diagnosis(findings()).table()
    assert Diagnosis(findings(gpu_use=Finding(NONE, "no NVIDIA GPU"))).runs_on == "cpu"
    assert Diagnosis(findings(gpu_use=unused)).runs_on == "cpu"
    assert (
        ", on the processor, not on the GPU: cuda-core is not installed here."
        in Diagnosis(findings(gpu_use=unused)).table()
    )


@pytest.mark.parametrize("key", ["model", "opencv"])
def test_without_the_base_nothing_streams(key: str) -> None:
    broken = Diagnosis(findings(**{key: Finding(PROBLEM, "it crashed")}))
    assert broken.runs_on is None
    assert "Nothing can be streamed" in broken.table()
    with pytest.raises(SsdEdgeError, match="it crashed"):
        broken.check()
    Diagnosis(findings()).check()


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--json", "FILE"]])
def test_the_commands_outputs_and_exit_status(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doctor.json"
    result = Diagnosis(findings(model=Finding(PROBLEM, "crashed")))
    monkeypatch.setattr(diagnosis, "diagnose", lambda: result)
    assert cli.main(["doctor", *(str(file) if word == "FILE" else word for word in arguments)]) == 1
    said = capsys.readouterr()
    assert said.out == (result.to_json() if arguments == ["--json"] else result.table()) + "\n"
    assert said.err.startswith("ssd-edge: error: nothing can be streamed on this machine: bundled model: crashed")
    assert file.exists() == ("FILE" in arguments)


def test_the_doctor_itself_imports_nothing_that_may_not_load() -> None:
    code = (
        "import sys, ssd_edge.runtime.doctor.diagnosis; "
        "print(*{'numpy', 'cv2', 'onnxruntime', 'torch', 'cuda', 'tensorrt', 'tqdm'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (0, "\n")


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
