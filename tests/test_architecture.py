"""What docs/architecture.md says about the sources holds: layers, no cycles, private names, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ssd_edge", "export", "calib", "runtime")
# Loaded when a checkpoint is opened.
TORCH_BACKENDS = {"ssd_edge.runtime.backends.torch", "ssd_edge.runtime.backends.torch_cuda"}
NOT_OF_RUNTIME = ("torch", "torchvision", "onnx", "ssd_edge.export", "ssd_edge.calib", "ssd_edge.models")
LONGEST_FUNCTION, LONGEST_FILE = 60, 400
REASON = re.compile(r"\bone (file|piece|table|class)\b.*\b(as|because|so that)\b", re.IGNORECASE | re.DOTALL)

Imports = dict[str, set[str]]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "ssd_edge" else ("ssd_edge", *parts))


@cache
def sources() -> dict[str, ast.Module]:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    real = [file for file in files if not any(parent.is_symlink() for parent in file.parents)]
    return {module_of(file): ast.parse(file.read_text(encoding="utf-8")) for file in real}


def imported_names(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each `import a.b` as (a.b, None), and each `from a.b import c` as (a.b, c), wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_modules(trees: dict[str, ast.Module]) -> Imports:
    """By module, what it imports: modules of these trees, and others by their full name."""
    return {
        module: {
            f"{package}.{name}" if f"{package}.{name}" in trees else package for package, name in imported_names(tree)
        }
        - {module}
        for module, tree in trees.items()
    }


def cycles(imports: Imports) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; each group sorted."""
    reached = {module: _closure(module, imports) for module in imports}
    groups = {frozenset(other for other in reached[module] if module in reached.get(other, ())) for module in imports}
    return sorted(sorted(group) for group in groups if group)


def _closure(module: str, imports: Imports, stop: Set[str] = frozenset()) -> set[str]:
    """What a module imports, and what that imports; not what `stop` imports, nor those modules themselves."""
    found: set[str] = set()
    left = [module]
    while left:
        for name in imports.get(left.pop(), set()) - found - stop:
            found.add(name)
            left.append(name)
    return found


@cache
def imports_of_sources() -> Imports:
    return imported_modules(sources())


def test_there_are_no_import_cycles() -> None:
    assert cycles(imports_of_sources()) == []


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c", "x"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("module", [module for module in sources() if module.startswith("ssd_edge.runtime")])
def test_the_runtime_needs_neither_torch_nor_the_exporter(module: str) -> None:
    """Neither does what it imports."""
    if module not in TORCH_BACKENDS:
        reached = _closure(module, imports_of_sources(), stop=TORCH_BACKENDS)
        assert [name for name in reached if f"{name}.".startswith(tuple(f"{no}." for no in NOT_OF_RUNTIME))] == []


@cache
def layers() -> list[str]:
    """The layers of docs/architecture.md as prefixes of modules, the lowest one first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("| layer | job |")[2].partition("\n\n")[0]
    paths = re.findall(r"^\| `([\w/.*]+)` \|", table, re.MULTILINE)
    names = [path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in paths]
    return [name if name.startswith("ssd_edge") else f"ssd_edge.{name}" for name in names]


def layer_of(module: str) -> int:
    """The layer with the longest prefix; 0 is `ssd_edge/*.py`."""
    fitting = [i for i, name in enumerate(layers()) if f"{module}.".startswith(f"{name}.")]
    return max(fitting, default=0)


def upward_imports(imports: Imports) -> list[str]:
    return sorted(
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if name.startswith("ssd_edge.") and layer_of(name) > layer_of(module) and not _is_entry(module)
    )


def _is_entry(module: str) -> bool:
    """`import ssd_edge` names what it offers, `python -m ssd_edge` is the command line."""
    return module in ("ssd_edge", "ssd_edge.__main__")


def test_no_layer_imports_one_below_it_in_the_table() -> None:
    assert len(layers()) > 10
    assert all((ROOT / name.replace(".", "/").removesuffix("/*")).exists() for name in layers() if "." in name[9:])
    assert upward_imports(imports_of_sources()) == []


def test_an_upward_import_is_found() -> None:
    imports = {"ssd_edge.models.ssd": {"ssd_edge.data.lint", "torch"}, "ssd_edge.data.lint": {"ssd_edge.models.ssd"}}
    assert upward_imports(imports) == ["ssd_edge.models.ssd imports ssd_edge.data.lint"]


def python_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode:
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def private_uses(tree: ast.Module) -> list[str]:
    """Private names of other modules that a module imports, or reads as attributes of a module that it imports."""
    found, modules = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found += [f"{node.module}.{name}" for name in names if _is_private(name) and _is_ours(node.module)]
            modules |= {a.asname or a.name for a in node.names if _is_ours(node.module) and a.name.islower()}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_private(node.attr)]
    return found + [ast.unparse(node) for node in attributes if ast.unparse(node.value) in modules]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("ssd_edge", "tests")


@pytest.mark.parametrize("module", sources())
def test_no_file_uses_private_names_of_another(module: str) -> None:
    assert private_uses(sources()[module]) == []


def test_private_names_are_found() -> None:
    code = "from ssd_edge.a import _b, c, D\nfrom os import _exit\nc._d()\nD._e\nself._f\n__name__"
    assert private_uses(ast.parse(code)) == ["ssd_edge.a._b", "c._d"]


def functions(tree: ast.Module) -> list[tuple[str, int]]:
    """Names and lines of all functions."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]


def test_functions_fit_on_a_screen_and_files_have_a_reason_to_be_long() -> None:
    long = []
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        name = str(path.relative_to(ROOT))
        long += [f"{name}: {function}" for function, lines in functions(tree) if lines > LONGEST_FUNCTION]
        head = ast.get_docstring(tree) or ""
        long += [name] * (len(text.splitlines()) > LONGEST_FILE and not REASON.search(head))
    assert long == []
