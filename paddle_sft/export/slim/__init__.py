"""Quantisation after training, by PaddleSlim's algorithms and observers, calibrated on the user's data."""
