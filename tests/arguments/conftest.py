"""A complete argument file to change one thing in, and ways to read it."""

from __future__ import annotations

import json
from typing import Any, List

import pytest

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.core.errors import ArgumentError

BASE = {
    "model_name_or_path": "some/model",
    "dataset_name_or_path": "./data",
    "output_dir": "./checkpoints/run",
    "do_train": True,
}


@pytest.fixture
def write(tmp_path):
    """Write an argument file: BASE with changes (a value of ... removes a key); returns its path."""

    def make(changes: dict = {}, name: str = "run.json") -> str:
        content = {key: value for key, value in {**BASE, **changes}.items() if value is not ...}
        path = tmp_path / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return str(path)

    return make


@pytest.fixture
def load(write):
    """Load BASE with changes and the words after it."""
    return lambda changes={}, *words: load_finetune_arguments([write(changes), *words])


@pytest.fixture
def problems(write):
    """The lines of the error that BASE with changes gives; fails when it gives none."""

    def collect(changes: dict = {}, *words: Any) -> List[str]:
        with pytest.raises(ArgumentError) as caught:
            load_finetune_arguments([write(changes), *words])
        lines = str(caught.value).split("\n- ")
        return lines[1:] if len(lines) > 1 else lines

    return collect
