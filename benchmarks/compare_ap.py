"""AP of trained checkpoints against torchvision's, trained beside them with other seeds: means and their difference.

    python -m benchmarks.compare_ap DATA/bccd --split test --ours runs/bccd-0/last.pt runs/bccd-1/last.pt \\
        --torchvision runs/torchvision-0.pt runs/torchvision-1.pt -o benchmarks/bccd_against_torchvision.json
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.report import report
from ssd_edge.data.dataset import DetectionDataset
from ssd_edge.data.lint import lint
from ssd_edge.data.readers import read_dataset
from ssd_edge.evaluation.evaluate import evaluate
from ssd_edge.runtime.detector import open_detector


def score(checkpoint: Path, dataset: DetectionDataset) -> dict[str, float]:
    """AP, AP50, AP75 and each class's AP."""
    with open_detector(checkpoint) as detector:
        evaluation = evaluate(detector, dataset)
    metrics = {name: evaluation.metrics[name] for name in ("AP", "AP50", "AP75")}
    return metrics | {f"AP of {name}": metrics_of_class.ap for name, metrics_of_class in evaluation.per_class.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--ours", type=Path, nargs="+", required=True)
    parser.add_argument("--torchvision", type=Path, nargs="+", required=True)
    parser.add_argument("-o", "--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()
    dataset = lint(read_dataset(args.data, args.split))[0]
    scores = {
        name: [score(path, dataset) for path in paths]
        for name, paths in (("ssd-edge", args.ours), ("torchvision", args.torchvision))
    }
    means = {name: statistics.mean(run["AP"] for run in runs) for name, runs in scores.items()}
    figures = {
        "data": f"{dataset.name}, {len(dataset)} images",
        "runs": scores,
        "mean_AP": means,
        "difference": means["ssd-edge"] - means["torchvision"],
    }
    report(figures, args.output)


if __name__ == "__main__":
    main()
