"""Whether an ONNX file obeys the contract of those that ssd-edge runs."""

from __future__ import annotations

from ssd_edge.runtime.onnx_file.file import OnnxFile


def contract_misfits(file: OnnxFile) -> tuple[str, ...]:
    """What keeps a file of another tool from being run by ssd-edge, one clause each; empty where nothing is seen.

    The contract: uint8 `images` [batch, height, width, 3] in, float `boxes` [batch, anchors, 4] and `scores` [batch,
    anchors, classes] out, batch dynamic, suppression left to the runtime.
    """
    found = []
    if [tensor.name for tensor in file.inputs] != ["images"] or {t.name for t in file.outputs} != {"boxes", "scores"}:
        names = f"inputs {sorted(t.name for t in file.inputs)} and outputs {sorted(t.name for t in file.outputs)}"
        found.append(f"{names}; expected input images and outputs boxes and scores")
    for tensor in file.inputs:
        shape = tensor.shape or ()
        if tensor.element_type != "uint8":
            found.append(f"input {tensor}; expected uint8 RGB pixels, with the normalisation inside the graph")
        if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
            found.append(f"input {tensor.name} has its colour planes first; expected [batch, height, width, 3]")
        if shape and isinstance(shape[0], int):
            found.append(f"the batch of input {tensor.name} is fixed at {shape[0]}; expected a dynamic first dimension")
    if suppression := [name for name in file.operators if "nms" in name.lower() or "nonmaxsuppression" in name.lower()]:
        found.append(f"{suppression[0]} is inside the graph; expected all boxes and scores: ssd-edge suppresses itself")
    return tuple(found)
