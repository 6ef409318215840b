"""Calibration: the four splits, INT8 scales, and the normal scores that thresholds come from."""
