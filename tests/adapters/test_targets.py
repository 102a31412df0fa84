from __future__ import annotations

import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.targets import choose_targets
from paddle_sft.core.errors import ArgumentError
from tests import tiny

PATHS = [
    f"llama.layers.{number}.{name}"
    for number in range(12)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
]


def test_nothing_said_and_all_linear_mean_every_layer():
    for targets in (None, "all-linear", ["all-linear"]):
        assert choose_targets(PATHS, targets) == PATHS


def test_names_choose_by_the_end_of_a_path_at_a_dot_in_the_models_order():
    assert choose_targets(PATHS, ["down_proj", "q_proj"]) == [p for p in PATHS if p.endswith(("q_proj", "down_proj"))]
    assert choose_targets(PATHS, ["mlp.up_proj"]) == [p for p in PATHS if p.endswith("up_proj")]
    with pytest.raises(ArgumentError):
        choose_targets(PATHS, ["proj"])  # the end of a name is no name


def test_a_whole_path_chooses_one_layer():
    assert choose_targets(PATHS, [PATHS[5]]) == [PATHS[5]]
    assert choose_targets(PATHS, PATHS[5]) == [PATHS[5]]


def test_one_number_is_not_another_that_ends_alike():
    assert choose_targets(PATHS, ["1.mlp.up_proj"]) == ["llama.layers.1.mlp.up_proj"]  # and not that of layer 11


def test_a_text_is_a_name_or_an_expression_over_whole_paths():
    assert choose_targets(PATHS, "q_proj") == [p for p in PATHS if p.endswith("q_proj")]
    assert choose_targets(PATHS, r".*\.layers\.(0|3)\..*_proj") == [p for p in PATHS if ".0." in p or ".3." in p]
    with pytest.raises(ArgumentError):
        choose_targets(PATHS, r"layers\.0")  # matches inside paths, and none as a whole


def test_a_broken_expression_is_said_to_be_one():
    with pytest.raises(ArgumentError, match=r"'\(q_proj' is not a regular expression: "):
        choose_targets(PATHS, "(q_proj")


def test_names_that_match_nothing_are_answered_with_the_nearest_and_with_what_is_there():
    with pytest.raises(ArgumentError) as caught:
        choose_targets(PATHS, ["q_porj", "k_proj", "dwon_proj"])
    text = str(caught.value)
    assert text.startswith(
        "lora_target_modules 'q_porj', 'dwon_proj' match no layer; did you mean 'q_proj', 'down_proj'?"
    )
    assert "Linear layers here: q_proj, k_proj, up_proj, down_proj" in text and PATHS[0] in text


def test_one_name_too_many_is_an_error_though_the_others_match():
    with pytest.raises(ArgumentError, match="'nothing' match no layer"):
        choose_targets(PATHS, ["q_proj", "nothing"])


def test_an_empty_list_is_no_choice():
    with pytest.raises(ArgumentError):
        choose_targets(PATHS, [])


def test_targets_that_match_nothing_leave_the_model_as_it_was(model_folder):
    """PaddleNLP goes on with every weight trainable."""
    model = tiny.load(model_folder(), trainable=True)
    names = list(model.state_dict())
    with pytest.raises(ArgumentError, match="match no layer"):
        attach(model, "lora", LoRAConfig(), ["query_key_value"])
    assert list(model.state_dict()) == names and not any(p.stop_gradient for p in model.parameters())


def test_the_head_is_no_linear_layer_and_the_embedding_is_one_for_lora_only(model_folder):
    with pytest.raises(ArgumentError, match="match no layer"):
        attach(tiny.load(model_folder()), "lora", LoRAConfig(), ["lm_head"])
    config = attach(tiny.load(model_folder()), "lora", LoRAConfig(), ["embed_tokens"])
    assert config.target_modules == ("llama.embed_tokens",)
    with pytest.raises(ArgumentError, match="names the embedding, which adapter loha has no update for"):
        attach(tiny.load(model_folder()), "loha", ADAPTERS["loha"].config(), ["embed_tokens"])
