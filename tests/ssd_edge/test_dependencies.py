"""The base install is enough for what it promises, and what is missing is named."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssd_edge.runtime
from ssd_edge.cli.main import COMMANDS

# What the extras bring; none of it comes with a base install.
OPTIONAL = (
    *("PIL", "matplotlib", "onnx", "onnxscript", "pycocotools", "safetensors"),
    *("torch", "torchvision", "yaml", "zxingcpp"),
    *("av", "paho", "prometheus_client", "scipy", "starlette", "supervision", "trackers", "uvicorn"),
)
# What brings it, if not its name.
DISTRIBUTIONS = {
    "PIL": {"torchvision", "matplotlib"},
    "paho": {"paho-mqtt"},
    "prometheus_client": {"prometheus-client"},
    "scipy": {"trackers"},
    "supervision": {"trackers"},
    "yaml": {"pyyaml"},
    "zxingcpp": {"zxing-cpp"},
}
BASE_MODULES = (
    "ssd_edge",
    "ssd_edge.bundled",
    "ssd_edge.card",
    "ssd_edge.cli.main",
    "ssd_edge.data.dataset",
    "ssd_edge.data.lint",
    "ssd_edge.data.readers",
    "ssd_edge.detections",
    "ssd_edge.errors",
    "ssd_edge.files",
    "ssd_edge.images",
    *(
        f"ssd_edge.runtime.{module.name}"
        for module in pkgutil.iter_modules(ssd_edge.runtime.__path__)
        if not module.name.startswith(("backend_torch", "mqtt", "video_recorder"))
    ),
)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def without(*packages: str) -> str:
    """Code after which importing any of `packages` fails as if it were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({packages!r})); "


def test_base_modules_import_without_the_extras() -> None:
    result = run_python(without(*OPTIONAL) + "; ".join(f"import {module}" for module in BASE_MODULES))
    assert result.returncode == 0, result.stderr


def test_base_modules_import_no_extra_where_it_is_installed() -> None:
    imports = "; ".join(f"import {module}" for module in BASE_MODULES)
    result = run_python(f"import sys; {imports}; print(*sorted({set(OPTIONAL)} & set(sys.modules)))")
    assert (result.returncode, result.stdout) == (0, "\n")


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from ssd_edge.cli.main import build_parser; build_parser().format_help(); "
        "print(*sorted({'numpy', 'cv2', 'torch', 'onnxruntime', 'tqdm'} & set(sys.modules)))"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_subcommand_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ssd_edge.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: ssd-edge {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("torch", ["export", "c.pt", "-o", "m.onnx"], "export"),
        ("onnx", ["export", "c.pt", "-o", "m.onnx"], "export"),
        ("torch", ["train", "codes", "-o", "run"], "train"),
        ("pycocotools", ["eval", "m.onnx", "data"], "demo"),
        ("matplotlib", ["eval", "m.onnx", "data", "--report", "r"], "report"),
        ("zxingcpp", ["codes", "-o", "scenes"], "demo"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(missing: str, command: list[str], extra: str) -> None:
    code = without(missing) + "from ssd_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    result = run_python(code, *command)
    assert result.returncode == 1
    assert (
        f"package {missing}, which is not installed; in the folder of ssd-edge: pip install '.[{extra}]'"
        in result.stderr
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("extra", "module"),
    [
        ("demo", "ssd_edge.demo"),
        ("report", "ssd_edge.evaluation.report"),
        ("train", "ssd_edge.training.run"),
        ("export", "ssd_edge.export.onnx_export"),
    ],
)
def test_an_extra_brings_all_that_its_command_imports(extra: str, module: str) -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    requirements = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"][extra]
    brought = {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}
    absent = [name for name in OPTIONAL if not DISTRIBUTIONS.get(name, {name}) & brought]
    result = run_python(without(*absent) + f"import {module}")
    assert result.returncode == 0, result.stderr.splitlines()[-1]


def test_the_package_offers_its_names_without_importing_them() -> None:
    code = (
        "import sys, ssd_edge; assert 'numpy' not in sys.modules; "
        "assert {'create_model', 'open_detector', 'read_dataset', 'Detections', 'ModelCard'} <= set(dir(ssd_edge)); "
        "from ssd_edge import Detections, ModelCard, open_detector, read_dataset; "
        "assert 'torch' not in sys.modules; print(len(Detections.empty()))"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def test_a_name_the_package_does_not_have_is_an_attribute_error() -> None:
    import ssd_edge

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssd_edge.nothing


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a link's file exists, and has the heading that the link names."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not anchor or not target.exists():
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_link_to_a_missing_heading_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# One, two\n")
    found = [leads_somewhere(tmp_path / "page.md", link) for link in ("page.md#one-two", "#one-two", "#three", "no.md")]
    assert found == [True, True, False, False]


def test_the_links_and_figures_of_pages_are_there() -> None:
    root = Path(__file__).resolve().parents[2]
    for readme in (*root.glob("*.md"), *(root / "docs").glob("*.md"), root / "benchmarks" / "README.md"):
        text = readme.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        missing = [link for link in links if not leads_somewhere(readme, link)]
        assert not missing, f"{readme.name}: {missing}"
        assert not re.search(r"@[A-Z_0-9]+@", text), f"{readme.name} has a figure that is not filled in"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where it keeps its file is known on Linux only")
def test_onnx_runtime_tells_its_makers_nothing(tmp_path: Path) -> None:
    """With telemetry it keeps a database and an identifier in the home folder, of which nothing may be left."""
    code = "import ssd_edge, ssd_edge.bundled as b; ssd_edge.open_detector(b.bundled_model()).close()"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}  # CI=… would switch it off too
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
