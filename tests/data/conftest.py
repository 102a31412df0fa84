"""A data folder to write into, and a tokenizer small enough to compute by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest


class ByteTokenizer:
    """One token a UTF-8 byte: id = byte + 3; pad 0, begin 1, end 2. Called like PaddleNLP's tokenizers."""

    def __init__(self, *, bos_token_id=1, eos_token_id=2, adds_bos=True, adds_eos=False):
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = 0
        self.adds_bos = adds_bos
        self.adds_eos = adds_eos

    def __call__(self, text, add_special_tokens=True):
        if isinstance(text, list):
            if not text:
                raise ValueError("no texts")  # as PaddleNLP does
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [byte + 3 for byte in text.encode("utf-8")]
        if add_special_tokens:
            ids = [self.bos_token_id] * self.adds_bos + ids + [self.eos_token_id] * self.adds_eos
        return {"input_ids": ids}


@pytest.fixture(scope="session")
def make_tokenizer():
    return ByteTokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return ByteTokenizer()


@pytest.fixture(scope="session")
def ids_of():
    """What ByteTokenizer makes of a text."""
    return lambda text: [byte + 3 for byte in text.encode("utf-8")]


@pytest.fixture
def arguments(tmp_path):
    """DataArguments of the folder `tmp_path`; other values by keyword."""

    def make(**given):
        values = dict(
            dataset_name_or_path=str(tmp_path),
            src_length=1024,
            max_length=2048,
            length_policy="truncate_source",
            template="default",
            max_samples=None,
            preprocessing_num_workers=None,
        )
        values.update(given)
        return SimpleNamespace(**values)

    return make


@pytest.fixture
def write(tmp_path):
    """Write a data file: bytes as they are, a list of rows as JSON lines."""

    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content).encode("utf-8")
        path.write_bytes(content)
        return path

    return make
