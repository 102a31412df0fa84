"""Tokenizers with the settings of the real ones, trained on the spot on the tiny data's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator

import numpy as np

from tests import tiny

NUM_PIECES = 340
"""All byte pieces, the special tokens, and pieces of the words."""

TEXTS = [
    "red cat sings under the tree :", "The Quick, brown fox (12,345) doesn't.", "two  spaces, and a tab\there ",
    "accents: Ünïcödé, naïve; 今天天气很好; emoji 🙂", "line\nbreak\r\n\n    indented", "a", "", "red</s> river",
    " ", " red", "  two  spaces",
]  # fmt: skip
"""What tokenizers disagree on: spaces, letters they never saw, line ends, special tokens written in a text."""


def words() -> Iterator[str]:
    random = np.random.default_rng(0)
    return (tiny.sentence(random, 8) + " :" for _ in range(400))


def make_llama_tokenizer(folder: Path) -> None:
    """sentencepiece as Llama's own: byte pieces for what it doesn't know, text left as it is."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words(), model_prefix=str(folder / "tokenizer"), vocab_size=NUM_PIECES, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, pad_id=3,
        hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **special}
    write_settings(folder, settings)


def make_qwen2_tokenizer(folder: Path) -> None:
    """Byte-level BPE as Qwen2's own: vocab.json and merges.txt, no begin token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=NUM_PIECES - len(special), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words(), trainer)
    tokenizer.model.save(str(folder))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = enumerate(special, start=tokenizer.get_vocab_size())
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "added_tokens_decoder": {str(number): {"content": content, **plain} for number, content in added},
        "bos_token": None,
        "eos_token": special[0],
        "pad_token": special[0],
        "unk_token": None,
        "additional_special_tokens": special[1:],
    }
    write_settings(folder, settings)


def write_settings(folder: Path, settings: Dict[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


TOKENIZERS = {"llama": make_llama_tokenizer, "qwen2": make_qwen2_tokenizer}
