"""Special tokens that a tokenizer was not made with, written into its files; everything else in them stays as it is."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from tokenizers import AddedToken

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.models.config import CONFIG_NAME
from paddle_sft.models.tokenizers import copy_tokenizer, load_tokenizer
from paddle_sft.models.tokenizing.folder import ADDED, CONFIG, SPECIAL, TOKENIZER, read_json
from paddle_sft.models.tokenizing.tokenizer import TextTokenizer

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_UNNAMED = "additional_special_tokens"


@dataclass(frozen=True)
class NewTokens:
    """Which tokens a tokenizer got."""

    ids: Dict[str, int]
    """The new ones, behind all that were there."""
    there: Tuple[str, ...] = ()
    """Those that were special tokens already, and stay as they are."""

    @property
    def first(self) -> int:
        return min(self.ids.values())

    @property
    def end(self) -> int:
        return max(self.ids.values()) + 1


def add_special_tokens(source: Path, target: Path, tokens: Sequence[str]) -> NewTokens:
    """Copy a tokenizer's files to the folder `target` with further special tokens.

    Ids are those that transformers' `add_special_tokens` would give: the next ones behind all tokens that are there.
    transformers, PaddleNLP and this suite read the folder.

    Raises:
        ArgumentError: an empty token, one that is given twice, or one that is an ordinary token already.
        ModelError: a tokenizer that this can't be done with.
    """
    _require_texts(tokens)
    tokenizer = load_tokenizer(source)
    if not isinstance(tokenizer, TextTokenizer):
        raise ModelError(
            f"{source}: new_special_tokens needs a tokenizer that the tokenizers library reads, and this is "
            f"PaddleNLP's {type(tokenizer).__name__}; give a folder with tokenizer.json as tokenizer_name_or_path"
        )
    wanted, there = _sort_out(tokens, tokenizer)
    listed = {index: _entry(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    size = tokenizer.vocab_size
    tokenizer.pipeline.add_special_tokens([AddedToken(token, **_FLAGS) for token in wanted])
    found = NewTokens({token: tokenizer.pipeline.token_to_id(token) for token in wanted}, there)
    target.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(source, target)
    if (Path(source) / CONFIG_NAME).is_file() and not (target / CONFIG_NAME).is_file():
        shutil.copyfile(Path(source) / CONFIG_NAME, target / CONFIG_NAME)  # may say which kind of tokenizer it is
    if found.ids:
        listed.update({index: {"content": token, **_FLAGS} for token, index in found.ids.items()})
        _write_lists(target, found.ids, {index: entry for index, entry in listed.items() if index >= size})
        _write_config(target, found.ids, listed, tokenizer)
        _require_read_alike(target, found.ids)
    return found


def _require_texts(tokens: Sequence[str]) -> None:
    for token in tokens:
        if not token.strip():
            raise ArgumentError("new_special_tokens holds an empty token; remove it")
        if token != token.strip():
            raise ArgumentError(f"new_special_tokens holds {token!r}, with white space at an end; remove it")
        if list(tokens).count(token) > 1:
            raise ArgumentError(f"new_special_tokens holds {token!r} twice; keep one")


def _sort_out(tokens: Sequence[str], tokenizer: TextTokenizer) -> Tuple[List[str], Tuple[str, ...]]:
    """(those that are new, those that are special tokens already)."""
    vocabulary = tokenizer.get_vocab()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in tokens:
        if token in vocabulary and token not in special:
            raise ArgumentError(
                f"new_special_tokens holds {token!r}, which is token {vocabulary[token]} of the vocabulary already and "
                "stands in ordinary texts; choose another text, such as one in <| |>"
            )
    return [token for token in tokens if token not in special], tuple(token for token in tokens if token in special)


def _entry(token: Any) -> Dict[str, Any]:
    return {"content": token.content, **{flag: getattr(token, flag) for flag in _FLAGS}}


def _write_lists(folder: Path, ids: Dict[str, int], behind: Dict[int, dict]) -> None:
    """Into the files beside tokenizer_config.json. `behind`: all added tokens behind the vocabulary."""
    if (folder / TOKENIZER).is_file():
        _write_tokenizer_json(folder / TOKENIZER, behind)
    else:
        _write_json(folder / ADDED, {**read_json(folder / ADDED), **ids})  # what PaddleNLP's own classes read
    if (folder / SPECIAL).is_file():
        content = read_json(folder / SPECIAL)
        _write_json(folder / SPECIAL, {**content, _UNNAMED: [*(content.get(_UNNAMED) or ()), *ids]})


def _write_config(folder: Path, ids: Dict[str, int], listed: Dict[int, dict], tokenizer: TextTokenizer) -> None:
    """Into tokenizer_config.json, which from now on lists all added tokens, the new ones last: ids are given in that
    order. Where it lists any, no other file counts, so the special tokens that were told elsewhere are named, too."""
    config = read_json(folder / CONFIG)
    named = tokenizer.special_tokens_map
    if "added_tokens_decoder" not in config:
        config.update({key: token for key, token in named.items() if config.get(key) is None})
    there = config.get("added_tokens_decoder", {})
    config["added_tokens_decoder"] = {str(index): there.get(str(index), entry) for index, entry in listed.items()}
    unnamed = [token for token in tokenizer.all_special_tokens if token not in named.values()]
    lists = [key for key in (_UNNAMED, "extra_special_tokens") if isinstance(config.get(key), list) and config[key]]
    for key in lists or [_UNNAMED]:
        config[key] = [*(config[key] if lists else unnamed), *ids]
    _write_json(folder / CONFIG, config)


def _write_tokenizer_json(path: Path, listed: Dict[int, dict]) -> None:
    """Into the text itself: written anew, megabytes of other content might not be what they were, byte for byte."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r'"added_tokens"\s*:\s*(?=\[)', text):
        entries, end = json.JSONDecoder().raw_decode(text, match.end())
        there = {entry["id"] for entry in entries}
        new = [{"id": index, **entry} for index, entry in listed.items() if index not in there]
        added = ",".join("\n    " + json.dumps(entry, ensure_ascii=False) for entry in new)
        before, comma = text[: end - 1].rstrip(), "," if entries else ""
        path.write_text(f"{before}{comma}{added}\n  {text[end - 1 :]}", encoding="utf-8")
        return
    raise ModelError(f"{path} has no list added_tokens; save the tokenizer with a recent release of transformers")


def _write_json(path: Path, content: Dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _require_read_alike(folder: Path, ids: Dict[str, int]) -> None:
    tokenizer = load_tokenizer(folder)
    for token, index in ids.items():
        found = tokenizer(f"a{token}b", add_special_tokens=False)["input_ids"]
        is_found = index in found or tokenizer.pipeline.encode_special_tokens  # the folder asks for texts without them
        if tokenizer.convert_tokens_to_ids(token) != index or not is_found:
            raise ModelError(
                f"{folder}: {token!r} can't be added to this tokenizer: written as token {index}, read as {found}"
            )
