"""Quickstart tokenizer: a sentencepiece model of 1,000 pieces, and the shape of the small Llama that goes with it.

    DIR/tokenizer/     tokenizer.model and its configs: PaddleNLP and Hugging Face transformers load it, with equal ids
    DIR/model_config/  config.json of an untrained Llama with that vocabulary, plus the tokenizer (for `config_name`)

Only train text is read, so that dev stays unseen. Nothing is unknown: what has no piece is spelled in bytes.

    python tools/quickstart_tokenizer.py --data_dir outputs/quickstart --output_dir outputs/quickstart
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

VOCAB_SIZE = 1000
UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3
"""Llama's order, then a pad of its own: a pad that is eos would hide the end of every sample."""
PIECES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

MODEL_CONFIG: Dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
    "dtype": "float32",
}


def train_lines(data_dir: Path) -> Iterator[str]:
    """Lines of the train texts and sentences, in file order.

    Raises:
        SystemExit: the data set is not there.
    """
    for name, keys in (("pretrain/train.json", ("text",)), ("data/train.json", ("src", "tgt"))):
        path = data_dir / name
        if not path.is_file():
            raise SystemExit(f"{path} is missing; run: python tools/quickstart_data.py --output_dir {data_dir}")
        with open(str(path), encoding="utf-8") as stream:
            for row in map(json.loads, stream):
                for key in keys:
                    yield from (line for line in row[key].split("\n") if line.strip())


def train_tokenizer(lines: Iterator[str], vocab_size: int = VOCAB_SIZE) -> bytes:
    """Train and return the serialised sentencepiece model. One thread, so that equal text gives equal bytes.

    Text goes in as it is: no normalisation, runs of spaces kept (indentation means something in Python), digits apart.
    """
    import sentencepiece  # here, so that --help answers without it

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        pad_piece=PIECES["pad_token"],
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def write_tokenizer(model: bytes, folder: Path) -> None:
    """Write a tokenizer folder; PaddleNLP looks for `sentencepiece.bpe.model`, transformers for the other name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.model", "sentencepiece.bpe.model"):
        (folder / name).write_bytes(model)
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "model_max_length": MODEL_CONFIG["max_position_embeddings"],
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        **PIECES,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", dict(PIECES))


def write_json(path: Path, content: Dict[str, Any]) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_model_config(tokenizer: Path, folder: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Write the folder a run starts from scratch with: the shape of the model and its tokenizer, no weights."""
    shutil.copytree(str(tokenizer), str(folder), dirs_exist_ok=True)
    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    write_json(folder / "config.json", {**MODEL_CONFIG, "vocab_size": vocab_size, **ids})


def num_parameters(config: Dict[str, Any], vocab_size: int = VOCAB_SIZE) -> int:
    """Weights of a Llama of this shape, counted by formula; a head tied to the embedding counts once."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * config["num_key_value_heads"]
    layer = attention + 3 * hidden * inner + 2 * hidden
    tables = 1 if config["tie_word_embeddings"] else 2
    return tables * vocab_size * hidden + config["num_hidden_layers"] * layer + hidden


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/quickstart"))
    arguments = parser.parse_args(argv)
    lines = list(train_lines(arguments.data_dir))
    print(f"training a tokenizer of {VOCAB_SIZE:,} pieces on {len(lines):,} lines", flush=True)
    tokenizer = arguments.output_dir / "tokenizer"
    write_tokenizer(train_tokenizer(iter(lines)), tokenizer)
    write_model_config(tokenizer, arguments.output_dir / "model_config")
    print(
        f"{tokenizer} is ready; "
        f"{arguments.output_dir / 'model_config'} is a Llama of {num_parameters(MODEL_CONFIG):,} weights"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
