"""What transformers' AutoTokenizer makes of texts, and how it writes a tokenizer's folder."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from transformers import AutoTokenizer


def tokenized(folder: str, lines: List[str]) -> Dict[str, Any]:
    """Ids and offsets of each line without special tokens, ids with them, the texts of these (as they are, without
    special tokens, cleaned up), the text and the name of every token alone, and the special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = tokenizer(lines, add_special_tokens=False, return_offsets_mapping=True)
    ids = tokenizer(lines)["input_ids"]
    every = list(range(len(tokenizer)))
    named = tokenizer.special_tokens_map
    return {
        "plain": plain["input_ids"],
        "offsets": plain["offset_mapping"],
        "ids": ids,
        "kept": [tokenizer.decode(one) for one in ids],
        "skipped": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "cleaned": [tokenizer.decode(one, clean_up_tokenization_spaces=True) for one in ids],
        "alone": [tokenizer.decode([number]) for number in every],
        "tokens": tokenizer.convert_ids_to_tokens(every),
        "named": named,
        "named_ids": {name: tokenizer.convert_tokens_to_ids(text) for name, text in named.items()},
        "special": tokenizer.all_special_tokens,
        "vocab_size": tokenizer.vocab_size,
    }


def with_new_tokens(folder: str, extended: str, tokens: List[str], lines: List[str]) -> Dict[str, Any]:
    """Ids of lines by the folder's tokenizer after transformers added special tokens to it, and by a folder that has
    them; of both also the texts without special tokens, and the new tokens' ids."""
    added = AutoTokenizer.from_pretrained(folder)
    added.add_special_tokens({"additional_special_tokens": tokens}, replace_extra_special_tokens=False)
    found = {}
    for name, tokenizer in (("added", added), ("read", AutoTokenizer.from_pretrained(extended))):
        ids = tokenizer(lines)["input_ids"]
        skipped = [tokenizer.decode(one, skip_special_tokens=True) for one in ids]
        found[name] = {"ids": ids, "skipped": skipped, "new": tokenizer.convert_tokens_to_ids(tokens)}
    return found


def write_again(folder: str, target: str) -> None:
    """The folder's tokenizer as transformers 5 saves it."""
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)


def tokenizer_classes(model_types: List[str]) -> Dict[str, List[Any]]:
    """model type -> the tokenizer class that transformers registers for it, and whether it goes over the named one."""
    from transformers.models.auto import tokenization_auto as auto

    def registered(model_type: str) -> Optional[str]:
        return auto.TOKENIZER_MAPPING_NAMES.get(model_type)

    over = auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    return {model_type: [registered(model_type), model_type in over] for model_type in model_types}
