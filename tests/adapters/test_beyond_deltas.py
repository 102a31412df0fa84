"""What an adapter's folder holds beside updates of layers: a classifier's head, and rows for new tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import ADAPTER_CONFIG, adapter_arrays, load_adapter, read_adapter, save_adapter
from paddle_sft.core.errors import ModelError
from paddle_sft.data.classes import Classes
from paddle_sft.models.vocabulary import NewRows, grow, token_parameters
from paddle_sft.train.weights import trainable_parameters
from tests import tiny

HEAD, ROWS = "score.weight", "llama.embed_tokens.weight.new_rows"


@pytest.fixture
def classifier(model_folder):
    model = tiny.load_classifier(model_folder())
    config = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model)
    model.score.weight.set_value(model.score.weight + 1)  # as if trained
    return model, config


@pytest.fixture
def grown(model_folder):
    model = tiny.load(model_folder())
    grow(model, 96, 98)
    config = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model)
    for parameter, axis in token_parameters(model).values():  # other rows than the mean
        array = parameter.numpy()
        array[(slice(96, 98),) if axis == 0 else (slice(None), slice(96, 98))] += np.float32(0.5)
        parameter.set_value(array)
    return model, config


def test_a_new_head_trains_whole_beside_the_adapter_and_everything_else_is_frozen(classifier):
    model, _ = classifier
    trained = set(trainable_parameters(model))
    assert HEAD in trained
    assert {name for name in trained if not is_adapters(name)} == {HEAD}


def test_a_classifiers_adapter_comes_back_with_its_head_and_classes(classifier, model_folder, tmp_path, some_ids):
    model, config = classifier
    save_adapter(tmp_path, model, "lora", config)
    saved = read_adapter(tmp_path)
    assert saved.classes == Classes(("bad", "good", "so so"), known=True) and saved.whole == {HEAD: (32, 3)}
    again = tiny.load_classifier(model_folder())
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(model, some_ids))
    assert HEAD in trainable_parameters(again)


def test_a_classifiers_adapter_is_refused_by_other_models(classifier, model_folder, tmp_path):
    save_adapter(tmp_path, classifier[0], "lora", classifier[1])
    for model in (tiny.load(model_folder()), tiny.load_classifier(model_folder(), ("good", "bad", "so so"))):
        with pytest.raises(ModelError, match=r"is a classifier's \(bad, good, so so\); use it in stage classification"):
            load_adapter(model, tmp_path)


def test_a_language_models_adapter_is_a_start_for_a_classifier_with_a_new_head(model_folder, tmp_path):
    model = tiny.load(model_folder())
    config = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model)
    save_adapter(tmp_path, model, "lora", config)
    classifier = tiny.load_classifier(model_folder())
    head = classifier.score.weight.numpy()
    load_adapter(classifier, tmp_path)
    np.testing.assert_array_equal(classifier.score.weight.numpy(), head)
    deltas = {name: array for name, array in adapter_arrays(classifier).items() if name != HEAD}
    for name, array in adapter_arrays(model).items():
        np.testing.assert_array_equal(deltas.pop(name), array)
    assert not deltas


def test_rows_for_new_tokens_come_back_onto_the_base(grown, model_folder, tmp_path):
    model, config = grown
    save_adapter(tmp_path, model, "lora", config)
    assert read_adapter(tmp_path).new_rows == NewRows(96, 98, 98, 96)
    again = tiny.load(model_folder())
    load_adapter(again, tmp_path)
    ids = np.array([[5, 97, 96, 7]])
    np.testing.assert_array_equal(tiny.logits(again, ids), tiny.logits(model, ids))
    assert again.config.vocab_size == 98
    assert not any(name.endswith("embed_tokens.weight") for name in trainable_parameters(again))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"modules_to_save": {}}, f"{HEAD} is not of this adapter"),
        ({"modules_to_save": {HEAD: [32, 4]}}, f"{HEAD} is \\[32, 3\\], the config needs \\[32, 4\\]"),
        ({"modules_to_save": 5}, "not a readable adapter config"),
        ({"classes": {"names": ["a"]}}, "not a readable adapter config"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_named(classifier, tmp_path, change, words):
    save_adapter(tmp_path, classifier[0], "lora", classifier[1])
    edit(tmp_path, **change)
    with pytest.raises(ModelError, match=words):
        read_adapter(tmp_path)


def test_rows_of_another_number_than_the_config_says_are_named(grown, tmp_path):
    save_adapter(tmp_path, grown[0], "lora", grown[1])
    edit(tmp_path, new_rows={"first": 96, "end": 99, "vocab_size": 99, "base_size": 96})
    with pytest.raises(ModelError, match=f"{ROWS} is \\[2, 32\\], the config needs \\[3, 32\\]"):
        read_adapter(tmp_path)


def edit(folder, **changes):
    path = folder / ADAPTER_CONFIG
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
