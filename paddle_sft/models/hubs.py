"""The places a model can be downloaded from, each through its own client, and where they keep what they fetched.

Nothing is imported before it is needed: a folder given by path, and `paddle-sft doctor`, need no client at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Callable, Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

from paddle_sft.core.errors import ModelError
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME

TOKENIZER_FILES = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
TEXT_FILES = TOKENIZER_FILES + ("generation_config.json",)
CONFIG_NAME = "config.json"
MODEL, TOKENIZER, ADAPTER = "model", "tokenizer", "adapter"
"""What is wanted of a name: config, tokenizer and weights; config and tokenizer; an adapter's folder."""
ADAPTER_FILES: Dict[str, Tuple[str, ...]] = {
    "adapter.json": ("adapter.safetensors",),
    "adapter_config.json": ("adapter_model.safetensors",),
    **{f"{method}_config.json": ("peft_model.safetensors", f"{method}_model_state.pdparams")
       for method in ("lora", "vera", "lokr", "prefix")},
}  # fmt: skip
"""An adapter's config -> the weights that may stand beside it: of this suite, of PEFT, of PaddleNLP."""

Fetch = Callable[[str], Optional[Path]]
"""File name -> path on this machine, None when the model has no such file."""


class Hub(NamedTuple):
    """A place to look a model name up."""

    title: str
    mirror: str
    """Environment variable with the address to ask instead of the usual one."""
    token: str
    """Environment variable with the user's token; empty: everything there is public."""
    home: str
    """Environment variable that moves the cache."""
    cached: Callable[[str], Path]
    """Model name -> the folder it is kept in, whether it is there or not."""
    fetch: Callable[[Optional[str], str, str], Path]
    """(address, None for the usual one; name; what is wanted of it) -> its folder, downloaded; what is there is not
    fetched again."""

    def address(self) -> Optional[str]:
        """The mirror that is asked now, None if it is the client's usual address."""
        return os.environ.get(self.mirror, "").rstrip("/") or None


def shards_of(index: Path) -> List[str]:
    """File names in a weight index.

    Raises:
        ModelError: it can't be read.
    """
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a readable weight index: {error!r}; remove it and try again") from error


def missing_files(folder: Path, what: str = MODEL) -> List[str]:
    """What a folder lacks to be loaded: config and weights, or config and tokenizer."""
    if what == ADAPTER:
        return _missing_of_adapter({path.name for path in folder.iterdir()} if folder.is_dir() else ())
    missing = [] if (folder / CONFIG_NAME).is_file() else [CONFIG_NAME]
    if what == TOKENIZER:
        vocabularies = TOKENIZER_FILES[1:5]
        there = any((folder / name).is_file() for name in vocabularies)
        return missing if there else [*missing, f"any of {', '.join(vocabularies)}"]
    if (folder / INDEX_NAME).is_file():
        return missing + [name for name in shards_of(folder / INDEX_NAME) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in (WEIGHTS_NAME, PDPARAMS_NAME)):
        missing.append(f"{WEIGHTS_NAME} (or {INDEX_NAME} with its shards, or {PDPARAMS_NAME})")
    return missing


def _missing_of_adapter(names: Collection[str]) -> List[str]:
    config = next((name for name in ADAPTER_FILES if name in names), None)
    if config is None:
        return [f"config of an adapter ({', '.join(ADAPTER_FILES)})"]
    weights = ADAPTER_FILES[config]
    return [] if any(name in names for name in weights) else [" or ".join(weights)]


def _require_adapter(names: Collection[str]) -> None:
    """
    Raises:
        ModelError: among these files are none of an adapter, or only weights that may run code.
    """
    missing = _missing_of_adapter(names)
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    if missing:
        raise ModelError(
            f"it has no {missing[0]}"
            + (f", only {pickled[0]}, a pickle that may run code when it is read" if pickled else "")
        )


def _fetch_adapter_files(fetch: Fetch) -> Path:
    config = next((name for name in ADAPTER_FILES if fetch(name) is not None), "")
    weights = next((name for name in ADAPTER_FILES.get(config, ()) if fetch(name) is not None), "")
    _require_adapter({config, weights})
    for name in TOKENIZER_FILES:
        fetch(name)
    return fetch(config).parent  # there already


def fetch_files(fetch: Fetch, what: str) -> Path:
    """Fetch config, tokenizer and then weights, file by file; where the weights are, everything is.

    Raises:
        ModelError: no config or no weights.
    """
    if what == ADAPTER:
        return _fetch_adapter_files(fetch)
    config = fetch(CONFIG_NAME)
    if config is None:
        raise ModelError(f"it has no {CONFIG_NAME}")
    for name in TEXT_FILES:
        fetch(name)
    if what == TOKENIZER:
        return config.parent
    index = fetch(INDEX_NAME)
    if index is not None:
        missing = [name for name in shards_of(index) if fetch(name) is None]
        if missing:
            raise ModelError(f"its index names shards that are not there: {', '.join(missing[:5])}")
    elif fetch(WEIGHTS_NAME) is None and fetch(PDPARAMS_NAME) is None:
        raise ModelError(f"it has none of {WEIGHTS_NAME}, {INDEX_NAME}, {PDPARAMS_NAME}")
    return config.parent


# ---- PaddleNLP's registry -----------------------------------------------------------------------------------------


def _paddlenlp_home() -> Path:
    return Path(os.environ.get("PPNLP_HOME") or Path.home() / ".paddlenlp") / "models"


def _paddlenlp_folder(name: str) -> Path:
    return _paddlenlp_home() / name


def _fetch_from_paddlenlp(address: Optional[str], name: str, what: str) -> Path:
    from huggingface_hub.utils import EntryNotFoundError
    from paddlenlp.utils.download.bos_download import bos_download, bos_url, get_bos_file_metadata

    def fetch(file: str) -> Optional[Path]:
        target = _paddlenlp_folder(name) / file
        if target.is_file():
            return target
        try:
            size = get_bos_file_metadata(bos_url(name, file, endpoint=address)).size
        except EntryNotFoundError:
            if file == CONFIG_NAME:  # an object store knows files, not models
                raise
            return None
        _drop_overlong(target.with_name(f"{target.name}.incomplete"), size)
        bos_download(name, file, cache_dir=str(_paddlenlp_home()), endpoint=address, resume_download=True)
        _require_size(target, size)
        return target

    return fetch_files(fetch, what)


def _drop_overlong(incomplete: Path, size: Optional[int]) -> None:
    """A part that is as long as the whole can't be continued; paddlenlp 3.0.0b4 would ask for bytes beyond the end."""
    if size is not None and incomplete.is_file() and incomplete.stat().st_size >= size:
        incomplete.unlink()


def _require_size(path: Path, size: Optional[int]) -> None:
    """paddlenlp 3.0.0b4 appends the whole file to a part when a server doesn't know how to continue one."""
    found = path.stat().st_size
    if size is not None and found != size:
        path.unlink()
        raise ModelError(f"{path.name} arrived with {found:,} bytes instead of {size:,} and was removed; try again")


# ---- AI Studio ----------------------------------------------------------------------------------------------------


def _aistudio_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("AISTUDIO_HOME") or Path(cache) / "paddle").expanduser()
    return Path(os.environ.get("AISTUDIO_HUB_CACHE") or home / "aistudio")


def _aistudio_folder(name: str) -> Path:
    return _aistudio_home() / f"models--{name.replace('/', '--')}" / "snapshots" / "master"


def _fetch_from_aistudio(address: Optional[str], name: str, what: str) -> Path:
    from huggingface_hub.utils import EntryNotFoundError
    from paddlenlp.utils.download.aistudio_hub_download import (
        aistudio_hub_download,
        aistudio_hub_url,
        get_aistudio_file_metadata,
        get_token,
    )

    def fetch(file: str) -> Optional[Path]:
        target = _aistudio_folder(name) / file
        if target.is_file():
            return target
        try:
            found = get_aistudio_file_metadata(aistudio_hub_url(name, file, endpoint=address), token=get_token())
        except EntryNotFoundError:
            if file == CONFIG_NAME:
                raise
            return None
        blob = target.parents[2] / "blobs" / str(found.etag)
        _drop_overlong(blob.with_name(f"{blob.name}.incomplete"), found.size)
        aistudio_hub_download(name, file, cache_dir=str(_aistudio_home()), endpoint=address, resume_download=True)
        _require_size(target, found.size)
        return target

    return fetch_files(fetch, what)


# ---- Hugging Face -------------------------------------------------------------------------------------------------


def _hugging_face_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(cache) / "huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    return Path(os.path.expandvars(str(hub))).expanduser()


def _hugging_face_folder(name: str) -> Path:
    model = _hugging_face_home() / f"models--{name.replace('/', '--')}"
    main = model / "refs" / "main"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else "main"
    return model / "snapshots" / commit


def _fetch_from_hugging_face(address: Optional[str], name: str, what: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    files = {sibling.rfilename for sibling in HfApi(endpoint=address).model_info(name).siblings or ()}
    if what == ADAPTER:
        _require_adapter(files)
    elif CONFIG_NAME not in files:
        raise ModelError(f"it has no {CONFIG_NAME}")
    places: Dict[str, Any] = {"endpoint": address, "cache_dir": str(_hugging_face_home())}
    text = sorted(files & {*(ADAPTER_FILES if what == ADAPTER else (CONFIG_NAME, INDEX_NAME)), *TEXT_FILES})
    folder = Path(snapshot_download(name, allow_patterns=text, **places))
    if what == TOKENIZER:
        return folder
    weights = _adapter_weights(files) if what == ADAPTER else _choose_weights(folder, files)
    blobs = folder.parents[1] / "blobs"
    before = {path.name for path in blobs.iterdir() if not path.name.endswith(".incomplete")}
    folder = Path(snapshot_download(name, allow_patterns=text + weights, **places))
    for file in weights:
        _require_sha256(folder / file, before)
    return folder


def _adapter_weights(files: Any) -> List[str]:
    config = next(name for name in ADAPTER_FILES if name in files)
    return [name for name in ADAPTER_FILES[config] if name in files][:1]


def _choose_weights(folder: Path, files: Any) -> List[str]:
    if INDEX_NAME in files:
        return shards_of(folder / INDEX_NAME)
    for name in (WEIGHTS_NAME, PDPARAMS_NAME):
        if name in files:
            return [name]
    pickled = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth")))
    raise ModelError(
        f"it has none of {WEIGHTS_NAME}, {INDEX_NAME}, {PDPARAMS_NAME}"
        + (f", only {pickled[0]}, a pickle that may run code when it is read" if pickled else "")
    )


def _require_sha256(path: Path, before: Sequence[str]) -> None:
    """The hub names large files by the SHA-256 of their content; its client compares sizes only."""
    blob = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name) or blob.name in before:
        return
    digest = hashlib.sha256()
    with open(blob, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != blob.name:
        blob.unlink()
        path.unlink()
        raise ModelError(f"{path.name} was damaged on its way here (SHA-256) and was removed; try again")


# ---- ModelScope ---------------------------------------------------------------------------------------------------


def _modelscope_folder(name: str) -> Path:
    """Where its client says; its layout differs from version to version."""
    download = _modelscope_client()
    try:
        return Path(download(name, local_files_only=True, cache_dir=os.environ.get("MODELSCOPE_CACHE") or None))
    except Exception:  # what it raises differs from version to version, too; there is nothing in its cache
        cache = os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope"
        return Path(cache) / "hub" / "models" / name


def _modelscope_client() -> Callable[..., str]:
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise ModelError("the client of ModelScope is not installed; run: pip install modelscope") from error
    return snapshot_download


def _fetch_from_modelscope(address: Optional[str], name: str, what: str) -> Path:
    download = _modelscope_client()
    cache = os.environ.get("MODELSCOPE_CACHE") or None  # its client reads the variable once
    names = [*(ADAPTER_FILES if what == ADAPTER else (CONFIG_NAME, INDEX_NAME)), *TEXT_FILES]

    def fetch(files: List[str]) -> Path:
        return Path(download(name, allow_patterns=files, endpoint=address, cache_dir=cache))

    folder = fetch(names)
    if what == TOKENIZER:
        return folder
    if what == ADAPTER:
        here = {path.name for path in folder.iterdir()}
        config = next((one for one in ADAPTER_FILES if one in here), "adapter.json")
        folder = fetch([*names, *ADAPTER_FILES[config]])
        _require_adapter({path.name for path in folder.iterdir()})
        return folder
    weights = shards_of(folder / INDEX_NAME) if (folder / INDEX_NAME).is_file() else [WEIGHTS_NAME]
    folder = fetch(names + weights)
    if missing_files(folder):
        folder = fetch([*names, PDPARAMS_NAME])
    if missing_files(folder):
        raise ModelError(f"it has no {', '.join(missing_files(folder))}")
    return folder


HUBS: Dict[str, Hub] = {
    "paddlenlp": Hub(
        "PaddleNLP's registry", "PPNLP_ENDPOINT", "", "PPNLP_HOME", _paddlenlp_folder, _fetch_from_paddlenlp
    ),
    "huggingface": Hub(
        "the Hugging Face hub", "HF_ENDPOINT", "HF_TOKEN", "HF_HOME", _hugging_face_folder, _fetch_from_hugging_face
    ),
    "aistudio": Hub(
        "AI Studio", "AISTUDIO_ENDPOINT", "AISTUDIO_ACCESS_TOKEN", "AISTUDIO_HOME",
        _aistudio_folder, _fetch_from_aistudio,
    ),
    "modelscope": Hub(
        "ModelScope", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "MODELSCOPE_CACHE",
        _modelscope_folder, _fetch_from_modelscope,
    ),
}  # fmt: skip
"""By the name that `arguments.hub.hub_of` returns."""
