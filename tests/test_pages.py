"""The links of README and other pages lead somewhere."""

import re
from pathlib import Path


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
    root = Path(__file__).resolve().parents[1]
    for readme in (*root.glob("*.md"), *(root / "docs").glob("*.md"), root / "benchmarks" / "README.md"):
        text = readme.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
        missing = [link for link in links if not leads_somewhere(readme, link)]
        assert not missing, f"{readme.name}: {missing}"
        assert not re.search(r"@[A-Z_0-9]+@", text), f"{readme.name} has a figure that is not filled in"
