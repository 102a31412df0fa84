"""AdaLoRA: rank where it matters (Zhang et al. 2023, https://arxiv.org/abs/2303.10512)."""
