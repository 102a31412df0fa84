"""Adapter folders of PEFT, in and out: one table for each method that both have."""
