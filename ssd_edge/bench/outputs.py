"""The files that a report is written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd_edge.bench.report import BenchReport
from ssd_edge.errors import SinkError, UsageError
from ssd_edge.files import atomic_path


@dataclass(frozen=True)
class Outputs:
    """Where to write JSON, Markdown and the plot (PNG); None: not."""

    json: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Find out what would fail in the end before the long work; old files stay as they are.

        Raises:
            UsageError: the plot is not called .png; two outputs are one file.
            SinkError: a folder cannot be made or written to, or is in the place of a file.
            ModuleNotFoundError: the plot needs matplotlib.
        """
        paths = [path for path in (self.json, self.markdown, self.plot) if path is not None]
        if len({path.resolve() for path in paths}) < len(paths):
            raise UsageError("two outputs have the same name; give each a file of its own")
        if self.plot is not None:
            if self.plot.suffix.lower() != ".png":
                raise UsageError(f"plot {self.plot} does not end in .png; the plot is a PNG file")
            import ssd_edge.bench.plot  # noqa: F401
        for path in paths:
            if path.is_dir():
                raise SinkError(f"cannot write {path}: it is a folder; give the name of a file")
            with atomic_path(path.with_name(f".{path.name}.check")) as probe:
                probe.touch()
            path.with_name(f".{path.name}.check").unlink()

    def write(self, report: BenchReport) -> None:
        """Write what was asked for.

        Raises:
            SinkError: a file cannot be written.
            UsageError: there is nothing to plot.
        """
        if self.json is not None:
            _write(self.json, report.to_json() + "\n")
        if self.markdown is not None:
            _write(self.markdown, report.markdown())
        if self.plot is not None:
            from ssd_edge.bench.plot import plot_report

            plot_report(self.plot, report)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
