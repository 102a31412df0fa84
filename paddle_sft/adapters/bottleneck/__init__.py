"""Bottleneck adapter: small networks in series (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751)."""
