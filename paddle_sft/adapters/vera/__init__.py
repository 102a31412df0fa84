"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454)."""
