"""Adapters: small trainable updates of a frozen model. They know kinds of linear layer, never model families."""
