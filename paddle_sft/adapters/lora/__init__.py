"""LoRA: low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685)."""
