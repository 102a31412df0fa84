"""P-tuning: vectors before the text that an encoder computes (Liu et al. 2021, https://arxiv.org/abs/2103.10385)."""
