"""Tiny models and a tokenizer, made once for all tests. Nothing here imports paddle until a test asks for it."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from tests import tiny

# ModelScope's client reads these once, when it is imported; by its own it waits a minute for a hub that is not there.
for variable, value in {
    "REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "DOWNLOAD_MAX_RETRIES": "2",
    "DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
}.items():
    os.environ[f"MODELSCOPE_{variable}"] = value


def pytest_runtest_logfinish() -> None:
    """What lives after a test, paddle above all, is not searched for garbage again: PaddleNLP has everything searched
    whenever it loads a model, and that was two fifths of the time of tests that let it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory):
    """Runs keep their tokenised samples in a folder of the tests; compiled operators stay in the user's."""
    ours = tmp_path_factory.mktemp("cache") / "paddle_sft"
    theirs = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddle_sft" / "operators"
    ours.mkdir()
    theirs.mkdir(parents=True, exist_ok=True)
    (ours / "operators").symlink_to(theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(ours.parent))
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A complete tiny model folder by family, layout and changes of its config; made once. Copy it to change it."""
    made = {}
    root = tmp_path_factory.mktemp("models")

    def make(family: str = "llama", layout: str = "paddle", **changes) -> Path:
        key = (family, layout, tuple(sorted(changes.items())))
        if key not in made:
            made[key] = tiny.make_model(root / f"{family}-{layout}-{len(made)}", family, layout=layout, **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer(model_folder):
    """PaddleNLP's tokenizer of a tiny model folder."""
    from paddle_sft.models.tokenizers import load_tokenizer

    return load_tokenizer(model_folder())


@pytest.fixture(scope="session")
def some_ids() -> np.ndarray:
    """Token ids [3, 9] that every tiny model knows."""
    return np.random.default_rng(5).integers(4, 96, (3, 9))
