"""Special and added tokens of a folder, put into a pipeline in the order in which transformers 5 adds them.

The order decides the ids of tokens that the vocabulary doesn't have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from tokenizers import AddedToken, Tokenizer, processors

from paddle_sft.core.errors import ModelError
from paddle_sft.models.tokenizing.folder import ADDED, SPECIAL, TokenizerFolder, read_json
from paddle_sft.models.tokenizing.pipelines import Pipeline

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Token = Union[str, AddedToken]
"""A text, or a text with how it matches: lstrip, rstrip, single_word, normalized."""


@dataclass(frozen=True)
class SpecialTokens:
    """What a folder's files say; a named token that is null is not in `named`."""

    named: Dict[str, Token]
    """The seven of NAMED first, then those of this model, <image> say."""
    extra: Tuple[Token, ...]
    added: Dict[int, AddedToken]
    """id -> token, as the files list them."""


def read_special(folder: TokenizerFolder, pipeline: Pipeline) -> SpecialTokens:
    """The special tokens of the files. Where tokenizer_config.json lists added tokens, the older files don't count.

    Raises:
        ModelError: a token that is neither a text nor an object with a text.
    """
    config = folder.config
    found = {key: value for key, value in config.items() if key.endswith("_token")}
    extra = _extra(config)
    fallback = [AddedToken(text, normalized=False, special=is_special) for text, is_special in pipeline.pieces]
    if "added_tokens_decoder" in config:
        added = {int(number): _token(token, folder) for number, token in config["added_tokens_decoder"].items()}
    else:
        older = read_json(folder.path / SPECIAL)
        found.update({key: value for key, value in older.items() if key.endswith("_token")})
        fallback = fallback or _joined(None, older.get("additional_special_tokens")) or []
        extra = _joined(extra, older.get("extra_special_tokens"))
        unnamed = () if isinstance(extra, Mapping) else extra or ()
        added = _older_added(folder, [*(found.get(key) for key in NAMED), *unnamed])
    own, listed = (extra, ()) if isinstance(extra, Mapping) else ({}, fallback if extra is None else extra)
    own = {**_of_this_model(found), **(config.get("model_specific_special_tokens") or {}), **own}
    named = {key: _token(found.get(key, pipeline.defaults.get(key)), folder) for key in NAMED}
    named.update({key: _token(value, folder) for key, value in own.items()})
    return SpecialTokens(
        {key: token for key, token in named.items() if token is not None},
        tuple(_token(token, folder) for token in listed),
        dict(sorted(added.items())),
    )


def add_special(tokenizer: Tokenizer, special: SpecialTokens, readds: bool) -> None:
    """Make the tokens tokens of `tokenizer`; those that its vocabulary lacks get the next free ids."""
    tokens: List[Token] = list(special.added.values())
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | set(map(str, tokens))
    for token in (*special.named.values(), *special.extra):
        if str(token) not in there and token not in tokens:
            tokens.append(token)
    named = {str(token) for token in special.named.values()}
    tokens = [AddedToken(token, special=True) if isinstance(token, str) else token for token in tokens]
    for token in tokens:
        token.special = token.special or str(token) in named
    tokenizer.add_tokens(tokens)
    if readds:
        names = dict.fromkeys(map(str, (*special.named.values(), *special.extra)))
        tokenizer.add_tokens([AddedToken(name, special=True) for name in names])


def require_listed_ids(tokenizer: Tokenizer, folder: TokenizerFolder, special: SpecialTokens) -> None:
    """
    Raises:
        ModelError: an added token has another id than the files list, because ids are given in order and there is a
            gap, or because one file lists it and another doesn't. The checkpoint's embedding is at the listed id.
    """
    listed = {str(token): number for number, token in special.added.items()}
    for token in folder.tokenizer.get("added_tokens") or ():
        listed.setdefault(token["content"], token["id"])
    for text, number in listed.items():
        found = tokenizer.token_to_id(text)
        if found != number:
            raise ModelError(
                f"{folder.path}: the files list {text!r} as token {number}, and the vocabulary makes it "
                f"{'no token' if found is None else f'token {found}'}; copy all tokenizer files again from where the "
                "model is published, tokenizer.json among them"
            )


def set_ends(tokenizer: Tokenizer, folder: TokenizerFolder, special: SpecialTokens) -> None:
    """Have the begin and end tokens put around a text where add_bos_token and add_eos_token say so.

    The post-processor of a tokenizer.json goes before these two keys.
    """
    given = {key: folder.config[key] for key in ("add_bos_token", "add_eos_token") if key in folder.config}
    given = {} if folder.tokenizer else given
    if folder.begins_unsaid:
        given["add_bos_token"] = True
    if tokenizer.post_processor is not None and not given:
        return
    begin = str(special.named["bos_token"]) if given.get("add_bos_token") and "bos_token" in special.named else None
    end = str(special.named["eos_token"]) if given.get("add_eos_token") and "eos_token" in special.named else None
    single = [*([begin] if begin else []), "$A", *([end] if end else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(text, tokenizer.token_to_id(text)) for text in (begin, end) if text]
    )


def _extra(config: Mapping[str, Any]) -> Union[None, List[Any], Mapping[str, Any]]:
    """Special tokens without a name; None where the config has no key for them."""
    keys = ("extra_special_tokens", "additional_special_tokens")
    if not any(key in config for key in keys):
        return None
    return config.get(keys[0]) or config.get(keys[1]) or []


def _joined(extra: Any, older: Any) -> Any:
    """Those of tokenizer_config.json and of special_tokens_map.json; a mapping of names goes alone."""
    if older is None or isinstance(extra, Mapping):
        return extra
    if isinstance(older, Mapping):
        return older
    return [*(extra or ()), *({**token, "special": True} if isinstance(token, dict) else token for token in older)]


def _of_this_model(found: Mapping[str, Any]) -> Dict[str, Any]:
    """Named tokens beyond NAMED; those with flags first, as transformers puts them."""
    own = {
        key: value for key, value in found.items() if key not in NAMED and isinstance(value, (str, dict, AddedToken))
    }
    return dict(sorted(own.items(), key=lambda item: isinstance(item[1], str)))


def _older_added(folder: TokenizerFolder, special: List[Any]) -> Dict[int, AddedToken]:
    """Added tokens of added_tokens.json and tokenizer.json."""
    names = {str(_token(token, folder)) for token in special if token}
    found = {
        int(number): AddedToken(text, normalized=text not in names, special=text in names)
        for text, number in read_json(folder.path / ADDED).items()
    }
    for token in folder.tokenizer.get("added_tokens") or ():
        found[int(token["id"])] = _token(token, folder)
    return found


def _token(value: Any, folder: TokenizerFolder) -> Optional[Token]:
    """A token as the files write it: a text, an object with `content` and flags, or null."""
    if value is None or isinstance(value, (str, AddedToken)):
        return value
    try:
        flags = {
            key: bool(value[key])
            for key in ("lstrip", "rstrip", "single_word", "normalized", "special")
            if key in value
        }
        return AddedToken(str(value["content"]), **flags)
    except (TypeError, KeyError):
        raise ModelError(
            f"{folder.path}: {value!r} stands for a special token; allowed is its text, or an object with content"
        ) from None
