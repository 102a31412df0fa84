"""NEFTune: noise on the embeddings while training (Jain et al. 2023, https://arxiv.org/abs/2310.05914)."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn


def add_embedding_noise(model: nn.Layer, alpha: float) -> None:
    """Add uniform noise in +-alpha / sqrt(T * hidden) to the output of the input embedding, in training mode only.

    T is the row's length as it is computed, padding included, as in the paper's own code.
    """
    embedding = model.get_input_embeddings()

    def noisy(layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
        if not model.training:
            return output
        bound = alpha / math.sqrt(output.shape[1] * output.shape[2])
        return output + paddle.uniform(output.shape, dtype=output.dtype, min=-bound, max=bound)

    embedding.register_forward_post_hook(noisy)


def let_gradients_reach_the_first_layer(model: nn.Layer) -> None:
    """Let recomputing cover the first layer too.

    PaddleNLP leaves out a layer whose input needs no gradient, which behind a frozen embedding is the first one, and
    keeps all its activations. Gradients are the same either way.
    """

    def open_gradient(layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
        if output.stop_gradient:
            output.stop_gradient = False
        return output

    model.get_input_embeddings().register_forward_post_hook(open_gradient)
