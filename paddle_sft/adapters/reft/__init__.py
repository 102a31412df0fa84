"""ReFT: edits of hidden states at some positions (Wu et al. 2024, https://arxiv.org/abs/2404.03592)."""
