"""Classifiers from folders and back; what a language model's folder becomes; what is refused by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.data.classes import Classes
from paddle_sft.models.classification import HEAD, architecture, classes_of, load_classifier
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.linears import find_linears
from paddle_sft.models.writer import write_model
from tests import tiny

NAMES = ("bad", "good", "so so")


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "bloom"])
def test_a_classifier_comes_back_from_its_folder_bit_for_bit(model_folder, tmp_path, some_ids, family, layout):
    model = tiny.load_classifier(model_folder(family), NAMES)
    write_model(tmp_path, model, layout)
    classes = classes_of(read_config(tmp_path), "there")
    assert classes == Classes(NAMES, known=True)
    loaded = load_classifier(tmp_path, "float32", classes)
    assert not loaded.head_is_new and loaded.is_hugging_face == (layout == "hf")
    assert not any(name.startswith("lm_head") for name in unique_parameters(loaded.model))
    np.testing.assert_array_equal(tiny.logits(loaded.model, some_ids), tiny.logits(model, some_ids))


def test_a_new_head_is_drawn_by_the_seed_alone_and_is_no_layer_that_adapters_wrap(model_folder):
    heads = [
        load_classifier(model_folder(), "float32", Classes(NAMES), seed).model.score.weight.numpy()
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert (heads[0] != heads[2]).any() and heads[0].shape == (32, 3)
    assert 0.07 < heads[0].std() < 0.13  # initializer_range of the tiny config
    model = tiny.load_classifier(model_folder())
    assert model.score not in find_linears(model).values() and len(find_linears(model)) == 14


def test_the_names_of_transformers_classes():
    known = {"llama": "Llama", "qwen2": "Qwen2", "bloom": "Bloom", "gpt2": "GPT2", "opt": "OPT"}
    for family, name in known.items():
        assert architecture(family) == f"{name}ForSequenceClassification"


def config(**changes):
    return {"architectures": ["LlamaForSequenceClassification"], **changes}


def test_classes_are_read_as_transformers_writes_them():
    assert classes_of({"architectures": ["LlamaForCausalLM"]}, "there") is None
    assert classes_of(config(), "there").names == ("LABEL_0", "LABEL_1")  # its default, which it leaves out
    written = config(id2label={"1": "yes", "0": "no"}, problem_type="multi_label_classification")
    assert classes_of(written, "there") == Classes(("no", "yes"), multi_label=True, known=True)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"problem_type": "regression", "id2label": {"0": "x"}}, "there is a regression model"),
        ({"id2label": {"0": "x"}}, "there is a regression model"),
        ({"id2label": {"0": "x", "2": "y"}}, "id2label in config.json must name ids 0, 1, 2"),
        ({"id2label": {"0": "x", "1": "x"}}, "its own name"),
    ],
)
def test_a_config_of_no_classifier_of_ours_is_refused(changes, words):
    with pytest.raises(ModelError, match=words):
        classes_of(config(**changes), "there")


def test_a_classifier_is_refused_where_text_is_wanted(model_folder, tmp_path):
    write_model(tmp_path, tiny.load_classifier(model_folder()), "paddle")
    with pytest.raises(ModelError, match="is a sequence classifier, which writes no text; set stage to classification"):
        load_model(tmp_path, "float32")


def test_a_head_of_another_size_than_the_config_says_is_refused(model_folder, tmp_path):
    write_model(tmp_path, tiny.load_classifier(model_folder()), "paddle")
    with pytest.raises(ModelError, match=rf"{HEAD} is \[32, 3\], the config needs \[32, 2\]"):
        load_classifier(tmp_path, "float32", Classes(("a", "b")))


def test_a_classifier_that_says_it_writes_text_is_refused(model_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(model_folder(), folder)
    write_model(folder, tiny.load_classifier(model_folder()), "paddle")
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, "architectures": None}), encoding="utf-8")
    with pytest.raises(ModelError, match=HEAD):
        load_model(folder, "float32")
