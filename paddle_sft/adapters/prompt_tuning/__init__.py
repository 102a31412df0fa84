"""Prompt tuning: trained vectors before the text (Lester et al. 2021, https://arxiv.org/abs/2104.08691)."""
