"""Links of README and other pages lead somewhere, and the commands and imports in them exist."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from ssd_edge.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md")


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
    for readme in PAGES:
        text = readme.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        missing = [link for link in links if not leads_somewhere(readme, link)]
        assert not missing, f"{readme.name}: {missing}"
        assert not re.search(r"@[A-Z_0-9]+@", text), f"{readme.name} has a figure that is not filled in"


def code_blocks(language: str) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def command_lines() -> list[str]:
    """The lines of shell code, each with the lines that continue it."""
    lines = [line.strip() for block in code_blocks("") for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(" +", " ", line.removeprefix(".venv/bin/")) for line in lines]


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("ssd-edge ")])
def test_the_commands_of_pages_are_understood(line: str) -> None:
    line = re.sub(r"\$\w+", "0", line)  # the variable of a loop
    build_parser().parse_args(shlex.split(line, comments=True)[1:])


def test_commands_named_in_text_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`ssd-edge ([a-z]+)", text))
    assert {"train", "eval", "codes"} <= named <= set(COMMANDS)


def test_the_programs_of_pages_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    modules = set(re.findall(r"python3? -m ((?:benchmarks|tests|tools|ssd_edge)(?:\.\w+)*)", text))
    assert modules
    assert [module for module in sorted(modules) if importlib.util.find_spec(module) is None] == []


def test_the_imports_of_python_examples_exist() -> None:
    statements = [node for block in code_blocks("python") for node in ast.walk(ast.parse(block))]
    imports = [node for node in statements if isinstance(node, ast.ImportFrom) and node.module is not None]
    ours = [ast.unparse(node) for node in imports if str(node.module).startswith("ssd_edge")]
    assert len(ours) > 5
    for statement in ours:
        exec(statement, {})
