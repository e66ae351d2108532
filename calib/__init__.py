"""Calibration: which images to calibrate on, activation ranges, where Q/DQ goes. Not in this version yet."""
