"""Merging adapters that hold more than updates of layers: a classifier's head, and rows for new tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import load_adapter, save_adapter
from paddle_sft.core.errors import ModelError
from paddle_sft.data.classes import Classes
from paddle_sft.export.merge import RECEIPT, MergeJob, merge
from paddle_sft.models.classification import classes_of, load_classifier
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import load_model
from paddle_sft.models.new_tokens import add_special_tokens
from paddle_sft.models.tokenizers import load_tokenizer
from paddle_sft.models.vocabulary import grow
from paddle_sft.models.writer import write_model
from tests import tiny

IDS = np.array([[5, 97, 96, 7, 20]])


def write_adapter(model, folder):
    config = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model)
    if hasattr(model, "score"):
        model.score.weight.set_value(model.score.weight + 0.25)
    folder.mkdir(exist_ok=True)
    save_adapter(folder, model, "lora", config)
    return folder


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family, base_layout", [("llama", "hf"), ("qwen2", "paddle"), ("bloom", "paddle")])
def test_a_merged_classifier_is_base_plus_adapter_with_its_head(
    model_folder, tmp_path, some_ids, family, base_layout, layout
):
    base = model_folder(family, base_layout, pad_token_id=None)  # the tokenizer has one
    model = tiny.load_classifier(base)
    adapter = write_adapter(model, tmp_path / "adapter")
    receipt = merge(MergeJob(base, adapter, tmp_path / "merged", layout))
    config = read_config(tmp_path / "merged")
    classes = classes_of(config, "merged")
    assert classes == Classes(("bad", "good", "so so"), known=True) and config["pad_token_id"] == 3
    merged = load_classifier(tmp_path / "merged", "float32", classes)
    assert not merged.head_is_new and receipt["max_abs_logit_difference"] < 1e-4
    np.testing.assert_allclose(tiny.logits(merged.model, some_ids), tiny.logits(model, some_ids), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(merged.model.score.weight.numpy(), model.score.weight.numpy())


def test_a_classifier_trained_on_replaces_its_head(model_folder, tmp_path, some_ids):
    first = tiny.load_classifier(model_folder())
    base = tmp_path / "classifier"
    base.mkdir()
    tiny.make_tokenizer(base)
    write_model(base, first, "paddle")
    model = load_classifier(base, "float32", classes_of(read_config(base), "base")).model
    adapter = write_adapter(model, tmp_path / "adapter")
    merge(MergeJob(base, adapter, tmp_path / "merged"))
    merged = load_classifier(tmp_path / "merged", "float32", first.classes).model
    other = write_adapter(tiny.load_classifier(model_folder(), ("x", "y")), tmp_path / "other")
    with pytest.raises(ModelError, match="tells bad, good, so so apart, the adapter x, y"):
        merge(MergeJob(base, other, tmp_path / "wrong"))
    np.testing.assert_allclose(tiny.logits(merged, some_ids), tiny.logits(model, some_ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom"])
def test_a_merged_model_has_the_rows_of_new_tokens_and_their_tokenizer(model_folder, tmp_path, family, layout):
    base = model_folder(family)
    add_special_tokens(base, tmp_path / "adapter", ["<|ask|>", "<|done|>"])
    model = tiny.load(base)
    grow(model, 96, 98)
    embedding = model.get_input_embeddings().weight
    embedding[97] = embedding[97] + 0.5  # not the mean any more
    adapter = write_adapter(model, tmp_path / "adapter")
    merge(MergeJob(base, adapter, tmp_path / "merged", layout))
    assert read_config(tmp_path / "merged")["vocab_size"] == 98
    merged = load_model(tmp_path / "merged", "float32").model
    expected = tiny.logits(model, IDS)
    np.testing.assert_allclose(tiny.logits(merged, IDS), expected, rtol=0, atol=1e-5)
    again = load_model(base, "float32").model
    load_adapter(again, adapter)
    np.testing.assert_array_equal(tiny.logits(again, IDS), expected)
    assert load_tokenizer(tmp_path / "merged").convert_tokens_to_ids(["<|ask|>", "<|done|>"]) == [96, 97]


def test_a_base_with_another_number_of_rows_is_named(model_folder, tmp_path):
    """The adapter's rows would stand where the base has its own."""
    model = tiny.load(model_folder())
    grow(model, 96, 98)
    adapter = write_adapter(model, tmp_path / "adapter")
    other = model_folder(vocab_size=97)
    with pytest.raises(ModelError, match="behind a base of 96 tokens, and .* has 97"):
        merge(MergeJob(other, adapter, tmp_path / "merged"))
    with pytest.raises(ModelError, match="behind a base of 96 tokens, and the base model has 97"):
        load_adapter(tiny.load(other), adapter)


def test_nothing_is_written_when_the_head_that_was_written_is_another(model_folder, tmp_path, monkeypatch):
    from paddle_sft.export import merge as module

    adapter = write_adapter(tiny.load_classifier(model_folder()), tmp_path / "adapter")
    real = module.merged_tensor
    monkeypatch.setattr(
        module, "merged_tensor", lambda base, saved, spec: real(base, saved, spec) + (spec.name == "score.weight")
    )
    with pytest.raises(ModelError, match="differ from base \\+ adapter"):
        merge(MergeJob(model_folder(), adapter, tmp_path / "merged"))
    assert not (tmp_path / "merged" / RECEIPT).exists()
    assert json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))["modules_to_save"]
