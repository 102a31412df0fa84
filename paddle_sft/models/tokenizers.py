"""Tokenizers from a model folder: the ids of transformers 5; and their files, copied as they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from paddle_sft.core.errors import ModelError
from paddle_sft.core.log import get_logger, rank
from paddle_sft.models.hubs import TEXT_FILES
from paddle_sft.models.tokenizing.folder import SENTENCEPIECE, TOKENIZER, TokenizerFolder, read_folder
from paddle_sft.models.tokenizing.tokenizer import build_tokenizer


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder: a `TextTokenizer`, or PaddleNLP's for classes that only PaddleNLP has.

    Raises:
        ModelError: files that are missing, damaged, or contradict each other; no end token.
    """
    files = read_folder(Path(folder))
    tokenizer = _paddlenlps(files) if files.is_paddlenlps_own else build_tokenizer(files)
    for note in getattr(tokenizer, "notes", ()):
        if rank() == 0:
            get_logger().warning(f"{folder}: {note}")
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
            "give the tokenizer that belongs to the model, or set resize_vocab to true"
        )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files byte for byte; a rewrite through a library loses what that library doesn't know.

    sentencepiece files get both names they are looked for under. Where transformers would read other ids from the
    files than we do, a tokenizer.json that says ours is put beside them.
    """
    source, target = Path(source), Path(target)
    for name in TEXT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    files = read_folder(source)
    if files.is_read_otherwise:
        build_tokenizer(files).save(target / TOKENIZER)
    if read_folder(target).class_name != "LlamaTokenizer":
        return
    for have, lack in (SENTENCEPIECE, SENTENCEPIECE[::-1]):
        if (target / have).is_file() and not (target / lack).is_file():
            shutil.copyfile(target / have, target / lack)


def _paddlenlps(files: TokenizerFolder) -> Any:
    from paddlenlp.transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(files.path))
    except Exception as error:  # PaddleNLP raises anything from ImportError to AttributeError here
        raise ModelError(
            f"{files.path}: neither this suite nor PaddleNLP can read a {files.class_name} from it "
            f"({type(error).__name__}: {str(error).strip()[:200]}); give a folder with tokenizer.json, or with "
            "tokenizer_config.json and its vocabulary, as tokenizer_name_or_path"
        ) from error
    if rank() == 0:
        get_logger().warning(
            f"{files.path}: the tokenizer is PaddleNLP's {files.class_name}, whose ids were not compared with "
            "transformers'"
        )
    return tokenizer
