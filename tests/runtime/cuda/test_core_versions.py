"""The oldest cuda-core and cuda-bindings that pyproject.toml allows, and those before them, on a driver without a GPU.

What is installed, the newest when the environment was made, is tried by test_core.py.
"""

import re
import sys
from pathlib import Path

import pytest

from ssd_edge.runtime.cuda.core import OLDEST_BINDINGS, OLDEST_CORE
from tests.fakes.cuda_driver import FakeDriver, compile_driver
from tests.runtime.cuda.cached_wheels import cached_wheel
from tests.runtime.cuda.cuda_core_code import KERNELS, KERNELS_PRINTS, MEMORY, MEMORY_PRINTS, NAMES, PREFACE

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
JETPACK_6, JETPACK_7 = "12060", "13000"  # CUDA of their drivers
NEWEST_CORE, NEWEST_BINDINGS_12 = "1.2.2", "12.9.10"  # when this was written
VERSIONS = """
import cuda.bindings, cuda.core
print(cuda.core.__version__, cuda.bindings.__version__)
"""
LOAD = """
from ssd_edge.errors import MissingDependencyError
from ssd_edge.runtime.cuda.core import load_api
try:
    load_api()
except MissingDependencyError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    pytest.importorskip("cuda.pathfinder")
    return compile_driver(tmp_path_factory.mktemp("driver"))


def run_with(driver: FakeDriver, core: str, bindings: str, code: str, cuda: str = JETPACK_7) -> tuple[int, list[str]]:
    """Run code with these versions before those that are installed; exit status and the lines printed."""
    folders = [cached_wheel("cuda-core", version=core), cached_wheel("cuda-bindings", version=bindings)]
    paths = ":".join(map(str, [*folders, *sys.path]))
    result = driver.run(code, PYTHONPATH=paths, FAKE_CUDA_VERSION=cuda, SSD_EDGE_CUDA="core")
    return result.returncode, (result.stdout + (result.stderr if result.returncode > 0 else "")).splitlines()


@pytest.mark.parametrize(
    ("core", "bindings", "cuda"),
    [
        (OLDEST_CORE, OLDEST_BINDINGS[12], JETPACK_6),
        (OLDEST_CORE, OLDEST_BINDINGS[13], JETPACK_7),
        (NEWEST_CORE, NEWEST_BINDINGS_12, JETPACK_6),
    ],
)
def test_all_that_is_called_works(driver: FakeDriver, core: str, bindings: str, cuda: str) -> None:
    status, printed = run_with(driver, core, bindings, VERSIONS + NAMES + PREFACE + MEMORY + KERNELS, cuda)
    assert (status, printed) == (0, [f"{core} {bindings}", *MEMORY_PRINTS, *KERNELS_PRINTS])


@pytest.mark.parametrize(
    ("core", "bindings", "named", "needed"),
    [
        ("0.7.0", "13.0.3", "cuda-core 0.7.0", OLDEST_CORE),  # EventOptions takes other names
        ("1.0.0", "13.0.3", "cuda-core 1.0.0", OLDEST_CORE),  # does not import
        (OLDEST_CORE, "13.0.1", "cuda-bindings 13.0.1", OLDEST_BINDINGS[13]),  # crashes when the process ends
        (OLDEST_CORE, "12.9.2", "cuda-bindings 12.9.2", OLDEST_BINDINGS[12]),  # the same
    ],
)
def test_what_is_older_is_named_with_the_fix(
    driver: FakeDriver, core: str, bindings: str, named: str, needed: str
) -> None:
    status, printed = run_with(driver, core, bindings, LOAD)
    fix = r"; in the folder of ssd-edge: pip install '\.\[cuda1[23]\]'"
    assert status == 0
    assert re.fullmatch(re.escape(f"{named} is too old, running on a GPU needs {needed} or later") + fix, printed[0])


@pytest.mark.parametrize(
    ("core", "bindings", "lifted"),
    [
        ("0.7.0", "13.0.3", 'cuda_core.OLDEST_CORE = "0"'),
        ("1.0.0", "13.0.3", 'cuda_core.OLDEST_CORE = "0"'),
        (OLDEST_CORE, "13.0.1", 'cuda_core.OLDEST_BINDINGS = {12: "12", 13: "13"}'),
        (OLDEST_CORE, "12.9.2", 'cuda_core.OLDEST_BINDINGS = {12: "12", 13: "13"}'),
    ],
)
def test_what_is_older_does_not_work(driver: FakeDriver, core: str, bindings: str, lifted: str) -> None:
    """So that no version is refused that would do."""
    if core == OLDEST_CORE and sys.version_info >= (3, 13):
        pytest.skip("what the crash at the end becomes is known up to Python 3.12")
    status, _ = run_with(driver, core, bindings, f"{PREFACE}\n{lifted}\n{MEMORY}\n{KERNELS}")
    assert status != 0


def test_the_extras_ask_for_the_same_versions() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    for major, oldest in OLDEST_BINDINGS.items():
        extra = re.search(rf"^cuda{major} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        assert extra is not None
        assert f'"cuda-core>={OLDEST_CORE}"' in extra[1]
        assert f'"cuda-bindings>={oldest},<{major + 1}"' in extra[1]
