"""Tokenizers: PaddleNLP's, from a folder, and their files copied as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from paddle_sft.core.errors import ModelError
from paddle_sft.models.remote import TEXT_FILES

_HF_SENTENCEPIECE, _PADDLE_SENTENCEPIECE = "tokenizer.model", "sentencepiece.bpe.model"
"""One file under two names: transformers' and PaddleNLP's Llama tokenizers each know their own only."""


def load_tokenizer(folder: Path) -> Any:
    """PaddleNLP's tokenizer of a model folder.

    Raises:
        ModelError: the folder has no tokenizer that PaddleNLP can read.
    """
    from paddlenlp.transformers import AutoTokenizer

    names = {"vocab_file": str(Path(folder) / _HF_SENTENCEPIECE)} if _needs_other_name(Path(folder)) else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **names)
    except Exception as error:  # PaddleNLP raises anything from ImportError to AttributeError here
        raise ModelError(
            f"{folder} has no tokenizer that PaddleNLP can read ({type(error).__name__}: {str(error).strip()[:200]}); "
            "give a folder with tokenizer_config.json and its vocabulary as tokenizer_name_or_path"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer has no eos_token; set it in tokenizer_config.json: without it no answer ends"
        )
    return tokenizer


def fill_token(tokenizer: Any) -> int:
    """The id that fills the end of short rows. Any id would do (it is never trained); eos where there is no pad."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def require_known_ids(largest: int, vocab_size: int, place: str) -> None:
    """Raise ModelError if the tokenizer at `place` gives ids that the model has no embedding for."""
    if largest >= vocab_size:
        raise ModelError(
            f"{place}: the tokenizer gives ids up to {largest}, the model knows {vocab_size} tokens; "
            "give the tokenizer that belongs to the model"
        )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files byte for byte; a rewrite through a library loses what that library doesn't know."""
    for name in TEXT_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)
    for have, lack in ((_HF_SENTENCEPIECE, _PADDLE_SENTENCEPIECE), (_PADDLE_SENTENCEPIECE, _HF_SENTENCEPIECE)):
        if _is_llama(Path(target)) and (Path(target) / have).is_file() and not (Path(target) / lack).is_file():
            shutil.copyfile(Path(target) / have, Path(target) / lack)


def _needs_other_name(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return _is_llama(folder) and _HF_SENTENCEPIECE in names and _PADDLE_SENTENCEPIECE not in names


def _is_llama(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        return str(content.get("tokenizer_class", "")).startswith("LlamaTokenizer")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{config} is not a readable JSON object: {error}") from error
