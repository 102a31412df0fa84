from __future__ import annotations

import json

import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.models.config import read_config, to_hugging_face, to_paddlenlp
from paddle_sft.models.writer import write_config
from tests import tiny


@pytest.fixture
def read(tmp_path):
    """Write a config.json and read it."""

    def make(family="llama", remove=(), **changes):
        content = {key: value for key, value in tiny.config(family, **changes).items() if key not in remove}
        (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return read_config(tmp_path)

    return make


def test_the_spellings_of_transformers_5_reach_the_model(read):
    config = read(
        remove=["rope_theta"],
        dtype="bfloat16",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 123456.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    assert config["torch_dtype"] == "bfloat16" and "dtype" not in config and "rope_parameters" not in config
    assert to_paddlenlp(config).rope_theta == 123456.0
    assert to_paddlenlp(config).rope_scaling["rope_type"] == "llama3"
    assert to_paddlenlp(config).rope_scaling["factor"] == 8.0


def test_a_default_rope_of_transformers_5_is_no_scaling(read):
    config = read(remove=["rope_theta"], rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert config["rope_theta"] == 5e5 and not config.get("rope_scaling")


def test_the_older_spelling_of_a_rope_type_is_understood(read):
    scaling = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert read(rope_scaling=scaling)["rope_scaling"]["rope_type"] == "llama3"


REFUSED = [
    ("llama", dict(hidden_act="gelu"), "hidden_act 'gelu'"),
    ("llama", dict(rope_scaling={"type": "linear", "factor": 2.0}), "rope_scaling of type 'linear' .*default, llama3"),
    ("llama", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "rope_scaling of type 'yarn'"),
    ("llama", dict(head_dim=16), "head_dim 16 .* = 8"),
    ("llama", dict(attention_bias=True), "attention_bias true"),
    ("llama", dict(mlp_bias=True), "mlp_bias true"),
    ("qwen2", dict(hidden_act="relu"), "hidden_act 'relu'"),
    ("qwen2", dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_scaling of type 'yarn'"),
    ("qwen2", dict(head_dim=16), "head_dim 16"),
    ("mistral", dict(hidden_act="gelu"), "hidden_act 'gelu'"),
    ("mistral", dict(rope_scaling={"type": "dynamic"}), "rope_scaling of type 'dynamic'"),
    ("mistral", dict(head_dim=16), "head_dim 16"),
    ("mistral", dict(tie_word_embeddings=True), "tie_word_embeddings true"),
    ("gemma", dict(hidden_activation="relu"), "hidden_activation 'relu'"),
    ("gemma", dict(rope_scaling={"type": "linear"}), "rope_scaling of type 'linear'"),
    ("gemma", dict(attention_bias=True), "attention_bias true"),
]


@pytest.mark.parametrize("family, changes, words", REFUSED)
def test_what_a_class_would_ignore_is_refused(read, family, changes, words):
    with pytest.raises(ModelError, match=words) as caught:
        read(family, **changes)
    assert "config.json" in str(caught.value) and family in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_refusal_of_a_family_is_tried_above(family):
    for number, refuse in enumerate(FAMILIES[family].refusals):
        cases = [tiny.config(family, **changes) for name, changes, _ in REFUSED if name == family]
        assert any(refuse(case) for case in cases), f"no case in REFUSED makes refusal {number} of {family} speak"


@pytest.mark.parametrize("family, key", [(name, key) for name, family in FAMILIES.items() for key in family.only])
def test_a_key_at_a_value_that_the_class_ignores_is_refused(read, family, key):
    with pytest.raises(ModelError, match=f"{key} 'other' .this class computes "):
        read(family, **{key: "other"})


def test_all_that_is_wrong_is_said_at_once(read):
    with pytest.raises(ModelError, match="mlp_bias.*|hidden_act.*") as caught:
        read("llama", hidden_act="gelu", mlp_bias=True)
    assert "hidden_act" in str(caught.value) and "mlp_bias" in str(caught.value)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_a_plain_config_of_each_family_is_accepted(read, family):
    assert read(family)["model_type"] == family


def test_an_unknown_family_is_answered_with_those_that_load_exactly(read):
    with pytest.raises(ModelError, match="model_type is 'gpt2'; families that load exactly today: llama, qwen2"):
        read(model_type="gpt2")
    with pytest.raises(ModelError, match="model_type is None"):
        read(remove=["model_type"])


def test_a_folder_without_a_config_says_what_it_found(tmp_path):
    with pytest.raises(ModelError, match="no config.json .found: an empty folder"):
        read_config(tmp_path)
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(ModelError, match="found: train.json"):
        read_config(tmp_path)
    with pytest.raises(ModelError, match="no such folder"):
        read_config(tmp_path / "nowhere")


@pytest.mark.parametrize("text, words", [('{"half', "not readable JSON"), ("[1]", "holds a list")])
def test_a_config_that_is_no_object_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        read_config(tmp_path)


def test_a_config_file_may_be_named_itself(read, tmp_path):
    assert read() == read_config(tmp_path / "config.json")


@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_config_says_what_the_model_computes_with(family, layout, tmp_path):
    config = to_paddlenlp(tiny.config(family))
    write_config(tmp_path, config, layout, "float32")
    back = to_paddlenlp(read_config(tmp_path))
    assert type(back) is type(config)
    for key in FAMILIES[family].keys:
        assert getattr(back, key, None) == getattr(config, key, None), key


def test_a_mistral_without_a_window_says_so_to_transformers_whose_default_is_one():
    assert to_hugging_face(to_paddlenlp(tiny.config("mistral")), "float32")["sliding_window"] is None
    assert to_hugging_face(to_paddlenlp(tiny.config("mistral", sliding_window=64)), "float32")["sliding_window"] == 64


def test_a_window_counts_only_where_it_is_in_use():
    def windows(family, **changes):
        return attention_windows(tiny.config(family, **changes))

    assert windows("mistral") == [0, 0]
    assert windows("mistral", sliding_window=64) == [64, 64]
    assert windows("qwen2", sliding_window=64, use_sliding_window=False) == [0, 0]
    assert windows("qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=1) == [0, 64]
    kinds = ["sliding_attention", "full_attention"]
    assert windows("qwen2", sliding_window=64, use_sliding_window=True, layer_types=kinds) == [64, 0]


def test_a_key_that_is_left_out_means_what_transformers_takes(read):
    assert read("gemma", remove=["tie_word_embeddings"])["tie_word_embeddings"] is True
    assert read("mistral", remove=["sliding_window"])["sliding_window"] == 4096


def test_a_key_that_paddlenlp_left_out_means_what_paddlenlp_takes(read):
    assert "rms_norm_eps" not in read("llama", paddlenlp_version="3.0.0b4")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_that_no_model_can_do_without_is_asked_for(read, family):
    with pytest.raises(ModelError, match=f"hidden_size is not there; a {family} config must give it"):
        read(family, remove=["hidden_size"])


def test_keys_that_nobody_reads_are_known_by_name():
    config = tiny.config("llama", attention_bias=False, transformers_version="5.0", my_key=1, use_cache=True)
    assert FAMILIES["llama"].unknown(config) == ["my_key"]
