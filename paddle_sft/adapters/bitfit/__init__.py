"""BitFit: training of biases alone (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199)."""
