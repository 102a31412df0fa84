"""Weights in 4 or 8 bits: codecs, and the frozen linear layer that computes with them."""
