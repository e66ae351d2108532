"""Calibration: which images to calibrate on, activation ranges, where Q/DQ goes, and what to give back to float."""
