"""Evaluation, one concept a file: `evaluate.evaluate` is the way in, `report.write_report` draws what it found."""
