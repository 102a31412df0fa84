from __future__ import annotations

import json

import pytest

from paddle_sft.core.errors import ModelError
from paddle_sft.models.catalogue import FAMILIES, attention_windows
from paddle_sft.models.config import read_config, to_hugging_face, to_paddlenlp
from paddle_sft.models.family import REQUIRED
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


def test_transformers_5_takes_its_own_spelling_before_the_older_one(read):
    config = read(rope_theta=1e4, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert config["rope_theta"] == 5e5
    scaling = {"type": "linear", "factor": 2.0}
    config = read(rope_scaling=scaling, rope_parameters={"rope_type": "dynamic", "factor": 4.0})
    assert config["rope_scaling"]["rope_type"] == "linear" and config["rope_theta"] == 50000.0


def test_the_names_that_early_phi3_had_for_longrope_are_understood(read):
    scaling = {"type": "su", "short_factor": [1.0, 2.0], "long_factor": [1.0, 2.0]}
    assert read("phi3", rope_scaling=scaling)["rope_scaling"]["rope_type"] == "longrope"


REFUSED = [
    ("llama", dict(hidden_act="gelu"), "hidden_act 'gelu'"),
    ("llama", dict(rope_scaling={"type": "ntk", "factor": 2.0}), "rope_scaling of type 'ntk' .available: default, lin"),
    ("llama", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "of type 'yarn' without factor"),
    ("llama", dict(rope_scaling={"type": "llama3", "factor": 8.0}), "without low_freq_factor and high_freq_factor"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor 0.5 .this class turns whole heads"),
    ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2.0}, head_dim=2), "heads of 2 numbers .at least 4"),
    ("llama", dict(head_dim=7), "heads of 7 numbers .an even number"),
    ("llama", dict(rope_parameters={"full_attention": {"rope_theta": 1e4}}), "type 'one for each type of layer'"),
    ("llama", dict(alibi=True), "alibi true .this class computes false or null"),
    ("llama", dict(rope_scaling_type="ntk", rope_scaling_factor=2.0), "rope_scaling_type 'ntk'"),
    ("qwen2", dict(hidden_act="relu"), "hidden_act 'relu'"),
    ("qwen2", dict(rope_scaling={"rope_type": "mrope"}), "rope_scaling of type 'mrope'"),
    ("qwen3", dict(rope_scaling={"rope_type": "mrope"}), "rope_scaling of type 'mrope'"),
    ("mistral", dict(hidden_act="gelu"), "hidden_act 'gelu'"),
    ("mistral", dict(rope_scaling={"type": "dynamic"}), "rope_scaling of type 'dynamic' without factor"),
    ("phi3", dict(rope_scaling={"type": "linear", "factor": 2.0}), "of type 'linear' .available: default, lo"),
    ("phi3", dict(rope_scaling={"type": "su", "short_factor": [1.0], "long_factor": [1.0, 2.0]}), "short_factor has 1"),
    ("phi3", dict(resid_pdrop=0.1), "resid_pdrop 0.1"),
    ("mixtral", dict(rope_scaling={"rope_type": "linear"}), "rope_scaling of type 'linear' without factor"),
    ("mixtral", dict(output_router_logits=True), '"output_router_logits": false trains without it'),
    ("mixtral", dict(router_jitter_noise=0.1), "router_jitter_noise 0.1 .this class computes 0.0"),
    ("qwen2_moe", dict(rope_scaling={"rope_type": "su"}), "rope_scaling of type 'su'"),
    ("qwen2_moe", dict(output_router_logits=True), "output_router_logits true"),
    ("gemma", dict(hidden_activation="relu"), "hidden_activation 'relu'"),
    ("gemma", dict(rope_scaling={"type": "linear"}), "rope_scaling of type 'linear'"),
    ("gemma", dict(attention_bias=True), "attention_bias true"),
    ("gemma2", dict(hidden_activation="relu"), "hidden_activation 'relu'"),
    ("gemma2", dict(rope_scaling={"type": "linear"}), "rope_scaling of type 'linear'"),
    ("gemma2", dict(attention_bias=True), "attention_bias true"),
    ("opt", dict(activation_function="mish"), "activation_function 'mish' .available: relu, gelu, gelu_new"),
    ("opt", dict(tie_word_embeddings=False), "tie_word_embeddings false with word_embed_proj_dim 20"),
    ("opt", dict(layerdrop=0.1), "layerdrop 0.1"),
    ("gpt2", dict(activation_function="mish"), "activation_function 'mish' .available"),
    ("gpt2", dict(add_cross_attention=True), "add_cross_attention true"),
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
    with pytest.raises(ModelError, match="alibi.*|hidden_act.*") as caught:
        read("llama", hidden_act="gelu", alibi=True)
    assert "hidden_act" in str(caught.value) and "alibi" in str(caught.value)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_a_plain_config_of_each_family_is_accepted(read, family):
    assert read(family)["model_type"] == family


def test_an_unknown_family_is_answered_with_those_that_load_exactly(read):
    with pytest.raises(ModelError, match="model_type is 'retnet'; families that load exactly today: llama, qwen2"):
        read(model_type="retnet")
    with pytest.raises(ModelError, match="'deepseek_v3', which is not verified against transformers; families that"):
        read(model_type="deepseek_v3")
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
    for key, default in FAMILIES[family].keys.items():
        # transformers 5 refuses null where a value belongs: what PaddleNLP's config has not is written as its default
        unsaid = None if default is REQUIRED or layout == "paddle" else default
        assert getattr(back, key, None) == getattr(config, key, unsaid), key


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
    assert windows("mixtral", sliding_window=64) == [64, 64]
    assert windows("qwen2_moe", sliding_window=64) == [0, 0]
    every_other = dict(sliding_window=64, use_sliding_window=True, num_hidden_layers=4)
    assert windows("qwen2_moe", **every_other) == [64, 0, 64, 0]
    assert windows("qwen2_moe", **every_other, max_window_layers=1) == [64, 0, 0, 0]


def test_a_key_that_is_left_out_means_what_transformers_takes(read):
    assert read("gemma", remove=["tie_word_embeddings"])["tie_word_embeddings"] is True
    assert read("mistral", remove=["sliding_window"])["sliding_window"] == 4096


def test_a_key_that_paddlenlp_left_out_means_what_paddlenlp_takes(read):
    assert "rms_norm_eps" not in read("llama", paddlenlp_version="3.0.0b4")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_that_no_model_can_do_without_is_asked_for(read, family):
    key = [key for key, default in FAMILIES[family].keys.items() if default is REQUIRED][1]  # the width
    with pytest.raises(ModelError, match=f"{key} is not there; a {family} config must give it"):
        read(family, remove=[key])


def test_keys_that_nobody_reads_are_known_by_name():
    config = tiny.config("llama", attention_bias=False, transformers_version="5.0", my_key=1, use_cache=True)
    assert FAMILIES["llama"].unknown(config) == ["my_key"]
