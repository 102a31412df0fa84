"""ReFT edits the tokens it names, by the equations of its paper."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.reft.config import ReFTConfig, read_layers
from paddle_sft.adapters.reft.interventions import INTERVENTIONS
from paddle_sft.adapters.reft.positions import read_positions
from paddle_sft.arguments.adapter_model import ACTIVATION_FUNCTIONS, INTERVENTION_TYPES
from paddle_sft.core.errors import ArgumentError
from paddle_sft.data.collate import collate_rows
from paddle_sft.models.virtual import decoder_layers
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

SAMPLES = tiny.make_samples(4, seed=8, longest=12)
ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def gram_schmidt(columns):
    """Orthonormal columns that span what the first ones of `columns` do, one by one, in double precision."""
    found = []
    for column in columns.astype(np.float64).T:
        for other in found:
            column = column - (column @ other) * other
        found.append(column / np.linalg.norm(column))
    return np.stack(found, axis=1)


def slow_edit(name, state, hidden, act_fn):
    """The paper's equations for one hidden state [H], in double precision."""
    arrays = {key: value.numpy().astype(np.float64) for key, value in state.items()}
    act = ACTIVATIONS[act_fn]
    rotation = gram_schmidt(arrays["rotation.weight"]).T if "rotation.weight" in arrays else None  # R [rank, H]
    wanted = act(hidden @ arrays["source.weight"] + arrays["source.bias"]) if "source.weight" in arrays else None
    if name == "LoreftIntervention":
        return hidden + rotation.T @ (wanted - rotation @ hidden)
    if name == "DireftIntervention":
        return hidden + rotation.T @ wanted
    if name == "ConsreftIntervention":
        return hidden + rotation.T @ (arrays["constant"] - rotation @ hidden)
    if name == "LobireftIntervention":
        return hidden + rotation.T @ arrays["constant"]
    if name == "TinyIntervention":
        inner = (hidden @ arrays["param_A"]) @ np.diag(arrays["param_a"]) @ arrays["param_B"]
        return hidden + inner @ np.diag(arrays["param_b"])
    second = arrays["projection.weight"].T  # W2 [rank, H]
    if name == "NodireftIntervention":
        return hidden + second.T @ wanted
    return hidden + second.T @ (wanted - (second @ hidden + arrays["projection.bias"]))


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_an_edit_is_the_equation(name):
    paddle.seed(1)
    act_fn = "silu" if "source" in INTERVENTIONS[name].parts else "linear"
    config = ReFTConfig(intervention_type=name, rank=3, act_fn=act_fn, add_bias=name == "NoreftIntervention")
    edit = INTERVENTIONS[name](10, config, "float32")
    for parameter in edit.parameters():  # as if trained: the free matrix behind R is orthonormal no more
        parameter.set_value(parameter + 0.5 * paddle.randn(parameter.shape))
    hidden = paddle.randn([6, 10])
    expected = [slow_edit(name, edit.state_dict(), row, act_fn) for row in hidden.numpy().astype(np.float64)]
    found = edit(hidden).numpy()
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    assert np.abs(found - hidden.numpy()).max() > 0.1
    assert sum(parameter.size for parameter in edit.parameters()) == INTERVENTIONS[name].count(10, config)


def test_r_stays_orthonormal_and_starts_as_its_parameter():
    rotation = INTERVENTIONS["LoreftIntervention"](12, ReFTConfig(rank=4), "float32").rotation
    np.testing.assert_allclose(rotation().numpy(), rotation.weight.numpy(), atol=1e-6)
    optimizer = paddle.optimizer.Adam(0.1, parameters=rotation.parameters())
    for _ in range(5):
        (rotation() * paddle.randn([12, 4])).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    found = rotation().numpy()
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-5)
    assert np.abs(rotation.weight.numpy().T @ rotation.weight.numpy() - np.eye(4)).max() > 0.1


@pytest.mark.parametrize(
    "text, length, first, last",
    [
        ("f3", 10, [0, 1, 2], []),
        ("l2", 10, [], [8, 9]),
        ("f3+l2", 10, [0, 1, 2], [8, 9]),
        ("f7+l7", 5, [0, 1], [3, 4]),  # half of the prompt each, as in pyreft
        ("f7", 1, [], []),
    ],
)
def test_positions_of_a_prompt(text, length, first, last):
    found = read_positions(text).of_prompt(length)
    assert [one.tolist() for one in found] == [first, last]


@pytest.mark.parametrize("text", ["", "f", "f0", "7", "l2+f3", "f3+l2+", "f3+f2", "all", "f-1", "f3 + l2"])
def test_a_position_that_is_none_is_refused_with_what_is_allowed(text):
    with pytest.raises(ArgumentError, match=r"allowed are f7 \(the first 7 .* f7\+l7 \(both\)"):
        read_positions(text)


def test_places_in_packed_rows_and_in_prompts_with_answers():
    positions = read_positions("f1+l1")
    first, last = positions.of_rows([[4, 5, 3], [6, 6]], [[2, 3], [6]])  # the last segments fill the rows
    assert first.tolist() == [0, 4, 12] and last.tolist() == [1, 6, 17]
    first, last = positions.of_rows([[[4, 2, 3], 3]], None)
    assert first.tolist() == [0, 9] and last.tolist() == [3, 11]


def edited_places(model, samples_in_rows):
    """Row and column of every hidden state that the first layer's hook changed."""
    layer, seen = decoder_layers(model)[0], []
    layer.register_forward_post_hook(lambda one, inputs, output: seen.append(output))
    update = model.model_updates["default"]
    batch = collate_rows(samples_in_rows, 3)
    for enabled in (False, True):
        update.enabled = enabled
        with paddle.no_grad():
            STAGES["sft"].outputs(model, batch)
    one, other = ((output[0] if isinstance(output, tuple) else output).numpy() for output in seen)
    return {tuple(place) for place in np.argwhere((one != other).any(axis=-1)).tolist()}


@pytest.mark.parametrize("share", [False, True])
def test_the_first_and_last_tokens_of_every_prompt_are_edited_and_no_other(model_folder, share):
    model = tiny.load(model_folder())
    attach(model, "reft", ReFTConfig(position="f2+l1", layers=(0,), share_weights=share), None)
    assert len(model.model_updates["default"].edits) == (1 if share else 2)
    expected, rows = set(), [SAMPLES[:2], SAMPLES[2:3], SAMPLES[3:]]
    for number, row in enumerate(rows):
        start = 0
        for sample in row:
            prompt = int(sample.trained.argmax())
            places = [*range(min(2, prompt // 2)), *range(prompt - min(1, prompt // 2), prompt)]
            expected |= {(number, start + place) for place in places}
            start += len(sample)
    assert edited_places(model, rows) == expected and len(expected) > 6


@pytest.mark.parametrize(
    "given, expected", [("all", "all"), ("4;8", (4, 8)), ("1, 0", (1, 0)), ([2], (2,)), ("[3, 1]", (3, 1))]
)
def test_layers_as_users_write_them(given, expected):
    assert read_layers(given) == expected


def test_options_that_an_edit_does_not_have_are_refused(model_folder):
    with pytest.raises(ArgumentError, match="DireftIntervention has no add_bias.* NoreftIntervention"):
        ReFTConfig(intervention_type="DireftIntervention", add_bias=True)
    with pytest.raises(ArgumentError, match="ConsreftIntervention has no act_fn"):
        ReFTConfig(intervention_type="ConsreftIntervention", act_fn="relu")
    with pytest.raises(ArgumentError, match="did you mean"):
        ReFTConfig(intervention_type="LoreftIntervetion")
    with pytest.raises(ArgumentError, match=r"layers names \[2\], and the model has 2: 0 to 1"):
        attach(tiny.load(model_folder()), "reft", ReFTConfig(layers="0,2"), None)


def test_the_arguments_offer_what_there_is():
    from paddle_sft.adapters.reft.interventions import ACTIVATIONS as OURS

    assert INTERVENTION_TYPES == tuple(INTERVENTIONS) and ACTIVATION_FUNCTIONS == tuple(OURS)
