"""IA3: learned scales of keys, values and feed-forward activations (Liu et al. 2022, https://arxiv.org/abs/2205.05638)."""
