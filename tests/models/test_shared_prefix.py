"""A prompt that stands in a row once gives each of its answers what it gets behind a prompt of its own."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.models.hub import unique_parameters
from paddle_sft.models.long_context import extend
from tests import tiny

IDS = np.random.default_rng(0).integers(4, 96, 24)
GROUP = [6, 4, 7, 1]
"""A prompt and three answers; an ordinary sample, padding and another row are beside them."""


def logits(model, rows):
    output = model(input_ids=paddle.to_tensor(np.asarray(rows)))
    return output[0] if isinstance(output, (tuple, list)) else output


def one_by_one(model):
    """Logits in the order of the row, and the gradients of the sum of their squares."""
    model.row_layout.clear()
    bounds = np.cumsum(GROUP)
    prompt = IDS[: bounds[0]]
    parts = []
    for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:])):
        found = logits(model, [np.concatenate([prompt, IDS[start:end]])])[0]
        parts += [found] if number == 0 else [found[len(prompt) :]]
    parts.append(logits(model, [IDS[bounds[-1] : 21]])[0])
    sum((part * part).sum() for part in parts).backward()
    return np.concatenate([part.numpy() for part in parts]), gradients(model)


def gradients(model):
    found = {name: p.grad.numpy().copy() for name, p in unique_parameters(model).items() if p.grad is not None}
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    return found


@pytest.mark.parametrize("recomputes", ["", "core_attn", "full_attn"])
@pytest.mark.parametrize(
    "family, changes", [(name, {}) for name in tiny.CONFIGS] + [("mistral", {"sliding_window": 5})]
)
def test_answers_behind_one_prompt_are_answers_one_by_one(model_folder, family, changes, recomputes):
    model = tiny.load(model_folder(family, **changes), trainable=True)
    model.train()
    expected, wanted = one_by_one(model)
    model.row_layout.recomputes = recomputes
    model.row_layout.set([[GROUP, 3, 3]])
    found = logits(model, [IDS])[0, :21]
    (found * found).sum().backward()
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=5e-6)
    largest = max(np.abs(array).max() for array in wanted.values())
    again = gradients(model)
    assert again.keys() == wanted.keys()
    for name, gradient in wanted.items():
        np.testing.assert_allclose(again[name], gradient, rtol=0, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("kind", ["dynamic", "linear"])
def test_a_prompt_that_would_turn_otherwise_for_each_answer_is_refused(model_folder, kind):
    model = tiny.load(model_folder(max_position_embeddings=8))
    extend(model, {"rope_scaling": {"rope_type": kind, "factor": 2.0}})
    model.row_layout.set([[[4, 3, 3], [5, 2, 1]]])  # none is beyond 8 tokens, or both answers are equally long
    if kind == "linear":
        return model.row_layout.set([[[6, 3, 5], 4]])
    with pytest.raises(ValueError, match=r"dynamic turn a prompt of 6 tokens .* answers of \[3, 5\]"):
        model.row_layout.set([[[6, 3, 5], 4]])


def test_positions_that_skip_do_not_go_with_shared_prompts(model_folder):
    model = tiny.load(model_folder())
    with pytest.raises(ValueError, match="can't be given for prompts with several answers"):
        model.row_layout.set([[[3, 2, 2]]], np.arange(7)[None])
