"""A longer context by scaled rotary positions: which keys of config.json change, and who carries them."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import load_adapter, read_adapter, save_adapter
from paddle_sft.arguments.model import STRATEGIES
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.export.merge import MergeJob, merge
from paddle_sft.models.config import read_config
from paddle_sft.models.long_context import KINDS, extend, longest_text, scaled_positions
from tests import tiny

YARN = "YaRNScalingRotaryEmbedding"
IDS = np.random.default_rng(0).integers(4, 96, (2, 60))


@pytest.fixture
def config(model_folder):
    return read_config(model_folder(max_position_embeddings=32))


def test_the_arguments_know_every_strategy():
    assert set(STRATEGIES) == set(KINDS)


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("LinearScalingRotaryEmbedding", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("DynamicNTKScalingRotaryEmbedding", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
        (YARN, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
        # heads of 8 numbers: 4 ** (8 / 6)
        ("NTKScalingRotaryEmbedding", {"rope_theta": 50000 * 6.3496042, "max_position_embeddings": 128}),
        ("RotaryEmbedding", {}),
    ],
)
def test_a_strategy_changes_these_keys_and_the_text_may_be_four_times_as_long(config, strategy, expected):
    found = scaled_positions(config, strategy, 4.0, "m")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, rel=1e-7) if isinstance(value, float) else value)
    assert longest_text({**config, **found}) == (128 if expected else 32)


def test_a_model_that_was_tuned_with_this_scaling_goes_on_with_it(config):
    changes = scaled_positions(config, YARN, 4.0, "m")
    assert scaled_positions({**config, **changes}, YARN, 4.0, "m") == {}
    with pytest.raises(ArgumentError, match="scaled already .rope_scaling of type yarn"):
        scaled_positions({**config, **changes}, YARN, 2.0, "m")


@pytest.mark.parametrize("family", ["bloom", "opt", "gpt2"])
def test_a_family_without_rotary_positions_is_refused(model_folder, family):
    with pytest.raises(ArgumentError, match=rf"scales rotary positions, and m \({family}\) has none"):
        scaled_positions(read_config(model_folder(family)), YARN, 4.0, "m")


def test_a_kind_that_a_family_has_not_is_refused(model_folder):
    with pytest.raises(ModelError, match="phi3 with rope_scaling of type 'linear'"):
        scaled_positions(read_config(model_folder("phi3")), "LinearScalingRotaryEmbedding", 4.0, "m")


def test_an_adapter_carries_the_scaling_for_its_base_to_use_and_merge(model_folder, config, tmp_path):
    folder = model_folder(max_position_embeddings=32)
    changes = scaled_positions(config, YARN, 4.0, "m")
    trained = tiny.load(folder)
    extend(trained, changes)
    lora = attach(trained, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(trained)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", trained, "lora", lora)
    expected = tiny.logits(trained, IDS)
    assert read_adapter(tmp_path / "adapter").scaled_positions == changes
    used = tiny.load(folder)
    load_adapter(used, tmp_path / "adapter")
    np.testing.assert_array_equal(tiny.logits(used, IDS), expected)
    merge(MergeJob(folder, tmp_path / "adapter", tmp_path / "merged", "hf"))
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert written["rope_scaling"] == changes["rope_scaling"]
    merged = tiny.logits(tiny.load(tmp_path / "merged"), IDS)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - tiny.logits(tiny.load(folder), IDS)).max() > 0.01


def test_two_scalings_of_one_model_are_refused(model_folder, config):
    model = tiny.load(model_folder(max_position_embeddings=32))
    extend(model, scaled_positions(config, YARN, 4.0, "m"))
    with pytest.raises(ModelError, match="scaled as .*yarn.* already, and now .*linear"):
        extend(model, scaled_positions(config, "LinearScalingRotaryEmbedding", 4.0, "m"))


def test_paddlenlp_3_0_0b4_ramps_yarn_otherwise_than_the_paper():
    """The docs say so. It mixes the divisors of the pairs between slow and fast, the paper mixes their frequencies."""
    from paddlenlp.transformers.long_sequence_strategies import YaRNScalingRotaryEmbedding

    from paddle_sft.models.rope import rope_of

    settings = dict(
        rope_theta=10000.0, head_dim=64, num_attention_heads=1, hidden_size=64, max_position_embeddings=2048
    )
    scaling = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 2048}
    ours = rope_of({**settings, "rope_scaling": scaling}).frequencies(4096)
    with paddle.no_grad():
        theirs = YaRNScalingRotaryEmbedding(64, 16384, 10000, 8.0).inv_freq.numpy()
    same = np.isclose(ours, theirs, rtol=1e-5)
    assert same[0] and same[-1] and not same.all()
