"""The numbers of a dense decoder, and which matrices a rank has of it: no weight is loaded, nothing is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

from paddle_sft.core.errors import ArgumentError

SHAPES: Dict[str, Dict[str, Any]] = {
    "meta-llama/Llama-3.1-8B": dict(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, vocab_size=128256,
    ),
    "meta-llama/Llama-3.1-70B": dict(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, vocab_size=128256,
    ),
    "meta-llama/Llama-3.1-405B": dict(
        hidden_size=16384, num_hidden_layers=126, num_attention_heads=128, num_key_value_heads=8,
        intermediate_size=53248, vocab_size=128256,
    ),
    "Qwen/Qwen2-7B": dict(
        model_type="qwen2", hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        intermediate_size=18944, vocab_size=152064,
    ),
    "mistralai/Mistral-7B-v0.3": dict(
        model_type="mistral", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, vocab_size=32768,
    ),
}  # fmt: skip
"""Public shapes: "The Llama 3 Herd of Models", table 3 (https://arxiv.org/abs/2407.21783), with a vocabulary of 128,256
(128,000 and 256 special tokens); "Qwen2 Technical Report", table 1 (https://arxiv.org/abs/2407.10671), with the padded
vocabulary of its config.json; "Mistral 7B", table 1 (https://arxiv.org/abs/2310.06825), with version 0.3's vocabulary.
Embedding and head are two matrices; llama where no model_type is said."""
ALIASES = {
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Llama-3.1-70B",
    "llama3-8b": "meta-llama/Llama-3.1-8B",
    "llama3-70b": "meta-llama/Llama-3.1-70B",
    "llama3-405b": "meta-llama/Llama-3.1-405B",
    "Qwen/Qwen2.5-7B": "Qwen/Qwen2-7B",
    "qwen2-7b": "Qwen/Qwen2-7B",
    "mistral-7b": "mistralai/Mistral-7B-v0.3",
}
"""Other names of these shapes."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Whose layers are those that `ModelShape` describes; the numbers of llama's are compared with measured runs."""
BY_ROWS = ("o_proj", "down_proj")
"""Tensor parallelism gives a rank rows of these matrices, and columns of the others."""


class Matrix(NamedTuple):
    """A linear layer of one rank."""

    path: str
    rows: int
    columns: int
    """[in, out] of the part that the rank has."""
    whole: Tuple[int, int]

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    @property
    def size(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class ModelShape:
    """A decoder of attention and gated MLPs."""

    family: str
    hidden: int
    layers: int
    heads: int
    groups: int
    """Key and value heads."""
    head_size: int
    inner: int
    vocabulary: int
    is_tied: bool = False
    """Whether the embedding is the head too."""
    has_attention_bias: bool = False
    has_mlp_bias: bool = False

    @staticmethod
    def of(config: Mapping[str, Any], place: str) -> ModelShape:
        """From a config.json with its family's defaults.

        Raises:
            ArgumentError: a family whose layers are others.
        """
        family = str(config["model_type"])
        if family not in FAMILIES:
            raise ArgumentError(
                f"{place} is a {family} model; the memory of its layers is not modelled, that of {', '.join(FAMILIES)} "
                "is. Plan with one of those of about the same size, and leave room"
            )
        heads = int(config["num_attention_heads"])
        return ModelShape(
            family,
            int(config["hidden_size"]),
            int(config["num_hidden_layers"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            int(config["intermediate_size"]),
            int(config["vocab_size"]),
            bool(config.get("tie_word_embeddings")),
            bool(config.get("attention_bias")),
            bool(config.get("mlp_bias")),
        )

    @property
    def query(self) -> int:
        """Numbers of all query heads of a token."""
        return self.heads * self.head_size

    @property
    def key(self) -> int:
        return self.groups * self.head_size

    def vectors(self, tensor: int = 1) -> List[int]:
        """Sizes of a layer's parameters that are no matrices: norms and biases; the part that a rank of so many has."""
        found = [self.hidden, self.hidden]
        if self.family == "qwen3":
            found += [self.head_size] * 2
        if self.has_attention_bias or self.family == "qwen2":
            found += [self.query // tensor, self.key // tensor, self.key // tensor]
        if self.has_attention_bias:
            found.append(self.hidden)
        return found + ([self.inner // tensor, self.inner // tensor, self.hidden] if self.has_mlp_bias else [])

    @lru_cache(maxsize=4096)  # asked for every layer of every layout
    def matrices(self, layer: int, tensor: int = 1) -> List[Matrix]:
        """Linear layers of a decoder layer, in the model's order; the part that a rank of so many has."""
        shapes = {
            "self_attn.q_proj": (self.hidden, self.query),
            "self_attn.k_proj": (self.hidden, self.key),
            "self_attn.v_proj": (self.hidden, self.key),
            "self_attn.o_proj": (self.query, self.hidden),
            "mlp.gate_proj": (self.hidden, self.inner),
            "mlp.up_proj": (self.hidden, self.inner),
            "mlp.down_proj": (self.inner, self.hidden),
        }
        found = []
        for name, (rows, columns) in shapes.items():
            by_rows = name.endswith(BY_ROWS)
            part = (rows // tensor, columns) if by_rows else (rows, columns // tensor)
            found.append(Matrix(f"{self.family}.layers.{layer}.{name}", *part, (rows, columns)))
        return found

    def paths(self) -> List[str]:
        """Of all linear layers, as the model's own are called."""
        return [matrix.path for layer in range(self.layers) for matrix in self.matrices(layer)]

    @property
    def parameters(self) -> int:
        """Numbers of all weights, a tied pair once."""
        layer = sum(matrix.size for matrix in self.matrices(0)) + sum(self.vectors())
        return self.layers * layer + self.hidden + (1 if self.is_tied else 2) * self.vocabulary * self.hidden
