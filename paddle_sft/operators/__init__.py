"""Operators of our own for CPUs, compiled on first use. On a GPU nothing here is used."""
