"""A checkpoint fine-tuned under the rounding of its int8 graph: the last resort, before that graph is made again."""

from __future__ import annotations

from pathlib import Path

from ssd_edge.calib.qat.module_ranges import float_layers, module_ranges
from ssd_edge.export.int8.options import Int8Options
from ssd_edge.export.int8.placement import Placement


def finetuned_checkpoint(checkpoint: Path, output: Path, placement: Placement, options: Int8Options) -> Path:
    """Fine-tune a checkpoint under the rounding of its int8 graph; returns the path of the new one, `output`.

    Args:
        placement: of the checkpoint's int8 graph, all its layers in int8.
        options: with `qat`.

    Raises:
        DatasetError, SinkError, SsdEdgeError: as `quantization_aware_finetune`.
    """
    # The trainer, only where it is asked for.
    from ssd_edge.calib.qat.finetune import FinetuneSettings, quantization_aware_finetune

    assert options.qat is not None
    return quantization_aware_finetune(
        checkpoint,
        output,
        FinetuneSettings(epochs=options.qat.epochs, progress=options.progress, threads=options.threads),
        data=options.qat.data,
        val=options.validation,
        target=options.target,
        ranges=module_ranges(placement.graph, placement.ranges()),
        float_layers=float_layers(placement.graph, placement.place()),
    )
