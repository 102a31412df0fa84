"""LoRA's relatives against their papers' equations, written out slowly in double precision."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import adapted_linears
from paddle_sft.adapters.lora.config import LoRAConfig, PiSSAConfig, StartedConfig
from paddle_sft.adapters.lora.dora import DoRAUpdate
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.adapters.lora.singular import leading_singular
from paddle_sft.adapters.lora.started import OLoRADelta, PiSSADelta
from paddle_sft.adapters.lora.variants import LoRAFAConfig, LoRAFADelta, MoRAConfig, MoRADelta, MosLoRADelta
from paddle_sft.core.errors import ArgumentError
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.quant.scheme import Scheme
from tests import tiny

ROWS, COLUMNS, RANK, ALPHA = 24, 16, 4, 12.0


@pytest.fixture
def base():
    paddle.seed(0)
    layer = nn.Linear(ROWS, COLUMNS)
    layer.bias.set_value(paddle.randn([COLUMNS]))
    return layer


def trained(kind, config, base):
    """The update with every trained weight away from its start, and its arrays in double precision."""
    update = kind(ROWS, COLUMNS, config, "float32")
    update.start(base)
    random = np.random.default_rng(1)
    for parameter in update.parameters():
        if not parameter.stop_gradient:
            drawn = parameter.numpy() + 0.3 * random.standard_normal(parameter.shape)
            parameter.set_value(drawn.astype("float32"))
    return update, {name: value.numpy().astype("float64") for name, value in update.state_dict().items()}


def outputs(update, base):
    """(inputs, base weight, base bias, the adapted layer's outputs)."""
    x = paddle.randn([5, ROWS])
    arrays = [one.numpy().astype("float64") for one in (x, base.weight, base.bias)]
    return (*arrays, update(x, base).numpy())


@pytest.mark.parametrize("rank, rslora, scaling", [(4, False, 3.0), (4, True, 6.0), (9, True, 4.0)])
def test_rslora_divides_by_the_root_of_the_rank(rank, rslora, scaling):
    config = LoRAConfig(lora_rank=rank, lora_alpha=ALPHA, rslora=rslora)
    assert config.scaling == LoRADelta(ROWS, COLUMNS, config, "float32").scaling == pytest.approx(scaling)


@pytest.mark.parametrize("rslora", [False, True])
def test_dora_scales_each_column_to_its_own_length(base, rslora):
    config = StartedConfig(lora_rank=RANK, lora_alpha=ALPHA, rslora=rslora)
    update, arrays = trained(DoRAUpdate, config, base)
    x, weight, bias, found = outputs(update, base)
    whole = weight + config.scaling * arrays["lora_a"] @ arrays["lora_b"]
    expected = x @ (arrays["magnitude"] * whole / np.sqrt((whole**2).sum(axis=0))) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_doras_magnitude_starts_at_the_length_of_the_columns_and_gets_the_papers_gradient(base):
    """Section 4.3: the length is a constant for the gradient, so that of A and B is LoRA's, scaled by m / |V|."""
    update = DoRAUpdate(ROWS, COLUMNS, StartedConfig(lora_rank=RANK, lora_alpha=ALPHA), "float32")
    update.start(base)
    lengths = np.sqrt((base.weight.numpy() ** 2).sum(axis=0))
    np.testing.assert_allclose(update.magnitude.numpy(), lengths, rtol=1e-6)
    update, arrays = trained(DoRAUpdate, StartedConfig(lora_rank=RANK, lora_alpha=ALPHA), base)
    x = paddle.randn([5, ROWS])
    update(x, base).sum().backward()
    whole = base.weight.numpy() + 3.0 * arrays["lora_a"] @ arrays["lora_b"]
    factor = arrays["magnitude"] / np.sqrt((whole**2).sum(axis=0))
    expected = 3.0 * arrays["lora_a"].T @ x.numpy().T @ np.tile(factor, (5, 1))
    np.testing.assert_allclose(update.lora_b.grad.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_dora_drops_inputs_of_the_update_alone(base):
    config = StartedConfig(lora_rank=RANK, lora_alpha=ALPHA, lora_dropout=0.999)
    update, arrays = trained(DoRAUpdate, config, base)
    x, weight, bias, found = outputs(update, base)
    whole = weight + 3.0 * arrays["lora_a"] @ arrays["lora_b"]
    factor = arrays["magnitude"] / np.sqrt((whole**2).sum(axis=0))
    rows = np.isclose(found, x @ weight * factor + bias, rtol=1e-4, atol=1e-4).all(axis=1)
    assert rows.sum() >= 4  # of 5 rows of 24 inputs hardly one keeps an input at 0.999


@pytest.mark.parametrize("kind", [PiSSADelta, OLoRADelta])
def test_what_starts_from_the_base_adds_the_difference_from_its_start(base, kind):
    config = (PiSSAConfig if kind is PiSSADelta else StartedConfig)(lora_rank=RANK, lora_alpha=ALPHA)
    before = base.weight.numpy().copy()
    update, arrays = trained(kind, config, base)
    x, weight, bias, found = outputs(update, base)
    moved = arrays["lora_a"] @ arrays["lora_b"] - arrays["start_a"] @ arrays["start_b"]
    np.testing.assert_allclose(found, x @ (weight + 3.0 * moved) + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(base.weight.numpy(), before)
    a, b = (one.numpy() for one in update.plain_factors())
    assert a.shape == (ROWS, 2 * RANK) and b.shape == (2 * RANK, COLUMNS)
    np.testing.assert_allclose(3.0 * a @ b, update.delta_weight().numpy(), rtol=1e-4, atol=1e-5)


def test_pissa_starts_from_the_nearest_matrix_of_its_rank(base):
    update = PiSSADelta(ROWS, COLUMNS, PiSSAConfig(lora_rank=RANK, lora_alpha=ALPHA), "float32")
    update.start(base)
    a, b = update.start_a.numpy(), update.start_b.numpy()
    u, s, v = np.linalg.svd(base.weight.numpy().astype("float64"), full_matrices=False)
    np.testing.assert_allclose(3.0 * a @ b, (u[:, :RANK] * s[:RANK]) @ v[:RANK], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1), rtol=1e-4)  # shared out evenly


def test_olora_starts_from_an_orthonormal_b(base):
    update = OLoRADelta(ROWS, COLUMNS, StartedConfig(lora_rank=RANK, lora_alpha=ALPHA), "float32")
    update.start(base)
    a, b = update.start_a.numpy(), update.start_b.numpy()
    np.testing.assert_allclose(b @ b.T, np.eye(RANK), atol=1e-5)
    np.testing.assert_allclose(a, base.weight.numpy() @ b.T, rtol=1e-4, atol=1e-5)  # R = Q' W'


def test_the_fast_decomposition_is_the_exact_one_where_singular_values_fall():
    random = np.random.default_rng(0)
    u, v = (np.linalg.qr(random.standard_normal((size, 40)))[0] for size in (80, 60))
    weight = paddle.to_tensor(((u * 0.8 ** np.arange(40)) @ v.T).astype("float32"))
    exact, fast = leading_singular(weight, 6), leading_singular(weight, 6, niter=4)
    np.testing.assert_allclose(fast[1].numpy(), exact[1].numpy(), rtol=1e-4)
    products = [((u * s) @ v).numpy() for u, s, v in (exact, fast)]
    np.testing.assert_allclose(products[1], products[0], atol=1e-3)
    rough = leading_singular(weight, 6, niter=0)[1].numpy()
    assert np.abs(rough - exact[1].numpy()).max() > 10 * np.abs(fast[1].numpy() - exact[1].numpy()).max()


def test_a_rank_above_what_a_layer_has_is_refused_where_the_start_needs_it(base):
    with pytest.raises(ArgumentError, match="lora_rank 17 is more than a layer of 24 x 16 has .*rank_pattern"):
        PiSSADelta(ROWS, COLUMNS, PiSSAConfig(lora_rank=17), "float32").start(base)


def test_loftq_starts_from_the_nearest_matrix_to_what_quantising_lost(base):
    weight = base.weight.detach()
    quantised = QuantisedLinear.of(weight, Scheme("nf4", 8), base.bias)
    quantised.read_original = lambda: weight.numpy()
    update = LoRADelta(ROWS, COLUMNS, LoRAConfig(lora_rank=RANK, lora_alpha=ALPHA, loftq=True), "float32")
    update.start(quantised)
    lost = (weight - quantised.weight_matrix()).numpy()
    u, s, v = np.linalg.svd(lost.astype("float64"), full_matrices=False)
    np.testing.assert_allclose(update.delta_weight().numpy(), (u[:, :RANK] * s[:RANK]) @ v[:RANK], atol=1e-5)
    assert np.linalg.norm(lost - update.delta_weight().numpy()) < 0.9 * np.linalg.norm(lost)


def test_loftq_says_what_it_needs(base):
    update = LoRADelta(ROWS, COLUMNS, LoRAConfig(loftq=True), "float32")
    with pytest.raises(ArgumentError, match="this base is not quantised; set weight_quantize_algo"):
        update.start(base)
    with pytest.raises(ArgumentError, match="this folder holds codes only; name the original model"):
        update.start(QuantisedLinear.of(base.weight.detach(), Scheme("nf4", 8)))
    with pytest.raises(ArgumentError, match="loftq is a start of plain LoRA"):
        PiSSAConfig(loftq=True)


def test_moslora_mixes_between_a_and_b(base):
    config = StartedConfig(lora_rank=RANK, lora_alpha=ALPHA)
    fresh = MosLoRADelta(ROWS, COLUMNS, config, "float32").lora_mixer.numpy()
    np.testing.assert_allclose(fresh @ fresh.T, np.eye(RANK), atol=1e-5)
    update, arrays = trained(MosLoRADelta, config, base)
    x, weight, bias, found = outputs(update, base)
    expected = x @ (weight + 3.0 * arrays["lora_a"] @ arrays["lora_mixer"] @ arrays["lora_b"]) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_lora_fa_trains_b_alone_and_refuses_a_ratio(base):
    update = LoRAFADelta(ROWS, COLUMNS, LoRAFAConfig(lora_rank=RANK), "float32")
    assert [name for name, one in update.named_parameters() if not one.stop_gradient] == ["lora_b"]
    with pytest.raises(ArgumentError, match="lora_fa trains B alone"):
        LoRAFAConfig(lora_plus_scale=4.0)


def slow_mora(x, square, out_features):
    """The reference's steps on one vector, group by group and pair by pair."""
    size = len(square)
    groups = -(-len(x) // size)
    filled = np.concatenate([x, x[: groups * size - len(x)]])
    outputs = []
    for place in range(groups):
        group = filled[place * size : (place + 1) * size]
        rotated = np.empty(size)
        for pair in range(size // 2):
            angle = place * 10000.0 ** (-2 * pair / size)
            one, other = group[pair], group[pair + size // 2]
            rotated[pair] = one * math.cos(angle) - other * math.sin(angle)
            rotated[pair + size // 2] = other * math.cos(angle) + one * math.sin(angle)
        outputs.append(rotated @ square)
    flat = np.concatenate(outputs)
    return np.tile(flat, -(-out_features // len(flat)))[:out_features]


@pytest.mark.parametrize("rows, columns, rank", [(24, 16, 2), (16, 50, 2), (50, 16, 1), (7, 9, 1), (24, 24, 3)])
def test_mora_rotates_groups_and_multiplies_each_by_one_square(rows, columns, rank):
    config = MoRAConfig(lora_rank=rank)
    update = MoRADelta(rows, columns, config, "float64")
    assert update.size % 2 == 0 and abs(update.size**2 - rank * (rows + columns)) <= 4 * update.size
    square = np.random.default_rng(0).standard_normal([update.size, update.size])
    update.mora.set_value(square)
    x = np.random.default_rng(1).standard_normal([3, rows])
    expected = np.stack([slow_mora(row, square, columns) for row in x])
    np.testing.assert_allclose(update.delta(paddle.to_tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_patterns_give_layers_their_own_numbers(model_folder):
    model = tiny.load(model_folder())
    config = LoRAConfig(
        lora_rank=4,
        lora_alpha=8.0,
        rank_pattern={"mlp.up_proj": 2, r".*layers\.1\..*": 3},
        alpha_pattern={"o_proj": 5.0},
    )
    attach(model, "lora", config, None)
    layers = adapted_linears(model)
    found = {path: (layer.update.lora_a.shape[1], layer.update.scaling) for path, layer in layers.items()}
    assert found["llama.layers.0.mlp.up_proj"] == (2, 4.0) and found["llama.layers.0.mlp.gate_proj"] == (4, 2.0)
    assert found["llama.layers.0.self_attn.o_proj"] == (4, 1.25)
    assert found["llama.layers.1.mlp.up_proj"] == (3, 8.0 / 3)  # of two entries the last


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_names_no_adapted_layer_is_an_error(model_folder, key):
    with pytest.raises(ArgumentError, match=f"{key} names 'up_porj', and no adapted layer"):
        attach(tiny.load(model_folder()), "lora", LoRAConfig(**{key: {"up_porj": 2}}), None)
    with pytest.raises(ArgumentError, match="lora_rank must be at least 1, got 0"):
        LoRAConfig(rank_pattern={"up_proj": 0})


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_lora_plus_moves_b_as_many_times_faster(model_folder, tmp_path, optim):
    """The first step of AdamW (and of Adafactor, up to its clipping) has a length that its learning rate gives."""
    moved = []
    for ratio in (1.0, 8.0):
        model = tiny.load(model_folder())
        paddle.seed(3)
        attach(model, "lora", LoRAConfig(lora_rank=4, lora_plus_scale=ratio), ["q_proj"])
        update = next(iter(adapted_linears(model).values())).update
        tiny.train_deltas(model)
        before = {name: value.numpy() for name, value in update.state_dict().items()}
        tiny.make_trainer(
            model, tmp_path / str(ratio), tiny.make_samples(4), max_steps=1, optim=optim, max_grad_norm=0.0
        ).train()
        moved.append({name: value.numpy() - before[name] for name, value in update.state_dict().items()})
    np.testing.assert_allclose(moved[1]["lora_a"], moved[0]["lora_a"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(moved[1]["lora_b"], 8.0 * moved[0]["lora_b"], rtol=1e-2, atol=2e-6)
