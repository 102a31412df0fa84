"""Prefix tuning: trained keys and values in every layer (Li and Liang 2021, https://arxiv.org/abs/2101.00190)."""
