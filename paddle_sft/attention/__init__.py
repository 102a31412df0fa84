"""Attention over rows that hold several samples: FlashMask on a GPU, an exact computation by segments elsewhere."""
