"""Tiny models, tokenizers and data, made on the spot. Everything is deterministic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

WORDS = "red green blue cat dog bird runs sleeps sings the a on under over tree house river quickly slowly and".split()

CONFIGS: Dict[str, Dict[str, Any]] = {
    "llama": dict(model_type="llama", num_key_value_heads=2, rope_theta=50000.0),
    "qwen2": dict(model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True, hidden_act="silu"),
    "mistral": dict(model_type="mistral", num_key_value_heads=2, sliding_window=None, hidden_act="silu"),
    "mixtral": dict(model_type="mixtral", num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2),
    "qwen3": dict(model_type="qwen3", num_key_value_heads=2, head_dim=12, attention_bias=True),
    "phi3": dict(model_type="phi3", num_key_value_heads=2, partial_rotary_factor=0.5, sliding_window=4),
    "qwen2_moe": dict(
        model_type="qwen2_moe", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
        shared_expert_intermediate_size=28, mlp_only_layers=[0],
    ),
    "gemma": dict(model_type="gemma", num_key_value_heads=1, head_dim=8, tie_word_embeddings=True),
    "gemma2": dict(
        model_type="gemma2", num_key_value_heads=2, head_dim=12, query_pre_attn_scalar=20, sliding_window=3,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    ),
    "bloom": dict(model_type="bloom", n_layer=2, n_head=4),
    "opt": dict(model_type="opt", ffn_dim=48, word_embed_proj_dim=20, init_std=0.1, dropout=0.0),
    "gpt2": dict(
        model_type="gpt2", n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=256,
        embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip
_COMMON = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=256, initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=3,
)  # fmt: skip
_LAYERS = ("intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_CALLED_OTHERWISE = {
    "bloom": _LAYERS, "opt": ("intermediate_size", "initializer_range"), "gpt2": ("hidden_size", *_LAYERS),
}  # fmt: skip
"""Common keys that a family doesn't have, or has under another name."""


def config(family: str, **changes: Any) -> Dict[str, Any]:
    """config.json of a tiny model."""
    common = {key: value for key, value in _COMMON.items() if key not in _CALLED_OTHERWISE.get(family, ())}
    return {**common, **CONFIGS[family], **changes}


def sentence(random: np.random.Generator, num_words: int) -> str:
    return " ".join(random.choice(WORDS, num_words))


def rows(num: int, seed: int = 0, longest: int = 8) -> List[Dict[str, str]]:
    """src/tgt pairs; the target repeats the prompt's first words, so that there is something to learn."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        prompt = sentence(random, int(random.integers(2, longest)))
        found.append({"src": prompt + " :", "tgt": " ".join(prompt.split()[: int(random.integers(1, longest))])})
    return found


def write_lines(path: Path, content: List[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return path


def make_data(folder: Path, num_train: int = 24, num_dev: int = 8) -> Path:
    write_lines(folder / "train.json", rows(num_train, 1))
    write_lines(folder / "dev.json", rows(num_dev, 2))
    return folder


def make_tokenizer(folder: Path) -> Path:
    """A sentencepiece tokenizer of 96 pieces over WORDS, as a llama tokenizer folder."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    text = [sentence(random, 8) + " :" for _ in range(400)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=96,
        model_type="bpe",
        hard_vocab_limit=False,
        pad_id=3,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def make_model(folder: Path, family: str = "llama", seed: int = 0, layout: str = "paddle", **changes: Any) -> Path:
    """A complete tiny model folder with a tokenizer; all weights are random, norm scales and biases too."""
    import paddle

    from paddle_sft.models.hub import build_from_scratch, unique_parameters
    from paddle_sft.models.writer import write_model

    make_tokenizer(folder)
    model = build_from_scratch(config(family, **changes), "float32", seed)
    for parameter in unique_parameters(model).values():
        if len(parameter.shape) == 1:
            parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    write_model(folder, model, layout)
    return folder


def make_samples(num: int, seed: int = 0, longest: int = 14, vocabulary: int = 96) -> List[Any]:
    """Random samples of different lengths; the first tokens of each are a prompt, not trained."""
    from paddle_sft.core.records import Sample

    random = np.random.default_rng(seed)
    samples = []
    for number in range(num):
        length = int(random.integers(4, longest + 1))
        ids = random.integers(4, vocabulary, length).astype(np.int32)
        trained = np.arange(length) >= random.integers(1, length - 1)
        samples.append(Sample(ids, trained, f"train.json line {number + 1}"))
    return samples


def make_trainer(
    model: Any, output_dir: Path, train: List[Any], dev: Any = (), weights: Any = None, **keys: Any
) -> Any:
    """The suite's trainer over a model that is set up already; `keys` are those of an argument file.

    Quiet, on the CPU, without saving or logging unless asked to. `weights` default to the whole model.
    """
    from paddle_sft.arguments.load import load_finetune_arguments
    from paddle_sft.cli.run_data import make_feed
    from paddle_sft.data.store import SampleStore
    from paddle_sft.stages.catalogue import STAGES
    from paddle_sft.train.trainer import RunData, SFTTrainer
    from paddle_sft.train.upstream import training_arguments
    from paddle_sft.train.weights import FullWeights

    given = dict(
        model_name_or_path="not/read", dataset_name_or_path="not/read", output_dir=str(output_dir), do_train=True,
        device="cpu", disable_tqdm=True, save_strategy="no", logging_strategy="no", learning_rate=1e-3,
    )  # fmt: skip
    given.update(keys)
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir.parent / f"{output_dir.name}-arguments.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    arguments = load_finetune_arguments([str(file)])
    settings = arguments.train
    feed = make_feed(arguments, SampleStore.of(train))
    weights = weights or FullWeights(model, output_dir.parent)
    data = RunData(feed, {"": dev}, 3)
    return SFTTrainer(model, STAGES[settings.stage], training_arguments(arguments, ""), settings, weights, data)


def load(folder: Path, trainable: bool = False) -> Any:
    """The model of a folder in float32, with all weights frozen or all trainable."""
    from paddle_sft.models.hub import load_model

    model = load_model(folder, "float32").model
    for parameter in model.parameters():
        parameter.stop_gradient = not trainable
    return model


def labelled(samples: List[Any], names: Tuple[str, ...] = ("bad", "good", "so so")) -> List[Any]:
    """The samples with a label each, of one class after the other, and nothing else to train."""
    from paddle_sft.core.records import Sample

    return [
        Sample(one.ids, np.zeros(len(one), dtype=bool), one.place, json.dumps(names[number % len(names)]))
        for number, one in enumerate(samples)
    ]


def load_classifier(folder: Path, names: Tuple[str, ...] = ("bad", "good", "so so"), trainable: bool = False) -> Any:
    """The classifier of a folder, its head new where the folder has none."""
    from paddle_sft.data.classes import Classes
    from paddle_sft.models.classification import load_classifier as load_from

    model = load_from(folder, "float32", Classes(names), seed=1).model
    for parameter in model.parameters():
        parameter.stop_gradient = not trainable
    return model


def load_for(stage: str, folder: Path, trainable: bool = False) -> Any:
    """The model of a folder as a stage wants it."""
    return (load_classifier if stage == "classification" else load)(folder, trainable=trainable)


def samples_for(stage: str, samples: List[Any]) -> List[Any]:
    """Samples as a stage wants them."""
    return labelled(samples) if stage == "classification" else samples


def logits(model: Any, ids: Any) -> np.ndarray:
    """[B, T, V] of a model in evaluation mode."""
    import paddle

    model.eval()
    model.row_layout.clear()
    with paddle.no_grad():
        output = model(input_ids=paddle.to_tensor(np.asarray(ids, dtype=np.int64)))
    return (output[0] if isinstance(output, (tuple, list)) else output).numpy()


def snapshot(model: Any) -> Dict[str, np.ndarray]:
    """Name -> a copy of every parameter."""
    return {name: parameter.numpy().copy() for name, parameter in model.state_dict().items()}


def train_deltas(model: Any, seed: int = 0, size: float = 0.1) -> None:
    """Give every adapter weight a random value, as if it had been trained: at its start an adapter does nothing."""
    import paddle

    from paddle_sft.adapters.base import is_adapters

    random = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        if is_adapters(name) and not parameter.stop_gradient:
            drawn = size * random.standard_normal(parameter.shape).astype("float32")
            parameter.set_value(parameter + paddle.to_tensor(drawn).astype(parameter.dtype))


def slow_loss(model: Any, sample: Any) -> Tuple[float, int]:
    """(sum of -log p, tokens that were the likeliest) over a sample's trained tokens, in double precision, alone."""
    scores = logits(model, sample.ids[None])[0].astype(np.float64)
    total, hits = 0.0, 0
    for position in np.flatnonzero(sample.trained[1:]):
        row, target = scores[position] - scores[position].max(), sample.ids[position + 1]
        total += float(np.log(np.exp(row).sum()) - row[target])
        hits += int(row.argmax() == target)
    return total, hits
