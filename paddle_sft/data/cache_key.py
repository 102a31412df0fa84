"""What tokenised samples depend on, as one name: equal names, equal samples.

Everything counts unless it is known not to: files by their content, the tokenizer's files, the template, the suite's
own code that reads and tokenises, the libraries it calls, and every data argument that is not listed here.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Tuple

import paddle_sft
from paddle_sft.data.recipe import Recipe
from paddle_sft.data.source import label

FORMAT = 1
"""Of the cache's own files; raise it when what is in them changes its meaning."""

WITHOUT_EFFECT = (
    # where things are and how they look: that is said of each source
    "dataset_name_or_path", "dataset", "dataset_dir", "eval_dataset", "data_format", "columns",
    "data_cache_dir", "overwrite_cache",
    # how it is done
    "preprocessing_num_workers", "lazy",
    # what is done with samples afterwards; of packing, whether documents are joined counts
    "packing", "zero_padding", "greedy_zero_padding", "mixing", "mixing_unit", "mixing_exhausted", "data_stages",
    "eval_with_do_generation", "save_generation_output", "pad_to_multiple_of", "pad_to_max_length",
)  # fmt: skip
"""Fields of DataArguments that don't change a sample."""

LIBRARIES = ("tokenizers", "sentencepiece", "paddlenlp", "jinja2")
WEIGHTS = (".safetensors", ".pdparams", ".pdopt", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
"""Ends of names of a model folder's files that no tokenizer reads."""
_PROBE = "A probe: 12,345 words, été, 今天天气很好 \n\t🙂 <|im_end|></s>"
_BLOCK = 1 << 20


def describe(recipe: Recipe, arguments: Any, split: str, tokenizer_folder: Path) -> Dict[str, Any]:
    """Everything that decides what the samples are, in JSON values. Reads all data files once (about 1 GB/s each)."""
    hashes = dict(zip(recipe.files, _hash_all(recipe.files)))
    given = {key: value for key, value in vars(arguments).items() if key not in WITHOUT_EFFECT}
    template = Path(str(getattr(arguments, "template", ""))).expanduser()
    return {
        "format": FORMAT,
        "code": _hash_code(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "tokenizer": _describe_tokenizer(recipe.tools.tokenizer, tokenizer_folder),
        "template": hash_file(template) if template.is_file() else None,
        "split": split,
        "splits_rows": split == "train" or not getattr(arguments, "eval_dataset", None),
        "joins_documents": recipe.joins_documents,
        "arguments": given,
        "sources": [
            {
                "name": source.name,
                "stage": source.stage,
                "format": source.layout.data_format,
                "columns": dict(source.layout.columns),
                "max_samples": source.max_samples,
                "files": [[label(path), hashes[path]] for path in source.files],
            }
            for source in recipe.sources
        ],
    }


def key_of(description: Dict[str, Any]) -> str:
    """The name of what was described: 32 hexadecimal digits."""
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:32]


def hash_file(path: Path) -> str:
    """SHA-256 of what is in a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def _hash_all(paths: Sequence[Path]) -> List[str]:
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing lets go of Python's lock
        return list(pool.map(hash_file, paths))


def state_of(paths: Iterable[Path]) -> Tuple[Tuple[int, int, int], ...]:
    """What changes when somebody writes to one of the files."""
    stats = [path.stat() for path in paths]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)


def _hash_code() -> str:
    """Of the rooms that make samples: a change of the code makes new samples, whatever the version says."""
    root = Path(paddle_sft.__file__).parent
    files = [*root.glob("core/*.py"), *root.glob("data/**/*.py"), *root.glob("models/tokeni*.py")]
    digest = hashlib.sha256()
    for path in sorted([*files, *root.glob("models/tokeni*/**/*.py")]):
        digest.update(path.name.encode("utf-8") + path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _describe_tokenizer(tokenizer: Any, folder: Path) -> Dict[str, Any]:
    """Its files, and what it makes of a text: how it was loaded shows there."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in WEIGHTS)
    return {
        "class": type(tokenizer).__qualname__,
        "probe": [int(number) for number in tokenizer(_PROBE, add_special_tokens=True)["input_ids"]],
        "files": {path.name: hash_file(path) for path in files if not path.name.startswith(".")},
    }
