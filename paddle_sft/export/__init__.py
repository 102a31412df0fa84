"""Model folders from what was trained. Has no formula of its own: an adapter says what its update is as a matrix."""
