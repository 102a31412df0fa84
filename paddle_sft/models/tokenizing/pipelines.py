"""The pipelines of `tokenizers` that transformers 5 builds: normaliser, pre-tokeniser, BPE, decoder, by class.

A class of transformers takes vocabulary, merges and post-processor from the folder and brings the rest itself, even
where a tokenizer.json says otherwise; only a folder of no such class is taken as its tokenizer.json is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Tuple

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from paddle_sft.core.errors import ModelError
from paddle_sft.models.tokenizing.folder import AS_WRITTEN, BUILT, TOKENIZER, TokenizerFolder
from paddle_sft.models.tokenizing.sentencepiece_file import SentencePieceFile, read_sentencepiece

SPACE = "\u2581"
"""How sentencepiece writes a space."""

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM_WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"
"""What Qwen2's and bloom's published tokenizer.json cut a text into before bytes are merged."""

Merges = List[Tuple[str, str]]


@dataclass(frozen=True)
class Pipeline:
    """A tokenizer before its special tokens are added."""

    tokenizer: Tokenizer
    defaults: Dict[str, Optional[str]] = field(default_factory=dict)
    """Named special tokens where the folder's files don't say; null there means none."""
    pieces: Tuple[Tuple[str, bool], ...] = ()
    """(text, whether special) of the vocabulary file's own added tokens, where the folder doesn't list any."""
    readds_special: bool = False
    """Whether the class adds every special token once more, as a plain one."""
    notes: Tuple[str, ...] = ()


def build_pipeline(folder: TokenizerFolder) -> Pipeline:
    """The pipeline for the folder's files.

    Raises:
        ModelError: files that don't fit the class, are damaged, or are not there.
    """
    if folder.tokenizer:
        return _from_file(folder)
    build = CLASSES.get(folder.class_name)
    if build in (_llama, _gemma, None) and folder.sentencepiece:
        return _from_sentencepiece(folder, build or _llama)
    if build is None and folder.model_config.get("model_type") == "bloom":
        build = _bloom
    if build in (_gpt2, _qwen2, _bloom) and folder.vocabulary:
        return build(folder, *_made(folder, BPE.read_file, *map(str, folder.vocabulary)))
    wanted = {_llama: "tokenizer.model", _gemma: "tokenizer.model", _gpt2: "vocab.json and merges.txt"}
    wanted.update({_qwen2: wanted[_gpt2], _bloom: wanted[_gpt2]})
    raise ModelError(
        f"{folder.path} has no tokenizer that can be read: it needs {TOKENIZER}"
        f"{f' or {wanted[build]}' if build else ''}; copy it from where the model is published, or give a folder that "
        "has it as tokenizer_name_or_path"
    )


def _from_file(folder: TokenizerFolder) -> Pipeline:
    written = _made(folder, Tokenizer.from_file, str(folder.path / TOKENIZER))
    kind = type(written.model).__name__
    build = CLASSES.get(folder.class_name)
    fill = {"pad_token": written.padding["pad_token"]} if written.padding else {}
    if folder.class_name == AS_WRITTEN:
        return Pipeline(written, fill)
    if build is None or kind != "BPE":
        note = f"{folder.class_name} with a {kind} model was not compared; {TOKENIZER} is used as it is written"
        return Pipeline(written, fill, notes=(note,))
    model = folder.tokenizer["model"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    pipeline = build(folder, model["vocab"], merges)
    if written.post_processor is not None:
        pipeline.tokenizer.post_processor = written.post_processor
    return replace(pipeline, defaults={**pipeline.defaults, **fill}) if build is _llama else pipeline


def _from_sentencepiece(folder: TokenizerFolder, build: Callable[..., Pipeline]) -> Pipeline:
    model = read_sentencepiece(folder.sentencepiece)
    if folder.class_name == AS_WRITTEN and not model.puts_space:
        folder = replace(folder, config={**folder.config, "add_prefix_space": False})
    vocabulary = {piece: index for index, piece in enumerate(model.pieces)}
    pipeline = build(folder, vocabulary, model.merges())
    notes = _sentencepiece_notes(folder, model)
    defaults = model.special if folder.class_name == AS_WRITTEN else pipeline.defaults
    return Pipeline(pipeline.tokenizer, defaults, model.added, pipeline.readds_special, notes)


def _sentencepiece_notes(folder: TokenizerFolder, model: SentencePieceFile) -> Tuple[str, ...]:
    name, notes = folder.sentencepiece.name, []
    if folder.class_name == AS_WRITTEN and model.puts_space:
        notes.append(
            f"transformers 5 puts no space before the first word where {name} comes without {TOKENIZER}; the model was "
            "trained with it, so it is put here"
        )
    elif "add_bos_token" not in folder.config and not folder.begins_unsaid:
        notes.append(
            "no begin token is put before a text, as in transformers 5, because tokenizer_config.json has no "
            "add_bos_token; PaddleNLP and transformers 4 put one: add the key if the model was trained with it"
        )
    if folder.is_of_another_class:
        notes.append(
            f"transformers 5 can't read {name} in a model of type {folder.model_config['model_type']}; it is read as "
            f"{folder.class_name} here"
        )
    return tuple(notes)


def _llama(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges) -> Pipeline:
    """A space before the text, and with `legacy` before what follows a special token, too."""
    prefix = folder.config.get("add_prefix_space")
    prefix = True if prefix is None else prefix
    scheme = ("always" if folder.config.get("legacy", False) else "first") if prefix else "never"
    tokenizer = _tokenizer(folder, vocabulary, merges, fuse_unk=True, byte_fallback=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(_pieces_to_text() + ([decoders.Strip(content=" ", left=1)] if prefix else []))
    return Pipeline(tokenizer, {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"})


def _gemma(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges) -> Pipeline:
    """No space is put before a text; runs of spaces are pieces."""
    defaults = {name: f"<{name[:-6]}>" for name in ("unk_token", "bos_token", "eos_token", "pad_token", "mask_token")}
    unknown = _text(folder.config.get("unk_token", defaults["unk_token"]))
    tokenizer = _tokenizer(folder, vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence(_pieces_to_text())
    return Pipeline(tokenizer, defaults)


def _qwen2(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges) -> Pipeline:
    tokenizer = _byte_level(folder, vocabulary, merges, _QWEN2_WORDS)
    tokenizer.normalizer = normalizers.NFC()
    end = "<|endoftext|>"
    return Pipeline(tokenizer, {"unk_token": end, "eos_token": end, "pad_token": end}, readds_special=True)


def _gpt2(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges) -> Pipeline:
    tokenizer = _byte_level(folder, vocabulary, merges)
    return Pipeline(tokenizer, dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"))


def _bloom(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges) -> Pipeline:
    """transformers reads bloom's from tokenizer.json only; this is what stands there."""
    tokenizer = _byte_level(folder, vocabulary, merges, _BLOOM_WORDS)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return Pipeline(tokenizer, named)


CLASSES: Dict[str, Callable[..., Pipeline]] = dict(zip(BUILT, (_llama, _gemma, _qwen2, _gpt2)))


def _byte_level(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges, words: str = "") -> Tokenizer:
    """BPE over bytes, inside the words of GPT-2's expression or of `words`."""
    tokenizer = _tokenizer(folder, vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="")
    bytes_of = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(folder.config.get("add_prefix_space")), use_regex=not words
    )
    split = [pre_tokenizers.Split(Regex(words), behavior="isolated", invert=False)] if words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, bytes_of]) if split else bytes_of
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _tokenizer(folder: TokenizerFolder, vocabulary: Dict[str, int], merges: Merges, **options: Any) -> Tokenizer:
    return Tokenizer(_made(folder, BPE, vocabulary, merges, **options))


def _pieces_to_text() -> List[Any]:
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _text(token: Any) -> Optional[str]:
    return token.get("content") if isinstance(token, dict) else token


def _made(folder: TokenizerFolder, make: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return make(*given, **options)
    except Exception as error:  # the library raises Exception itself
        raise ModelError(
            f"{folder.path}: the tokenizer's files can't be read ({str(error).strip()[:300]}); they are damaged or "
            "written by a newer release of the tokenizers library; copy them again from where the model is published"
        ) from error
