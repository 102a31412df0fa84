"""LoHa: the update as a Hadamard product (Hyeon-Woo et al. 2021, FedPara, https://arxiv.org/abs/2108.06098)."""
