"""The keys of attention, longer context, recomputing and steps that are not finite: what goes together."""

from __future__ import annotations

import pytest

YARN = "YaRNScalingRotaryEmbedding"
LONG = {"use_long_sequence_strategies": True, "strategy_name": YARN, "rope_scaling_factor": 4}


def test_flash_keys_left_out_mean_wherever_it_is_possible(load):
    model = load({}).model
    assert model.use_flash_attention is None and model.flash_mask is None


@pytest.mark.parametrize("given", [{}, {"use_flash_attention": True}])
def test_flash_mask_with_packing_loads(load, given):
    assert load({"flash_mask": True, "packing": "best_fit", **given}).model.flash_mask is True
    assert load({"flash_mask": True, "zero_padding": True, **given}).data.packing == "best_fit"


def test_a_strategy_with_a_factor_loads_and_its_type_is_said(load):
    arguments = load(LONG)
    assert arguments.model.rope_scaling_factor == 4.0
    assert arguments.derived["strategy_type"] == ("embedding_strategies", "use_long_sequence_strategies is true")
    load({**LONG, "strategy_type": "embedding_strategies"})
    load({"use_long_sequence_strategies": True, "strategy_name": "RotaryEmbedding"})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"flash_mask": True}, 'flash_mask is true but packing is none.*add "packing": "best_fit"'),
        (
            {"flash_mask": True, "use_flash_attention": False, "packing": "greedy"},
            'use_flash_attention is false.*set "use_flash_attention": true',
        ),
        ({"strategy_name": YARN}, f"strategy_name is {YARN} but use_long_sequence_strategies is off"),
        ({"rope_scaling_factor": 2}, "rope_scaling_factor is 2.0 but use_long_sequence_strategies is off"),
        ({"use_long_sequence_strategies": True}, "strategy_name is missing; give one of RotaryEmbedding, Linear"),
        ({**LONG, "rope_scaling_factor": 1}, "rope_scaling_factor is 1, which extends nothing"),
        ({**LONG, "strategy_name": "RotaryEmbedding"}, "RotaryEmbedding scales nothing.*factor is 4"),
        ({**LONG, "rope_scaling_factor": 0.5}, "rope_scaling_factor must be at least 1"),
        ({**LONG, "strategy_type": "attention_strategies"}, "attention_strategies.*ALiBi.*or a bloom model"),
        ({**LONG, "strategy_name": "AttentionWithLinearBias"}, "AttentionWithLinearBias.*ALiBi.*or a bloom model"),
        ({**LONG, "strategy_name": "Yarn"}, "strategy_name must be one of"),
        ({"recompute_granularity": "core_attn"}, "core_attn but recompute is off"),
        ({"recompute": True, "recompute_granularity": "half"}, "recompute_granularity must be one of"),
        ({"max_nonfinite_steps": 3}, "max_nonfinite_steps is 3 but nonfinite_step is stop"),
        ({"nonfinite_step": "skip", "max_nonfinite_steps": 0}, "max_nonfinite_steps must be at least 1"),
    ],
)
def test_keys_that_contradict_are_refused_with_what_to_do(problems, given, message):
    import re

    assert any(re.search(message, line) for line in problems(given)), problems(given)
