"""Tiny tokenizer folders with the files, keys and pipelines that the published models of each family have.

Vocabularies are trained on the spot; everything else is written as the families' own folders write it.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.parity.mixed_lines import training_lines

_SPACE = "\u2581"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

Content = Dict[str, Any]


def token(content: str, **flags: bool) -> Content:
    """An added token as tokenizer_config.json lists it."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **plain, **flags}


def typed(content: str, **flags: bool) -> Content:
    """A special token as older tokenizer_config.json files write it in place."""
    written = {"__type": "AddedToken", **token(content, normalized=True), **flags}
    written.pop("special")
    return written


# ---- vocabularies ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=None)
def sentencepiece_model(user_defined: Tuple[str, ...] = (), pad_first: bool = False) -> bytes:
    """A BPE model over pieces and bytes. Gemma's has <pad>, <eos>, <bos>, <unk> in front, and puts no space."""
    import sentencepiece

    ids = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3) if pad_first else dict(pad_id=-1)
    names = dict(pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>") if pad_first else {}
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line.replace("\n", " ") for line in training_lines()), model_writer=made, vocab_size=900,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, hard_vocab_limit=False, num_threads=1, minloglevel=2,
        user_defined_symbols=list(user_defined), character_coverage=0.98, add_dummy_prefix=not pad_first,
        **ids, **names,
    )  # fmt: skip
    return made.getvalue()


@lru_cache(maxsize=None)
def pieces_and_merges(model: bytes) -> Tuple[Tuple[str, ...], Tuple[Tuple[str, str], ...]]:
    """Pieces in the order of their ids, and merges in the order of the pieces they make."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = tuple(processor.id_to_piece(number) for number in range(len(processor)))
    merges = []
    for piece in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [pair for pair in halves if pair[0] in pieces and pair[1] in pieces]
    return pieces, tuple(merges)


@lru_cache(maxsize=None)
def byte_level(words: str) -> str:
    """tokenizer.json (as text) of byte-level BPE inside `words`, GPT-2's where that is ''.

    Merges are learnt across the borders of words, so that every border shows in the ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(training_lines(), trainer)
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words)
    split = [pre_tokenizers.Split(Regex(words), behavior="isolated"), last]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split) if words else last
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


# ---- files ----------------------------------------------------------------------------------------------------------


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_config(folder: Path, model_type: str, settings: Content, **changes: Any) -> None:
    """tokenizer_config.json, and config.json where there is a model type. A change to ... takes a key away."""
    content = {key: value for key, value in {**settings, **changes}.items() if value is not ...}
    write(folder / "tokenizer_config.json", content)
    if model_type:
        write(folder / "config.json", {"model_type": model_type})


def write_vocabulary(folder: Path, words: str) -> int:
    """vocab.json and merges.txt; returns how many tokens there are."""
    tokenizer = Tokenizer.from_str(byte_level(words))
    tokenizer.model.save(str(folder))
    return tokenizer.get_vocab_size()


def listed(tokens: List[Content], start: int) -> Dict[str, Content]:
    """added_tokens_decoder of tokens whose ids follow each other."""
    return {str(number): one for number, one in enumerate(tokens, start=start)}


def add(tokenizer: Tokenizer, tokens: List[Content]) -> None:
    tokenizer.add_tokens([AddedToken(**one) for one in tokens])


# ---- sentencepiece families -----------------------------------------------------------------------------------------

_LLAMA_CONFIG: Content = {
    "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": typed("<s>"),
    "eos_token": typed("</s>"), "unk_token": typed("<unk>"), "pad_token": None, "sp_model_kwargs": {},
    "clean_up_tokenization_spaces": False, "model_max_length": 2048,
}  # fmt: skip


def llama_model(folder: Path, model_type: str = "", name: str = "tokenizer.model", **changes: Any) -> None:
    """tokenizer.model alone."""
    (folder / name).write_bytes(sentencepiece_model())
    write_config(folder, model_type, _LLAMA_CONFIG, **changes)


def llama_file(folder: Path, model_type: str = "", added: Tuple[Content, ...] = (), **changes: Any) -> None:
    """tokenizer.json as llama 2, mistral, mixtral and phi 3 have it: spaces are written by a normaliser."""
    model = sentencepiece_model()
    pieces, merges = pieces_and_merges(model)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    bpe = models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    own = [token("<unk>"), token("<s>"), token("</s>"), *added]
    add(tokenizer, own)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer.model").write_bytes(model)
    numbers = {one["content"]: tokenizer.token_to_id(one["content"]) for one in own}
    decoder = {str(numbers[one["content"]]): one for one in own}
    plain = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "added_tokens_decoder": decoder}
    write_config(folder, model_type, {**_LLAMA_CONFIG, **plain}, **changes)


_GEMMA_TURNS = ("<mask>", "<start_of_turn>", "<end_of_turn>", "\n\n", "\n\n\n", _SPACE * 2, _SPACE * 3, "<div>")
_GEMMA_CONFIG: Content = {
    "tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
    "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "clean_up_tokenization_spaces": False,
    "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
}  # fmt: skip


def gemma_sentencepiece() -> bytes:
    return sentencepiece_model(_GEMMA_TURNS, True)


def gemma_model(folder: Path, model_type: str = "", **changes: Any) -> None:
    (folder / "tokenizer.model").write_bytes(gemma_sentencepiece())
    write_config(folder, model_type, _GEMMA_CONFIG, **changes)


def gemma_file(folder: Path, model_type: str = "", **changes: Any) -> None:
    """tokenizer.json of gemma 2: runs of spaces and lines are added tokens that are not special."""
    pieces, merges = pieces_and_merges(gemma_sentencepiece())
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    special = ("<pad>", "<eos>", "<bos>", "<unk>")
    own = [token(text) for text in special]
    own += [token(text, special=text.startswith(("<m", "<s", "<e"))) for text in _GEMMA_TURNS]
    add(tokenizer, own)
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {str(vocabulary[one["content"]]): one for one in own}
    write_config(folder, model_type, {**_GEMMA_CONFIG, "added_tokens_decoder": decoder}, **changes)


# ---- byte-level families --------------------------------------------------------------------------------------------

_END = "<|endoftext|>"


def gpt2_files(folder: Path, model_type: str = "gpt2", **changes: Any) -> None:
    """vocab.json with <|endoftext|> as its last entry, merges.txt, and next to nothing else."""
    size = write_vocabulary(folder, "")
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    write(folder / "vocab.json", {**vocabulary, _END: size})
    write_config(folder, model_type, {"model_max_length": 1024}, **changes)


def opt_files(folder: Path, model_type: str = "opt", **changes: Any) -> None:
    """The begin token is </s>, and is put before every text; the flags stand in special_tokens_map.json, too."""
    write_vocabulary(folder, "")
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    moved = {text: number + 4 for text, number in vocabulary.items()}
    write(folder / "vocab.json", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **moved})
    named = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    older = {key: token(text, normalized=True) for key, text in named.items()}
    for one in older.values():
        one.pop("special")
    write(folder / "special_tokens_map.json", {**older, "pad_token": "<pad>"})
    settings = {
        "errors": "replace", "add_prefix_space": False, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer",
        **{key: typed(text) for key, text in named.items()},
    }  # fmt: skip
    write_config(folder, model_type, settings, **changes)


_QWEN_TOKENS = [token(_END), token("<|im_start|>"), token("<|im_end|>")]
_QWEN3_TOKENS = [token(text, special=False) for text in ("<tool_call>", "</tool_call>", "<think>", "</think>")]


def qwen2_config(start: int, added: List[Content]) -> Content:
    return {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": _END, "unk_token": None, "errors": "replace", "split_special_tokens": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": listed(added, start),
    }  # fmt: skip


def qwen2_files(folder: Path, model_type: str = "qwen2", **changes: Any) -> None:
    size = write_vocabulary(folder, _QWEN2)
    write_config(folder, model_type, qwen2_config(size, _QWEN_TOKENS), **changes)


def qwen2_file(folder: Path, model_type: str = "qwen2", added: Tuple[Content, ...] = (), **changes: Any) -> None:
    """tokenizer.json (and vocab.json, merges.txt) as qwen 2 to 3 have it."""
    size = write_vocabulary(folder, _QWEN2)
    tokenizer = Tokenizer.from_str(byte_level(_QWEN2))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    add(tokenizer, [*_QWEN_TOKENS, *added])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_config(folder, model_type, qwen2_config(size, [*_QWEN_TOKENS, *added]), **changes)


def llama3_file(folder: Path, model_type: str = "llama", **changes: Any) -> None:
    """tokenizer.json alone: digits in threes, words before merges, a begin token behind ByteLevel."""
    written = json.loads(byte_level(_LLAMA3))
    written["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(written))
    own = [token(text) for text in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")]
    start = tokenizer.get_vocab_size()
    add(tokenizer, own)
    begin = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", start)],
    )  # fmt: skip
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        "clean_up_tokenization_spaces": True, "added_tokens_decoder": listed(own, start),
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    write_config(folder, model_type, settings, **changes)


def bloom_file(folder: Path, model_type: str = "bloom", keep: bool = True, **changes: Any) -> None:
    """tokenizer.json alone, special tokens in front of the vocabulary; or vocab.json and merges.txt alone."""
    written = json.loads(byte_level(_BLOOM))
    own = ["<unk>", "<s>", "</s>", "<pad>"]
    moved = {text: number + len(own) for text, number in written["model"]["vocab"].items()}
    written["model"]["vocab"] = {**{text: number for number, text in enumerate(own)}, **moved}
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False)
    add(tokenizer, [token(text) for text in own])
    tokenizer.save(str(folder / "tokenizer.json")) if keep else tokenizer.model.save(str(folder))
    settings = {
        "tokenizer_class": "BloomTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<pad>", "add_prefix_space": False, "padding_side": "left",
    }  # fmt: skip
    write_config(folder, model_type, settings, **changes)


# ---- all of them ----------------------------------------------------------------------------------------------------

_PHI3_TOKENS = tuple(token(text, rstrip=True) for text in ("<|end|>", "<|assistant|>", "<|user|>"))
FLAGS = (
    token("<left>", lstrip=True), token("<right>", rstrip=True), token("<both>", lstrip=True, rstrip=True),
    token("word", single_word=True, special=False), token("<É>", normalized=True, special=False),
    token("riverbank", normalized=True, special=False, lstrip=True),
)  # fmt: skip
"""Added tokens with every flag, special and not."""


def older_files(folder: Path) -> None:
    """qwen2 as transformers before 4.34 wrote it: added_tokens.json and special_tokens_map.json."""
    qwen2_files(folder, added_tokens_decoder=..., additional_special_tokens=..., eos_token=..., pad_token=...)
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    texts = [_END, "<|im_start|>", "<|im_end|>", "<tool_call>", "<É>"]
    write(folder / "added_tokens.json", {text: size + number for number, text in enumerate(texts)})
    special = {"eos_token": token("<|im_end|>", lstrip=True), "pad_token": _END}
    special["eos_token"].pop("special")
    write(folder / "special_tokens_map.json", {**special, "additional_special_tokens": ["<|im_start|>"]})


def older_extra(folder: Path) -> None:
    """Special tokens without a name in both files, none of them in the vocabulary."""
    gpt2_files(folder, extra_special_tokens=["<image>"])
    flags = {"content": "<left>", "lstrip": True}
    write(folder / "special_tokens_map.json", {"extra_special_tokens": ["<both>", flags]})


def padded(folder: Path, write_file: Callable[..., None], **changes: Any) -> None:
    """A tokenizer.json that was saved while it cut and filled up what it was given."""
    write_file(folder, **changes)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=3, pad_token="<fill>", length=16)
    tokenizer.save(str(folder / "tokenizer.json"))


Maker = Callable[[Path], None]

FOLDERS: Dict[str, Maker] = {
    "llama tokenizer.model": llama_model,
    "llama tokenizer.model, legacy": partial(llama_model, model_type="llama", legacy=True),
    "llama tokenizer.model, legacy false, end token": partial(llama_model, legacy=False, add_eos_token=True),
    "llama tokenizer.model, no prefix space": partial(llama_model, model_type="llama", add_prefix_space=False),
    "llama tokenizer.model, no ends said": partial(
        llama_model, add_bos_token=..., add_eos_token=..., bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ),
    "llama tokenizer.model in a qwen3 model": partial(llama_model, model_type="qwen3", legacy=False),
    "llama tokenizer.model, added tokens": partial(
        llama_model,
        legacy=True,
        added_tokens_decoder=listed([token("<unk>"), token("<s>"), token("</s>")], 0) | listed(list(FLAGS), 900),
    ),
    "llama tokenizer.json": partial(llama_file, model_type="llama", legacy=False),
    "llama tokenizer.json, legacy": partial(llama_file, model_type="llama", legacy=True),
    "llama tokenizer.json, added tokens": partial(llama_file, added=FLAGS, legacy=False),
    "mistral tokenizer.json": partial(llama_file, model_type="mistral", legacy=True),
    "mixtral tokenizer.json": partial(llama_file, model_type="mixtral", legacy=False),
    "phi3 tokenizer.json": partial(llama_file, model_type="phi3", added=_PHI3_TOKENS, eos_token="<|end|>"),
    "gemma tokenizer.model": partial(gemma_model, model_type="gemma"),
    "gemma tokenizer.model, no list": partial(gemma_model, additional_special_tokens=...),
    "gemma tokenizer.json": partial(gemma_file, model_type="gemma"),
    "gemma2 tokenizer.json": partial(gemma_file, model_type="gemma2", tokenizer_class="GemmaTokenizerFast"),
    "gpt2 vocab.json": gpt2_files,
    "gpt2 vocab.json, prefix space": partial(gpt2_files, add_prefix_space=True, tokenizer_class="GPT2Tokenizer"),
    "opt vocab.json": opt_files,
    "qwen2 vocab.json": qwen2_files,
    "qwen2 vocab.json, older files": older_files,
    "gpt2 vocab.json, older extra": older_extra,
    "qwen2 tokenizer.json, named tokens": partial(
        qwen2_file,
        image_token="<image>",
        left_token=typed("<left>", lstrip=True),
        sep_token="<both>",
        extra_special_tokens={"video_token": "<right>"},
        additional_special_tokens=...,
    ),
    "qwen2 tokenizer.json": qwen2_file,
    "qwen2_moe tokenizer.json": partial(qwen2_file, model_type="qwen2_moe"),
    "qwen3 tokenizer.json": partial(qwen2_file, model_type="qwen3", added=tuple(_QWEN3_TOKENS)),
    "qwen3 tokenizer.json, added tokens": partial(qwen2_file, model_type="qwen3", added=FLAGS, image_token="<image>"),
    "qwen2 tokenizer.json, split special": partial(qwen2_file, split_special_tokens=True),
    "llama3 tokenizer.json": llama3_file,
    "deepseek tokenizer.json": partial(llama3_file, tokenizer_class="LlamaTokenizerFast"),
    "bloom tokenizer.json": bloom_file,
    "bloom tokenizer.json, padded": partial(padded, write_file=bloom_file, pad_token=...),
    "llama tokenizer.json, padded": partial(padded, write_file=llama_file, pad_token=...),
    "gpt2 tokenizer.json, padded": partial(
        padded, write_file=qwen2_file, pad_token=..., tokenizer_class="GPT2Tokenizer"
    ),
    "tokenizer.json alone": partial(bloom_file, model_type="", tokenizer_class=..., pad_token=None),
}
"""What the files are -> how to write them into an empty folder."""


def make_folder(root: Path, name: str) -> Path:
    folder = root / name.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True)
    FOLDERS[name](folder)
    return folder
