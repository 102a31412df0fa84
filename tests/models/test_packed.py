"""A row of several samples gives each sample what it gets alone, in every family."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.models import packed
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_from_scratch, unique_parameters
from tests import tiny

SAMPLES = [[5, 17, 90, 3, 8, 42, 7], [1, 77, 20, 31, 64], [9], [4, 33]]


def build(tmp_path, family, **changes):
    import json

    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.config(family, **changes)), encoding="utf-8")
    config = read_config(path)
    model = build_from_scratch(config, "float32", seed=3)
    for parameter in unique_parameters(model).values():
        parameter.set_value(parameter + 0.05 * paddle.randn(parameter.shape))
        parameter.stop_gradient = False
    return model, config


def logits(model, ids):
    output = model(input_ids=paddle.to_tensor([ids]))
    return output[0] if isinstance(output, (tuple, list)) else output


def gradients(model, loss):
    loss.backward()
    found = {name: p.grad.numpy() for name, p in unique_parameters(model).items()}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return found


VARYING = [  # how a token turns depends on its sample's length, and the lengths above lie on both sides
    ("llama", dict(max_position_embeddings=4, rope_scaling={"rope_type": "dynamic", "factor": 4.0})),
    ("phi3", dict(original_max_position_embeddings=4, rope_scaling={
        "rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 9.0]})),
]  # fmt: skip


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("family, changes", [(family, {}) for family in tiny.CONFIGS] + VARYING)
def test_packed_is_one_by_one(tmp_path, family, changes, recompute):
    model, config = build(tmp_path, family, **changes)
    model.train()
    alone = [logits(model, sample) for sample in SAMPLES]
    expected = gradients(model, sum((one * one).sum() for one in alone))
    if recompute:
        for layer in model.sublayers():
            if hasattr(layer, "enable_recompute"):
                layer.enable_recompute = True
    model.row_layout.set([[len(sample) for sample in SAMPLES]])
    packed = logits(model, [token for sample in SAMPLES for token in sample])
    np.testing.assert_allclose(packed.numpy()[0], np.concatenate([one.numpy()[0] for one in alone]), atol=1e-5)
    found = gradients(model, (packed * packed).sum())
    grain = 1e-7 * max(np.abs(gradient).max() for gradient in expected.values())  # OPT's key biases have no gradient
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-5 * np.abs(gradient).max() + grain, err_msg=name)


def test_a_sliding_window_is_kept_inside_segments(tmp_path):
    """PaddleNLP ignores the window; by segments the first tokens of a long sample stop mattering to its last."""
    model, config = build(tmp_path, "mistral", sliding_window=3, num_hidden_layers=1)
    model.row_layout.set([[6]])
    one, other = [9, 4, 5, 6, 7, 8], [33, 4, 5, 6, 7, 8]
    last = [logits(model, ids).numpy()[0, -1] for ids in (one, other)]
    np.testing.assert_array_equal(*last)
    assert np.abs(logits(model, one).numpy()[0, 2] - logits(model, other).numpy()[0, 2]).max() > 1e-3


def test_cleared_rows_are_whole_again(tmp_path):
    model, config = build(tmp_path, "llama")
    before = logits(model, SAMPLES[0]).numpy()
    model.row_layout.set([[3, 4]])
    assert np.abs(logits(model, SAMPLES[0]).numpy() - before).max() > 1e-3
    model.row_layout.clear()
    np.testing.assert_array_equal(logits(model, SAMPLES[0]).numpy(), before)


def test_rows_of_another_shape_than_the_segments_are_refused(tmp_path):
    model, _ = build(tmp_path, "bloom")
    model.row_layout.set([[3, 4]])
    with pytest.raises(ValueError, match="segments were set for rows .1, 7., the rows are .1, 5."):
        logits(model, SAMPLES[1])


def test_a_mask_that_hides_tokens_is_refused(tmp_path):
    model, _ = build(tmp_path, "llama")
    with pytest.raises(ValueError, match="equal lengths"):
        model(input_ids=paddle.to_tensor([SAMPLES[1]]), attention_mask=paddle.to_tensor([[0, 1, 1, 1, 1]]))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma"])
def test_attention_dropout_is_for_training(tmp_path, family):
    model, _ = build(tmp_path, family, attention_dropout=0.5)
    without, _ = build(tmp_path, family)
    np.testing.assert_array_equal(logits(model.eval(), SAMPLES[0]).numpy(), logits(without, SAMPLES[0]).numpy())
    np.testing.assert_array_equal(*[logits(without.train(), SAMPLES[0]).numpy() for _ in range(2)])
    model.train()
    model.row_layout.set([[7]])
    one, other = [logits(model, SAMPLES[0]).numpy() for _ in range(2)]
    assert np.abs(one - other).max() > 1e-3


WINDOWED = [
    ("mistral", dict(sliding_window=3)),
    ("qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)),
]


@pytest.mark.parametrize("family, changes", [(family, {}) for family in tiny.CONFIGS] + WINDOWED)
def test_a_cache_gives_what_reading_the_whole_row_gives(tmp_path, family, changes):
    model, _ = build(tmp_path, family, **changes)
    model.eval()
    ids = paddle.to_tensor(np.random.default_rng(0).integers(4, 96, (2, 9)))
    model.row_layout.set([[9], [9]])
    expected = model(input_ids=ids)
    expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()
    model.row_layout.clear()
    name = "cache" if family == "bloom" else "past_key_values"
    tokens, past = [], None
    for start, end in ((0, 5), (5, 6), (6, 9)):
        output = model(input_ids=ids[:, start:end], use_cache=True, **{name: past})
        tokens.append(output[0].numpy())
        past = output[1]
    np.testing.assert_allclose(np.concatenate(tokens, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize("family, changes", VARYING)
def test_a_cache_is_left_where_a_longer_row_turns_its_tokens_otherwise(tmp_path, family, changes):
    """As transformers' Phi-3 does; each next token is the likeliest of the row as it is then."""
    model, _ = build(tmp_path, family, **changes)
    model.eval()
    row = [5, 17]
    output = model.generate(
        paddle.to_tensor([row]), attention_mask=paddle.ones([1, 2], dtype="int64"), max_new_tokens=7,
        decode_strategy="greedy_search", use_cache=True, eos_token_id=1000,
    )[0]  # fmt: skip
    for token in output.numpy()[0].tolist():
        assert token == int(logits(model, row).numpy()[0, -1].argmax())
        row.append(token)
    past = model(input_ids=paddle.to_tensor([row[:4]]), use_cache=True)[1]
    with pytest.raises(ValueError, match="in a row of 5 than in one of 4; read the whole row again"):
        model(input_ids=paddle.to_tensor([row[4:5]]), use_cache=True, past_key_values=past)


@pytest.mark.parametrize(
    "recomputes, scores, layers", [("", 1, 1), ("core_attn", 2, 1), ("full_attn", 2, 2)], ids=["", "core", "full"]
)
def test_a_part_that_is_recomputed_is_computed_twice_and_nothing_else(
    model_folder, monkeypatch, recomputes, scores, layers
):
    model, calls = tiny.load(model_folder(), trainable=True), {"scores": 0, "layers": 0}
    mixed, attended = packed.segment_attention, packed.LayerRows.attend_turned

    def count(name, function):
        def call(*parts, **named):
            calls[name] += 1
            return function(*parts, **named)

        return call

    monkeypatch.setattr(packed, "segment_attention", count("scores", mixed))
    monkeypatch.setattr(packed.LayerRows, "attend_turned", count("layers", attended))
    model.train()
    model.row_layout.recomputes = recomputes
    model.row_layout.set([[len(SAMPLES[0])]])
    (logits(model, SAMPLES[0]) ** 2).sum().backward()
    assert calls == {"scores": 2 * scores, "layers": 2 * layers}  # two layers
