"""New rows of the embedding and the head: the mean of the old ones, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from paddle_sft.core.tensorfile import to_float32
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.vocabulary import NewRows, grow, put_rows, read_rows, set_rows, token_parameters
from paddle_sft.models.writer import write_model
from tests import tiny

WIDER = {"llama": ("llama.embed_tokens.weight", "lm_head.weight"), "qwen2": ("qwen2.embed_tokens.weight",)}
"""What grows where the head has weights of its own, and where it is tied."""


def rows_of(model):
    """Name -> rows [V, ...] in float64."""
    found = {}
    for name, (parameter, axis) in token_parameters(model).items():
        array = parameter.numpy().astype(np.float64)
        found[name] = array if axis == 0 else array.T
    return found


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_a_grown_model_computes_what_it_did_and_its_new_rows_are_the_mean(model_folder, some_ids, family):
    model = tiny.load(model_folder(family))
    logits, before = tiny.logits(model, some_ids), rows_of(model)
    others = {name: array for name, array in tiny.snapshot(model).items() if name not in before}
    assert grow(model, 96, 98) == NewRows(96, 98, 98, 96)
    np.testing.assert_array_equal(tiny.logits(model, some_ids)[..., :96], logits)
    for name, rows in rows_of(model).items():
        np.testing.assert_array_equal(rows[:96], before[name])
        np.testing.assert_allclose(rows[96], before[name].mean(axis=0), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(rows[96], rows[97])
    after = tiny.snapshot(model)
    changed = {name for name, array in others.items() if not np.array_equal(array, after[name])}
    assert all(name.startswith("lm_head") for name in changed)  # the embedding's other name, where they are tied
    assert model.config.vocab_size == 98


@pytest.mark.parametrize("family", WIDER)
@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_a_grown_model_comes_back_from_its_folder(model_folder, tmp_path, family, layout):
    model = tiny.load(model_folder(family))
    grow(model, 96, 99)
    assert tuple(token_parameters(model)) == WIDER[family]
    write_model(tmp_path, model, layout)
    assert read_config(tmp_path)["vocab_size"] == 99
    again = load_model(tmp_path, "float32").model
    ids = np.array([[5, 98, 96, 7]])
    np.testing.assert_array_equal(tiny.logits(again, ids), tiny.logits(model, ids))
    assert len(unique_parameters(again)) == len(unique_parameters(tiny.load(model_folder(family))))


def test_spare_rows_are_used_first_and_only_those(model_folder):
    model = tiny.load(model_folder())
    before = rows_of(model)
    assert grow(model, 90, 92) == NewRows(90, 92, 96, 96)
    for name, rows in rows_of(model).items():
        assert len(rows) == 96
        np.testing.assert_allclose(rows[90], before[name][:90].mean(axis=0), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(rows[92:], before[name][92:])
        np.testing.assert_array_equal(rows[:90], before[name][:90])


def test_growing_twice_keeps_the_first_new_row_in_mind(model_folder):
    model = tiny.load(model_folder())
    grow(model, 96, 98)
    assert grow(model, 98, 99) == NewRows(96, 99, 99, 96)


def test_the_mean_does_not_lose_what_half_precision_would(model_folder):
    """Summed in bfloat16, a thousand rows of 0.1 are no mean any more."""
    model = load_model(model_folder(vocab_size=3000), "bfloat16").model
    before = {name: to_float32(np.asarray(p.numpy()), "BF16") for name, (p, _) in token_parameters(model).items()}
    grow(model, 3000, 3001)
    for name, (parameter, axis) in token_parameters(model).items():
        rows = to_float32(np.asarray(parameter.numpy()), "BF16")
        rows, old = (rows, before[name]) if axis == 0 else (rows.T, before[name].T)
        np.testing.assert_allclose(rows[3000], old.astype(np.float64).mean(axis=0), rtol=2**-8)


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_can_be_put_into_the_base_without_a_model(model_folder, axis):
    old = np.arange(12, dtype=np.float32).reshape((4, 3) if axis == 0 else (3, 4))
    values = np.full((2, 3), 7, dtype=np.float32)
    grown = put_rows(old, axis, NewRows(3, 5, 6, 4), values)
    rows = grown if axis == 0 else grown.T
    assert rows.shape == (6, 3)
    np.testing.assert_array_equal(rows[:3], (old if axis == 0 else old.T)[:3])
    np.testing.assert_array_equal(rows[3:5], values)
    np.testing.assert_array_equal(rows[5], 0)


def test_trained_rows_are_read_and_given_to_another_model(model_folder):
    one, other = tiny.load(model_folder()), tiny.load(model_folder())
    rows = grow(one, 96, 98)
    for parameter, _ in token_parameters(one).values():
        parameter.set_value(parameter + 1)
    grow(other, 96, 98)
    set_rows(other, rows, {name: (array, "F32") for name, array in read_rows(one, rows).items()})
    for name, array in rows_of(other).items():
        np.testing.assert_array_equal(array[96:], rows_of(one)[name][96:])
        assert (array[:96] != rows_of(one)[name][:96]).all()
