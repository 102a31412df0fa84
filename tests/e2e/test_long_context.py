"""Longer context, ways of attention and steps that are not finite, as a user sees them."""

from __future__ import annotations

import json

import pytest

from tests.e2e.commands import GENERATE, TRAIN, here

LONG = {
    "use_long_sequence_strategies": True,
    "strategy_name": "YaRNScalingRotaryEmbedding",
    "rope_scaling_factor": 4,
}


def line(outcome, name):
    """The plan's line that begins with a name, its spaces made one."""
    lines = [" ".join(text.split()) for text in outcome.out.splitlines()]
    return next(text for text in lines if text.startswith(f"{name} "))


@pytest.mark.parametrize("method", [dict(lora=True), dict(lora=None, learning_rate=1e-3)], ids=["lora", "full"])
def test_the_result_of_a_longer_context_says_so_itself(lab, tmp_path, method):
    output = tmp_path / "out"
    outcome = here(TRAIN, lab.write(output, **LONG, **method)).succeeded()
    assert line(outcome, "context").startswith("context 256 -> 1,024 tokens, YaRNScalingRotaryEmbedding (the result's")
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    kept = json.loads((output / ("adapter.json" if method["lora"] else "config.json")).read_text())
    assert (kept["scaled_positions"] if method["lora"] else kept)["rope_scaling"] == scaling
    if method["lora"]:
        words = ["--model_name_or_path", lab.model, "--lora_path", output, "--prompt", "red cat :"]
        here(GENERATE, *words, "--max_new_tokens", 2).succeeded()
    other = lab.write(output, **{**LONG, "rope_scaling_factor": 2}, **method)
    here(TRAIN, other).refused("belongs to another run", "scaled_positions was {'rope_scaling'")


def test_the_plan_says_how_attention_is_computed(lab, tmp_path):
    keys = dict(packing="best_fit", use_flash_attention=True, flash_mask=True, max_steps=1)
    outcome = here(TRAIN, lab.write(tmp_path / "out", **keys)).succeeded()
    said = line(outcome, "attention")
    assert said.startswith("attention by segments") and "no GPU" in said
    assert "the numbers are those of the kernel" in said


def test_a_family_without_rotary_positions_is_refused_before_training(lab, tmp_path, model_folder):
    command = lab.write(tmp_path / "out", model_name_or_path=str(model_folder("bloom")), **LONG)
    here(TRAIN, command).refused("scales rotary positions", "(bloom) has none", "leave it out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("checkpoint-*"))
