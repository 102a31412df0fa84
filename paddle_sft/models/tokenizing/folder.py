"""The tokenizer files of a model folder, and which class transformers 5 makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from paddle_sft.core.errors import ModelError

CONFIG, TOKENIZER, ADDED, SPECIAL = (
    "tokenizer_config.json", "tokenizer.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
VOCABULARY, MERGES = "vocab.json", "merges.txt"
SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model")
"""One file under two names: transformers' and PaddleNLP's."""

AS_WRITTEN = "TokenizersBackend"
"""The class that takes tokenizer.json as it is written; the others take only its vocabulary and merges from it."""

BUILT = ("LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer")
"""Classes that bring a pipeline of their own."""

_AS_WRITTEN_NAMES = (
    AS_WRITTEN, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "PretrainedTokenizer", "PretrainedTokenizerFast",
    "PythonBackend", "BloomTokenizer",
)  # fmt: skip
_OTHER_NAMES = {"GPTTokenizer": "GPT2Tokenizer"}
"""PaddleNLP's names of classes that transformers calls otherwise."""

REGISTERED = {
    "gpt2": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer",
    "qwen2": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
    "mistral": AS_WRITTEN, "mixtral": AS_WRITTEN, "phi3": AS_WRITTEN, "jamba": AS_WRITTEN,
}  # fmt: skip
"""model_type -> the class that transformers 5 knows for it. llama and bloom have none: the named one counts."""

OVER_THE_NAMED = ("qwen2", "phi3", "jamba")
"""Model types whose class counts, whatever tokenizer_config.json names."""


@dataclass(frozen=True)
class TokenizerFolder:
    """Contents of a model folder's tokenizer files; {} for a file that isn't there."""

    path: Path
    config: Mapping[str, Any]
    model_config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    """tokenizer.json."""

    @property
    def sentencepiece(self) -> Optional[Path]:
        return next((self.path / name for name in SENTENCEPIECE if (self.path / name).is_file()), None)

    @property
    def vocabulary(self) -> Optional[Tuple[Path, Path]]:
        """vocab.json and merges.txt, where both are there."""
        found = (self.path / VOCABULARY, self.path / MERGES)
        return found if all(path.is_file() for path in found) else None

    @cached_property
    def class_name(self) -> str:
        """The class of transformers that reads this folder, without "Fast"; one it doesn't know as it is named."""
        named = self.config.get("tokenizer_class") or self.config.get("init_class")
        named = named or self.model_config.get("tokenizer_class")
        named = str(named).removesuffix("Fast") if named else None
        named = _OTHER_NAMES.get(named, named)
        model_type = str(self.model_config.get("model_type"))
        registered = REGISTERED.get(model_type)
        if self._is_byte_level and named == "LlamaTokenizer" and model_type not in OVER_THE_NAMED:
            return AS_WRITTEN  # Llama's class knows no byte level; llama 3 and deepseek say so and are not
        if named and registered and (registered == AS_WRITTEN or model_type in OVER_THE_NAMED):
            return named if self.is_of_another_class else registered
        if named in _AS_WRITTEN_NAMES:
            return AS_WRITTEN
        return named or registered or AS_WRITTEN

    @property
    def is_of_another_class(self) -> bool:
        """Whether transformers 5 would read it with a class for its model type that knows no such files: a qwen2 model
        with a sentencepiece tokenizer."""
        model_type = str(self.model_config.get("model_type"))
        is_forced = model_type in OVER_THE_NAMED and REGISTERED[model_type] != AS_WRITTEN
        return is_forced and not (self.tokenizer or self.vocabulary) and self.sentencepiece is not None

    @property
    def is_paddlenlps_own(self) -> bool:
        """Whether only PaddleNLP knows the class that is named, and there is no tokenizer.json to do without it."""
        return not self.tokenizer and self.class_name not in (AS_WRITTEN, *BUILT)

    @property
    def is_read_otherwise(self) -> bool:
        """Whether transformers 5 would read other ids from these files than the model was trained with.

        It puts no space before the first word of what is not of Llama's class by its model type, and no begin token
        where the config doesn't say, which PaddleNLP's folders leave out.
        """
        if self.tokenizer or self.sentencepiece is None:
            return False
        return self.class_name == AS_WRITTEN or self.begins_unsaid

    @property
    def begins_unsaid(self) -> bool:
        """Whether this is PaddleNLP's own Llama folder, whose begin token is put unless add_bos_token is false."""
        if self.tokenizer or self.sentencepiece is None or self.class_name not in (AS_WRITTEN, "LlamaTokenizer"):
            return False
        return self.sentencepiece.name == SENTENCEPIECE[1] and "add_bos_token" not in self.config

    @property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps({key: value for key, value in self.tokenizer.items() if key != "model"})


def read_folder(path: Path) -> TokenizerFolder:
    """Read the tokenizer's files and config.json; an adapter's folder has none, and tells the kind of its base.

    Raises:
        ModelError: no folder, or a file of it that holds no JSON object.
    """
    if not path.is_dir():
        raise ModelError(f"no tokenizer folder {path}")
    model_config = read_json(path / "config.json") or read_json(path / "adapter.json").get("base", {})
    return TokenizerFolder(path, read_json(path / CONFIG), model_config, read_json(path / TOKENIZER))


def read_json(path: Path) -> Dict[str, Any]:
    """The JSON object of a file, {} where there is no such file.

    Raises:
        ModelError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable JSON object: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a readable JSON object: it holds a {type(content).__name__}")
    return content
