"""Whether models detect as well as their reference: `run.parity` proves it by mAP and compares stage by stage."""
