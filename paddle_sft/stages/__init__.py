"""Stages: small objects that tell one trainer what to compute."""
