"""Tiny models of every family, as transformers 5 writes them, and the texts they are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable

import numpy as np
from safetensors.numpy import load_file

from tests.parity.asking import Reference

_SIZES = dict(
    vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1, bos_token_id=1, eos_token_id=2,
    pad_token_id=3,
)  # fmt: skip


def _rope(theta: float, **scaling: Any) -> Dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


_LLAMA3 = _rope(
    500000.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip

_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.0],
}  # fmt: skip

SHAPES: Dict[str, Dict[str, Any]] = {
    "llama": {**_SIZES, "model_type": "llama", "tie_word_embeddings": False, **_rope(50000.0)},
    "llama3-rope": {**_SIZES, "model_type": "llama", "tie_word_embeddings": False, **_LLAMA3},
    "llama-tied": {**_SIZES, "model_type": "llama", "tie_word_embeddings": True, **_rope(10000.0)},
    "qwen2": {**_SIZES, "model_type": "qwen2", "tie_word_embeddings": False, **_rope(1000000.0)},
    # This one is trained. With theta 1e6 a key's bias hardly matters in its slowest dimensions, because softmax ignores
    # what is added to all keys alike; its gradient there is rounding, which Adam scales up to whole steps.
    "qwen2-tied": {**_SIZES, "model_type": "qwen2", "tie_word_embeddings": True, **_rope(10000.0)},
    "mistral": {**_SIZES, "model_type": "mistral", "tie_word_embeddings": False, "sliding_window": None,
                **_rope(20000.0)},
    "mixtral": {**_SIZES, "model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2,
                "tie_word_embeddings": False, "sliding_window": 24, **_rope(20000.0)},
    "qwen2_moe": {**_SIZES, "model_type": "qwen2_moe", "num_experts": 5, "num_experts_per_tok": 3,
                  "moe_intermediate_size": 40, "shared_expert_intermediate_size": 72, "mlp_only_layers": [0],
                  "tie_word_embeddings": False, **_rope(20000.0)},
    "mistral-tied": {**_SIZES, "model_type": "mistral", "tie_word_embeddings": True, "head_dim": 24,
                     "sliding_window": 24, **_rope(20000.0)},
    "qwen3": {**_SIZES, "model_type": "qwen3", "head_dim": 24, "tie_word_embeddings": True, **_rope(1000000.0)},
    "phi3": {**_SIZES, "model_type": "phi3", "tie_word_embeddings": False, "original_max_position_embeddings": 24,
             "rope_parameters": _LONGROPE},
    # weights so large that the two forms of gelu differ visibly
    "gemma": {**_SIZES, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 24, "initializer_range": 0.2,
              "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, **_rope(30000.0)},
    "bloom": {"model_type": "bloom", "vocab_size": 384, "hidden_size": 64, "n_layer": 2, "n_head": 4,
              "initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    "gemma2": {**_SIZES, "model_type": "gemma2", "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 12,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0, "initializer_range": 0.2,
               "tie_word_embeddings": True, **_rope(30000.0)},
    # as the one of 350 million has it: norms behind the residual, embeddings narrower than the layers
    "opt": {"model_type": "opt", "vocab_size": 384, "hidden_size": 60, "word_embed_proj_dim": 36, "ffn_dim": 100,
            "num_hidden_layers": 2, "num_attention_heads": 5, "do_layer_norm_before": False,
            "max_position_embeddings": 128, "init_std": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    "opt-prenorm": {"model_type": "opt", "vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 2,
                    "num_attention_heads": 4, "ffn_dim": 100, "max_position_embeddings": 128, "init_std": 0.1,
                    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    "gpt2": {"model_type": "gpt2", "vocab_size": 384, "n_embd": 66, "n_layer": 2, "n_head": 3, "n_positions": 64,
             "initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
}  # fmt: skip

TRAINED_SHAPES = {"llama": "llama", "qwen2": "qwen2-tied"}
"""Family -> the shape that is trained: grouped queries and a rope theta; biases and a tied head."""


def make_base(reference: Reference, folder: Path, shape: str, seed: int = 0, **options: Any) -> Path:
    """A model folder written by transformers."""
    reference.ask("make_model", folder=folder, config=SHAPES[shape], seed=seed, **options)
    return folder


def input_ids(rows: int = 3, length: int = 40, seed: int = 0) -> np.ndarray:
    """[rows, length] ids of the tiny vocabulary."""
    return np.random.default_rng(seed).integers(4, 384, size=(rows, length))


def reference_logits(reference: Reference, folder: Path, ids: np.ndarray) -> np.ndarray:
    """transformers' float32 logits [B, T, V] of a folder."""
    output = folder.parent / f"{folder.name}.logits"
    reference.ask("logits", folder=folder, input_ids=ids.tolist(), output=output)
    return load_file(str(output))["logits"]


def our_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """Our float32 logits [B, T, V], computed the way training and evaluation do."""
    import paddle

    from paddle_sft.stages.catalogue import STAGES

    model.eval()
    with paddle.no_grad():
        return STAGES["sft"].logits(model, paddle.to_tensor(ids)).numpy()


def distances(ours: Dict[str, np.ndarray], theirs: Dict[str, np.ndarray]) -> Dict[str, float]:
    """Name -> max |ours - theirs| / max |theirs|. Both must have the same names and shapes."""
    assert sorted(ours) == sorted(theirs)
    found = {}
    for name, array in theirs.items():
        assert ours[name].shape == array.shape, name
        found[name] = float(np.abs(ours[name] - array).max() / np.abs(array).max())
    return found


def beyond(distance_of: Dict[str, float], tolerance: float) -> Dict[str, float]:
    """What is further apart than the tolerance (or not a number), furthest first."""
    far = {name: value for name, value in distance_of.items() if not value <= tolerance}
    return dict(sorted(far.items(), key=lambda item: -item[1]))


def as_hugging_face(arrays: Dict[str, np.ndarray], family: str) -> Dict[str, np.ndarray]:
    """Paddle's names and layout of llama and qwen2 in Hugging Face's, written out here, not taken from the suite.

    llama.layers.0... -> model.layers.0...; weights of linear layers [in, out] -> [out, in].
    """
    found = {}
    for name, array in arrays.items():
        new = f"model.{name[len(family) + 1 :]}" if name.startswith(f"{family}.") else name
        linear = array.ndim == 2 and not name.endswith("embed_tokens.weight")
        found[new] = array.T if linear else array
    return found


def without(arrays: Dict[str, np.ndarray], words: Iterable[str]) -> Dict[str, np.ndarray]:
    """The arrays whose name holds none of the words."""
    return {name: array for name, array in arrays.items() if not any(word in name for word in words)}
