"""Whether models detect as well as their reference: proven by mAP, and compared stage by stage."""

from ssd_edge.parity.max_drop import MaxDrop
from ssd_edge.parity.report import ModelParity, ParityReport
from ssd_edge.parity.run import parity

__all__ = ["MaxDrop", "ModelParity", "ParityReport", "parity"]
