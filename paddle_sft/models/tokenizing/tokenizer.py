"""The tokenizer that the suite works with: a pipeline of the `tokenizers` library and the names of its tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

from tokenizers import AddedToken, Encoding, Tokenizer

from paddle_sft.core.errors import ModelError
from paddle_sft.models.tokenizing.folder import AS_WRITTEN, CONFIG, TOKENIZER, TokenizerFolder
from paddle_sft.models.tokenizing.pipelines import build_pipeline
from paddle_sft.models.tokenizing.special import add_special, read_special, require_listed_ids, set_ends

Ids = List[int]
Span = Tuple[int, int]

_CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class TextTokenizer:
    """Texts to ids and back, exactly as transformers 5 does it with the same files.

    Can be pickled and forked. A list of texts is encoded on all processors (TOKENIZERS_PARALLELISM=false: on one).
    """

    def __init__(
        self, pipeline: Tokenizer, named: Mapping[str, str], extra: Sequence[str] = (), notes: Sequence[str] = ()
    ) -> None:
        self.pipeline = pipeline
        self.special_tokens_map = dict(named)
        """bos_token, eos_token, ...: the texts of the named special tokens, as chat templates see them."""
        self.all_special_tokens = list(dict.fromkeys([*named.values(), *extra]))
        self.notes = tuple(notes)
        """What a user should know about how the folder's files were read."""
        self.clean_up_tokenization_spaces = False

    def __call__(
        self, text: Union[str, Sequence[str]], add_special_tokens: bool = True
    ) -> Dict[str, Union[Ids, List[Ids]]]:
        """{"input_ids": the ids of a text, or a list of ids for each of a list of texts}."""
        if isinstance(text, str):
            return {"input_ids": self.pipeline.encode(text, add_special_tokens=add_special_tokens).ids}
        found = self.pipeline.encode_batch_fast(list(text), add_special_tokens=add_special_tokens)
        return {"input_ids": [one.ids for one in found]}

    def encode_pieces(self, texts: Sequence[Sequence[str]]) -> List[Tuple[Ids, List[Span]]]:
        """Of every text, given in pieces: the ids of the whole without special tokens put around it, and the tokens
        [start, end) of each piece. A token that holds characters of two pieces is counted to both."""
        found = self.pipeline.encode_batch(["".join(pieces) for pieces in texts], add_special_tokens=False)
        return [(one.ids, _spans(one, pieces)) for one, pieces in zip(found, texts)]

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: Optional[bool] = None
    ) -> str:
        """The text of ids. Spaces before punctuation are taken out where the folder (or the caller) asks for it, but
        never from BPE's pieces, where they are part of the text."""
        text = self.pipeline.decode([int(number) for number in ids], skip_special_tokens=skip_special_tokens)
        cleans_up = clean_up_tokenization_spaces
        cleans_up = self.clean_up_tokenization_spaces if cleans_up is None else cleans_up
        if cleans_up and type(self.pipeline.model).__name__ != "BPE":
            for spaced, joined in _CLEAN_UP:
                text = text.replace(spaced, joined)
        return text

    def convert_tokens_to_ids(self, tokens: Union[str, Sequence[str]]) -> Union[None, int, List[Optional[int]]]:
        """The id of a token, or a list of them; unk's where there is no such token."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        number = self.pipeline.token_to_id(tokens)
        return self.unk_token_id if number is None else number

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> List[Optional[str]]:
        return [self.pipeline.id_to_token(int(number)) for number in ids]

    def get_vocab(self) -> Dict[str, int]:
        """Token -> id, with added tokens."""
        return self.pipeline.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        """How many tokens there are, with added tokens."""
        return self.pipeline.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, without added tokens."""
        return self.pipeline.get_vocab_size(with_added_tokens=False)

    @property
    def added_tokens_decoder(self) -> Dict[int, AddedToken]:
        """id -> token that is found in a text before it is split, special or not."""
        return self.pipeline.get_added_tokens_decoder()

    def save(self, path: Path) -> None:
        """Write the pipeline as a tokenizer.json."""
        self.pipeline.save(str(path))

    @property
    def bos_token(self) -> Optional[str]:
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> Optional[str]:
        return self.special_tokens_map.get("eos_token")

    @property
    def pad_token(self) -> Optional[str]:
        return self.special_tokens_map.get("pad_token")

    @property
    def unk_token(self) -> Optional[str]:
        return self.special_tokens_map.get("unk_token")

    @property
    def bos_token_id(self) -> Optional[int]:
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> Optional[int]:
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> Optional[int]:
        return self._id(self.pad_token)

    @property
    def unk_token_id(self) -> Optional[int]:
        return self._id(self.unk_token)

    def _id(self, token: Optional[str]) -> Optional[int]:
        return None if token is None else self.pipeline.token_to_id(token)


def _spans(encoding: Encoding, pieces: Sequence[str]) -> List[Span]:
    size, cut = sum(map(len, pieces)), 0
    edges = [(0, 0)]  # at each cut: the first token that reaches over it, the first that is wholly behind it
    for piece in pieces:
        cut += len(piece)
        edges.append(_edge(encoding, cut, size))
    return [(start, end) for (start, _), (_, end) in zip(edges, edges[1:])]


def _edge(encoding: Encoding, cut: int, size: int) -> Span:
    holders = (encoding.char_to_token(position) for position in range(cut, size))  # a dropped character has no token
    first = behind = next((token for token in holders if token is not None), len(encoding)) if cut else 0
    while behind < len(encoding) and encoding.token_to_chars(behind)[0] < cut:
        behind += 1
    return first, behind


_PARALLELISM = "TOKENIZERS_PARALLELISM"
_before_fork: List[Optional[str]] = []


def _use_one_processor() -> None:
    """Just before a fork. A forked process has its parent's share of the work and none of its threads: the library
    warns about that in every child, and with threads of their own the children would outnumber the processors."""
    _before_fork.append(os.environ.get(_PARALLELISM))
    os.environ.setdefault(_PARALLELISM, "false")


def _use_all_again() -> None:
    """Just after a fork, in the parent."""
    if _before_fork.pop() is None:
        del os.environ[_PARALLELISM]


os.register_at_fork(before=_use_one_processor, after_in_parent=_use_all_again)


def build_tokenizer(folder: TokenizerFolder) -> TextTokenizer:
    """The tokenizer that a folder's files say.

    Raises:
        ModelError: files that are missing, damaged, or contradict each other.
    """
    try:
        return _build(folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder.path}: a value in {CONFIG} or another tokenizer file is of no kind that has a meaning there "
            f"({type(error).__name__}: {str(error)[:200]}); copy the files again from where the model is published"
        ) from error


def _build(folder: TokenizerFolder) -> TextTokenizer:
    made = build_pipeline(folder)
    pipeline = made.tokenizer
    pipeline.no_truncation()
    pipeline.no_padding()
    pipeline.encode_special_tokens = bool(folder.config.get("split_special_tokens", False))
    special = read_special(folder, made)
    add_special(pipeline, special, made.readds_special)
    if folder.class_name != AS_WRITTEN or not folder.tokenizer:
        require_listed_ids(pipeline, folder, special)
    set_ends(pipeline, folder, special)
    named = {key: str(token) for key, token in special.named.items()}
    tokenizer = TextTokenizer(pipeline, named, [str(token) for token in special.extra], made.notes)
    tokenizer.clean_up_tokenization_spaces = bool(folder.config.get("clean_up_tokenization_spaces", False))
    _require_no_regex_to_mend(folder, len(tokenizer))
    return tokenizer


def _require_no_regex_to_mend(folder: TokenizerFolder, size: int) -> None:
    """transformers 5 replaces the pre-tokeniser of large Mistral vocabularies when it is asked to."""
    version = str(folder.model_config.get("transformers_version", "0")).split(".")[0]
    is_mistral = folder.model_config.get("model_type") in (None, "mistral", "mistral3", "ministral", "pixtral")
    if folder.config.get("fix_mistral_regex") and size > 100_000 and is_mistral and int(version) < 5:
        raise ModelError(
            f"{folder.path}: fix_mistral_regex is true, which changes {TOKENIZER} while it is loaded; save the "
            f"tokenizer with transformers 5, which writes it changed, and take the key out of {CONFIG}"
        )
