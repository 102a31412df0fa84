"""The reference set: the same samples, weights and LoRA start for every contestant, drawn from one seed.

Samples are token ids, so that no contestant's tokenizer has a part in it. Lengths are lognormal with mean 140 and a
longest sample of 500 tokens; the last 60 % of each are trained. Tokens follow a Zipf law: there is something to learn.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np

SEED = 0
MEAN_LENGTH, LONGEST, SIGMA = 140, 500, 0.6
TRAINED_SHARE = 0.6
NUM_HELD_OUT = 16
FIRST_ID = 4
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """A Llama and a number of samples."""

    samples: int = 128
    layers: int = 8
    hidden: int = 512
    heads: int = 8
    kv_heads: int = 4
    intermediate: int = 1376
    vocabulary: int = 32000
    rank: int = 8
    row: int = 1024
    """Tokens of a packed row."""

    def shapes(self) -> Dict[str, Tuple[int, int]]:
        """Projection of a layer -> (in, out)."""
        hidden, wide, keys = self.hidden, self.intermediate, self.hidden // self.heads * self.kv_heads
        sizes = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
        sizes += [(hidden, wide), (hidden, wide), (wide, hidden)]
        return dict(zip(PROJECTIONS, sizes))


def draw_lengths(num: int) -> np.ndarray:
    """[num] tokens of each sample."""
    location = np.log(MEAN_LENGTH) - SIGMA**2 / 2
    return np.clip(np.random.default_rng(SEED).lognormal(location, SIGMA, num), 8, LONGEST).astype(int)


def first_trained(length: int) -> int:
    """Where the trained part of a sample begins."""
    return length - int(TRAINED_SHARE * length)


def make_samples(sizes: Sizes) -> List[Dict[str, object]]:
    """ids and first_trained of the samples to train on, then of those held out."""
    random = np.random.default_rng(SEED + 1)
    known = sizes.vocabulary - FIRST_ID
    samples = []
    for length in draw_lengths(sizes.samples + NUM_HELD_OUT):
        ids = FIRST_ID + (random.zipf(1.3, length) - 1) % known
        samples.append({"ids": ids.tolist(), "first_trained": first_trained(int(length))})
    return samples


def config_of(sizes: Sizes) -> Dict[str, object]:
    """config.json that transformers and PaddleNLP both read."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden, "intermediate_size": sizes.intermediate, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "torch_dtype": "float32",
    }  # fmt: skip


def weights_of(sizes: Sizes) -> Iterator[Tuple[str, np.ndarray]]:
    """Name and value of every weight, in Hugging Face's layout [out, in]."""
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        yield name, _normal(name, (sizes.vocabulary, sizes.hidden))
    yield "model.norm.weight", np.ones(sizes.hidden, np.float32)
    for layer in range(sizes.layers):
        for projection, (rows, columns) in sizes.shapes().items():
            name = f"model.layers.{layer}.{projection}.weight"
            yield name, _normal(name, (columns, rows))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", np.ones(sizes.hidden, np.float32)


def lora_starts(sizes: Sizes) -> Dict[str, np.ndarray]:
    """Path from "layers." on -> A [in, rank]; B starts at zero."""
    starts = {}
    for layer in range(sizes.layers):
        for projection, (rows, _) in sizes.shapes().items():
            path = f"layers.{layer}.{projection}"
            starts[path] = _normal(path, (rows, sizes.rank), 1 / np.sqrt(rows))
    return starts


def _normal(name: str, shape: Tuple[int, int], size: float = 0.02) -> np.ndarray:
    random = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    return (size * random.standard_normal(shape, dtype=np.float32)).astype(np.float32)


def write(folder: Path, sizes: Sizes) -> None:
    """samples.json, model/, lora.npz and sizes.json into a folder."""
    from paddle_sft.core.tensorfile import write_arrays

    (folder / "model").mkdir(parents=True)
    (folder / "samples.json").write_text(json.dumps(make_samples(sizes)), encoding="utf-8")
    (folder / "sizes.json").write_text(json.dumps(asdict(sizes)), encoding="utf-8")
    (folder / "model" / "config.json").write_text(json.dumps(config_of(sizes)), encoding="utf-8")
    write_arrays(folder / "model" / "model.safetensors", dict(weights_of(sizes)), {"format": "pt"})
    np.savez(folder / "lora.npz", **lora_starts(sizes))


def needed_operations(sizes: Sizes, samples: List[Dict[str, object]]) -> float:
    """Multiplications and additions in the matrix products that training one epoch needs, with frozen base weights.

    A frozen layer [in, out] costs 2 in out a token forward and as much for the gradient of its input; the first
    layer's query, key and value pass no gradient on. LoRA's two products cost theirs three times (forward, gradients
    of inputs and of weights). The head computes where a token is trained. Attention is causal: half of each sample's
    square, two products forward and four backward. Nothing is computed twice, and no padding.
    """
    tokens = sum(len(sample["ids"]) for sample in samples)
    trained = sum(len(sample["ids"]) - sample["first_trained"] for sample in samples)
    squares = sum(len(sample["ids"]) ** 2 for sample in samples)
    shapes = sizes.shapes()
    base = sum(2 * rows * columns for rows, columns in shapes.values()) * sizes.layers
    not_passed_on = sum(2 * shapes[name][0] * shapes[name][1] for name in PROJECTIONS[:3])
    lora = sum(2 * sizes.rank * (rows + columns) for rows, columns in shapes.values()) * sizes.layers
    head = 2 * sizes.hidden * sizes.vocabulary
    attention = 6 * sizes.hidden * sizes.layers  # six products of 2 * (length^2 / 2) * hidden
    return tokens * (2 * base - not_passed_on + 3 * lora) + trained * 2 * head + squares * attention
