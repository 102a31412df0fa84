"""LoKr: the update as a Kronecker product (Yeh et al. 2023, LyCORIS, https://arxiv.org/abs/2309.14859)."""
