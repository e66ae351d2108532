"""Detectors of other projects, taken in as they are: one file per family, with the four steps of `family.py`."""
