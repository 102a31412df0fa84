"""New special tokens: the folders we write give transformers the ids that its own add_special_tokens would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models.hub import load_model
from paddle_sft.models.new_tokens import add_special_tokens
from paddle_sft.models.tokenizers import load_tokenizer
from paddle_sft.models.vocabulary import grow
from paddle_sft.models.writer import write_model
from tests.parity import cases
from tests.parity.asking import Reference
from tests.parity.mixed_lines import mixed_lines
from tests.parity.test_logits import require_equal_logits
from tests.parity.tokenizer_folders import FOLDERS, make_folder

TOKENS = ["<|call|>", "<tool>", "[思考]"]
LINES = [
    "<|call|>weather<tool> 今天[思考]好", "a <|call|> b", "<tool><tool>", "no new token", "tail<|call|>",
    "x[思考]  y\n<tool>\nz", *mixed_lines()[:60],
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers_own_new_tokens(name: str, reference: Reference, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, name)
    try:
        load_tokenizer(folder)
    except ModelError:
        pytest.skip("a folder that is refused")
    found = add_special_tokens(folder, tmp_path / "extended", TOKENS)
    theirs = reference.ask("with_new_tokens", folder=folder, extended=tmp_path / "extended", tokens=TOKENS, lines=LINES)
    assert list(found.ids.values()) == theirs["added"]["new"] == theirs["read"]["new"]
    tokenizer = load_tokenizer(tmp_path / "extended")
    ids = tokenizer(LINES)["input_ids"]
    assert ids == theirs["read"]["ids"]
    assert ids == theirs["added"]["ids"]
    skipped = [tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    assert skipped == theirs["read"]["skipped"] == theirs["added"]["skipped"]


@pytest.mark.parametrize("layout", ["hf"])
@pytest.mark.parametrize("shape", ["llama", "qwen2-tied", "bloom", "gemma"])
def test_a_grown_model_has_its_logits_in_transformers(
    shape: str, layout: str, reference: Reference, tmp_path: Path
) -> None:
    model = load_model(cases.make_base(reference, tmp_path / "base", shape), "float32").model
    ids = cases.input_ids(seed=6)
    before = cases.our_logits(model, ids)
    grow(model, 384, 387)
    (tmp_path / "ours").mkdir()
    write_model(tmp_path / "ours", model, layout)
    np.testing.assert_array_equal(cases.our_logits(model, ids)[..., :384], before)
    ids[0, 3:6] = [384, 385, 386]
    expected = cases.reference_logits(reference, tmp_path / "ours", ids)
    assert expected.shape[-1] == 387
    require_equal_logits(cases.our_logits(model, ids), expected)
