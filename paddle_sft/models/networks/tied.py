"""Heads tied to the embedding, for the classes of PaddleNLP that give every model a head of its own."""

from __future__ import annotations

from paddle import nn


def tie_head(model: nn.Layer) -> None:
    """paddlenlp 3.0.0b4 has tied heads in some families only. Its layer for Qwen2 is one, also when tensor-parallel."""
    from paddlenlp.transformers.qwen2.modeling import Qwen2LMHead

    embedding = model.get_input_embeddings().weight
    model.set_output_embeddings(Qwen2LMHead(model.config, embedding_weights=embedding, transpose_y=True))
