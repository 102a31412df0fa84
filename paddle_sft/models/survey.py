"""What a model folder holds and what would become of it, from headers alone: reads no weight, imports no paddle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from paddle_sft.core.errors import ModelError, PaddleSFTError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, why_hollow
from paddle_sft.data.own_template import find_own_template
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import CONFIG_NAME, read_config
from paddle_sft.models.stored_schemes import schemes_in, summary
from paddle_sft.models.tokenizing.folder import read_folder
from paddle_sft.models.tokenizing.tokenizer import build_tokenizer
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME, WeightFolder, some

VERIFIED = Path(__file__).with_name("verified.json")
"""What the last parity run measured, family by family; written by `make parity-table`."""
ADAPTER_CONFIG = "adapter_config.json"

_BUFFERS = ("inv_freq", ".attn.bias", "masked_bias")  # stored beside the weights by some programs
_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight")
_NO_LINEARS = ("embed", "lm_head", "wte", "wpe", "norm", "ln_", "router", ".gate.weight", "score.")
_USUAL_POINTER_BYTES = 1024


@dataclass
class Survey:
    """A model folder, looked at."""

    folder: Path
    config: Dict[str, Any] = field(default_factory=dict)
    """config.json as it stands, {} if it can't be read."""
    layout: str = ""
    num_files: int = 0
    num_bytes: int = 0
    num_parameters: int = 0
    """Numbers in the weights, a tied head once; 0 if they can't be counted without reading them (a pickle)."""
    dtypes: Dict[str, int] = field(default_factory=dict)
    """Type in the user's words -> numbers stored in it."""
    has_checksums: bool = False
    embedding_rows: int = 0
    linears: List[Tuple[int, int]] = field(default_factory=list)
    """Shapes of the matrices that LoRA adapts by default."""
    tokenizer: str = ""
    largest_id: int = -1
    chat_template: str = ""
    """Where it stands; empty if there is none."""
    unknown_keys: List[str] = field(default_factory=list)
    reading: str = ""
    """What reading every weight gave, if that was asked for."""
    problems: List[str] = field(default_factory=list)
    """Each would stop a run; it says what to do."""

    names: List[str] = field(default_factory=list)
    """Of the stored tensors, without the second copy of a tied head."""

    @property
    def family(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.num_parameters > 0 and not any("lm_head" in name for name in self.names)


@lru_cache(maxsize=1)
def verified() -> Dict[str, Any]:
    """The contents of VERIFIED: "versions" and "families"."""
    return json.loads(VERIFIED.read_text(encoding="utf-8"))


def survey(folder: Path) -> Survey:
    """Look at a model folder. Problems are collected, not raised."""
    found = Survey(Path(folder))
    if not _is_base_model(found):
        return found
    for look in (_look_at_pointers, _look_at_config, _look_at_weights, _look_at_tokenizer, _look_at_template):
        try:
            look(found)
        except (PaddleSFTError, OSError) as error:
            if not _is_known(found, str(error)):
                found.problems.append(str(error))
    _compare(found)
    return found


def _is_known(found: Survey, problem: str) -> bool:
    """Whether the file it is about was named before: two readers may stumble over one file."""
    files = [str(path) for path in found.folder.iterdir() if str(path) in problem]
    return any(file in earlier for file in files for earlier in found.problems)


def _is_base_model(found: Survey) -> bool:
    if (found.folder / ADAPTER_CONFIG).is_file() and not (found.folder / CONFIG_NAME).is_file():
        found.problems.append(
            f"{found.folder} is an adapter; name the model it was trained on, or merge both with paddle-sft merge"
        )
        return False
    return True


def _look_at_pointers(found: Survey) -> None:
    small = [path for path in found.folder.iterdir() if path.is_file() and path.stat().st_size < _USUAL_POINTER_BYTES]
    hollow = [path for path in sorted(small) if why_hollow(path)]
    for path in hollow:
        if path.name not in (WEIGHTS_NAME, PDPARAMS_NAME) and not path.name.endswith(".safetensors"):
            found.problems.append(why_hollow(path))


def _look_at_config(found: Survey) -> None:
    file = found.folder / CONFIG_NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        found.config = content if isinstance(content, dict) else {}
    except ValueError:
        pass  # read_config says it
    read = read_config(found.folder)
    if "paddlenlp_version" not in read:  # PaddleNLP writes all keys of its own class, which reads them
        found.unknown_keys = [key for key in FAMILIES[read["model_type"]].unknown(read) if key in found.config]


def _look_at_weights(found: Survey) -> None:
    if (found.folder / PDPARAMS_NAME).is_file() and not _has_safetensors(found.folder):
        hollow = why_hollow(found.folder / PDPARAMS_NAME)
        if hollow:
            raise ModelError(hollow)
        found.layout, found.num_files = "Paddle", 1
        found.num_bytes = (found.folder / PDPARAMS_NAME).stat().st_size
        return
    stored = WeightFolder(found.folder)
    specs = [stored.spec(name) for name in stored.names if not name.endswith(_BUFFERS)]
    found.names = [spec.name for spec in specs]
    found.layout = "Paddle" if _is_paddle(found.names) else "Hugging Face"
    found.num_files = len(stored.files)
    found.num_bytes = sum(file.num_bytes for file in stored.files)
    found.has_checksums = stored.has_checksums
    schemes = schemes_in(found.config, str(found.folder))
    if schemes:  # how many weights that is depends on the network: not counted
        found.dtypes[summary(schemes)] = 0
        return
    _count(found, specs)
    odd = [spec for spec in specs if spec.tag not in FLOAT_TAGS.values()]
    if odd:
        found.problems.append(
            f"{some([spec.name for spec in odd])} {'is' if len(odd) == 1 else 'are'} stored as "
            f"{', '.join(sorted({spec.tag for spec in odd}))}: a quantised checkpoint can't be a base here; name the "
            f"one it was made from, in {', '.join(FLOAT_TAGS)}"
        )


def _has_safetensors(folder: Path) -> bool:
    return (folder / INDEX_NAME).is_file() or (folder / WEIGHTS_NAME).is_file()


def _is_paddle(names: List[str]) -> bool:
    """Paddle's names begin with a family's, Hugging Face's with model or transformer (or, in old folders, neither)."""
    return any(name.partition(".")[0] in FAMILIES for name in names)


def _count(found: Survey, specs: List[TensorSpec]) -> None:
    embedding = next((spec for spec in specs if spec.name.endswith(_EMBEDDINGS)), None)
    head = next((spec for spec in specs if spec.name.startswith("lm_head.weight")), None)
    if head is not None and embedding is not None and found.config.get("tie_word_embeddings") is True:
        specs = [spec for spec in specs if spec is not head]
        found.names.remove(head.name)
    words = {tag: word for word, tag in FLOAT_TAGS.items()}
    for spec in specs:
        size = int(np.prod(spec.shape, dtype=np.int64))
        found.num_parameters += size
        word = words.get(spec.tag, spec.tag)
        found.dtypes[word] = found.dtypes.get(word, 0) + size
        if len(spec.shape) == 2 and not any(part in spec.name for part in _NO_LINEARS):
            found.linears.append((spec.shape[0], spec.shape[1]))
    found.embedding_rows = embedding.shape[0] if embedding is not None else 0


def _look_at_tokenizer(found: Survey) -> None:
    files = read_folder(found.folder)
    if files.is_paddlenlps_own:
        found.tokenizer = f"{files.class_name} (PaddleNLP's own; it is read when a run starts)"
        return
    tokenizer = build_tokenizer(files)
    ids = tokenizer.pipeline.get_vocab(with_added_tokens=True).values()
    place = "tokenizer.json" if files.tokenizer else files.sentencepiece.name if files.sentencepiece else "vocab.json"
    found.tokenizer = f"{files.class_name} from {place}, {len(ids):,} tokens"
    found.largest_id = max(ids, default=-1)
    if tokenizer.eos_token_id is None:
        found.problems.append("the tokenizer has no eos_token; set it in tokenizer_config.json: no answer would end")


def _look_at_template(found: Survey) -> None:
    template = find_own_template(found.folder)
    found.chat_template = template[1] if template else ""


def _compare(found: Survey) -> None:
    """What the parts of a folder say of each other."""
    vocabulary = found.config.get("vocab_size")
    if found.embedding_rows and isinstance(vocabulary, int) and found.embedding_rows != vocabulary:
        found.problems.append(
            f"config.json says vocab_size {vocabulary:,}, the embedding has {found.embedding_rows:,} rows; they don't "
            "belong to one model"
        )
    elif found.embedding_rows and found.largest_id >= found.embedding_rows:
        found.problems.append(
            f"the tokenizer gives ids up to {found.largest_id:,}, the embedding has {found.embedding_rows:,} rows; "
            "give the tokenizer that belongs to the model"
        )


def memory_bytes(found: Survey, dtype_bytes: int, lora_rank: int) -> Optional[Dict[str, int]]:
    """What weights, a full fine-tuning and LoRA hold, without activations; None if the weights were not counted.

    AdamW keeps two moments in float32 and, beside half-precision weights, a float32 copy of them; gradients have the
    weights' type. LoRA's own matrices are counted with all of it.
    """
    if not found.num_parameters:
        return None
    states = dtype_bytes + 8 + (4 if dtype_bytes < 4 else 0)
    adapter = sum(lora_rank * (rows + columns) for rows, columns in found.linears)
    weights = found.num_parameters * dtype_bytes
    return {
        "weights": weights,
        "full": weights + found.num_parameters * states,
        "lora": weights + adapter * (dtype_bytes + states),
        "lora_parameters": adapter,
    }
