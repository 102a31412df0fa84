"""A model by folder or by name: always ends in a folder on this machine."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from paddle_sft.core.errors import ModelError
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME

TOKENIZER_FILES = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
TEXT_FILES = TOKENIZER_FILES + ("generation_config.json",)

Fetch = Callable[[str], Optional[str]]
"""File name -> path on this machine, None when the model has no such file."""


def local_folder(name: str, *, from_hf_hub: bool = False, from_aistudio: bool = False) -> Path:
    """The folder of a model, downloaded if `name` is no folder here.

    A name is looked up in PaddleNLP's registry; with `from_hf_hub` on the Hugging Face hub (its mirror and token come
    from HF_ENDPOINT and HF_TOKEN), with `from_aistudio` on AI Studio.

    Raises:
        ModelError: neither a folder nor a model that could be downloaded.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if _looks_like_path(name):
        raise ModelError(f"no model folder {name}{_nearest_folder(name)}")
    try:
        if from_hf_hub:
            return _from_hugging_face(name)
        return download(lambda file: _paddlenlp_file(name, file, from_aistudio))
    except ModelError:
        raise
    except Exception as error:  # the hubs' clients raise anything from OSError to AssertionError
        source = "the Hugging Face hub" if from_hf_hub else "AI Studio" if from_aistudio else "PaddleNLP's registry"
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{name!r} is no folder here, and {source} did not give it: {said[-1]}; "
            "check the name and the network, or download the model and give its folder"
        ) from error


def download(fetch: Fetch) -> Path:
    """Fetch config, weights and tokenizer one by one; return the folder they are in.

    Raises:
        ModelError: no config.json or no weights.
    """
    config = fetch("config.json")
    if config is None:
        raise ModelError("it has no config.json")
    if not _fetch_weights(fetch):
        raise ModelError(f"it has none of {WEIGHTS_NAME}, {INDEX_NAME}, {PDPARAMS_NAME}")
    for name in TEXT_FILES:
        fetch(name)
    return Path(config).parent


def _fetch_weights(fetch: Fetch) -> List[str]:
    index = fetch(INDEX_NAME)
    if index is not None:
        shards = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in shards if fetch(name) is None]
        if missing:
            raise ModelError(f"its index names shards that are not there: {', '.join(missing[:5])}")
        return shards
    return [path for path in (fetch(WEIGHTS_NAME) or fetch(PDPARAMS_NAME),) if path is not None]


def _paddlenlp_file(name: str, file: str, from_aistudio: bool) -> Optional[str]:
    from paddlenlp.utils.download import resolve_file_path

    keywords: Dict[str, Any] = {"from_aistudio": from_aistudio}
    return resolve_file_path(name, [file], **keywords)


def _from_hugging_face(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["config.json", "*.safetensors", INDEX_NAME, *TEXT_FILES]
    return Path(snapshot_download(name, allow_patterns=patterns))


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~", os.sep)) or name.endswith(os.sep) or name.count("/") > 1


def _nearest_folder(name: str) -> str:
    parent = Path(name).expanduser().parent
    if not parent.is_dir():
        return f" ({parent} is no folder either)"
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    near = get_close_matches(Path(name).name, names, n=1)
    return f"; did you mean {parent / near[0]}?" if near else f"; folders in {parent}: {', '.join(names[:8]) or 'none'}"
