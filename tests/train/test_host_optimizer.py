"""`sharding` with `offload` computes what the device would have computed, on the host."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest

from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.train.host_optimizer import HostOptimizer
from paddle_sft.train.optimizer import build_optimizer, optimizer_arrays, restore_optimizer
from tests.train.test_optimizer import parameters, settings, step, values

WORDS = dict(weight_decay=0.1, max_grad_norm=0.5)


def build(made, optim="adamw", mine=None, schedule=0.01):
    plain = partial(build_optimizer, schedule=schedule, arguments=settings(optim, **WORDS))
    return HostOptimizer(made, made if mine is None else mine, plain)


def in_half(made):
    halves = {name: parameter.astype("bfloat16") for name, parameter in made.items()}
    found = {}
    for name, value in halves.items():
        made_again = paddle.nn.Layer().create_parameter(value.shape, dtype="bfloat16")
        made_again.set_value(value)
        found[name] = made_again
    return found


@pytest.mark.parametrize("optim", ["adamw", "adafactor"])
def test_it_computes_what_the_plain_one_does_bit_for_bit(optim):
    on_host, plain = parameters(), parameters()
    schedule = [paddle.optimizer.lr.LinearWarmup(0.01, 4, 0.0, 0.01) for _ in range(2)]
    host = build(on_host, optim, schedule=schedule[0])
    other = build_optimizer(plain, schedule[1], settings(optim, **WORDS))
    for seed in range(4):
        step(host, on_host, seed)
        step(other, plain, seed)
        for one in schedule:
            one.step()
        assert host.get_lr() == other.get_lr()
    for name, value in values(plain).items():
        np.testing.assert_array_equal(on_host[name].numpy(), value, name)
    one, two = optimizer_arrays(host, on_host), optimizer_arrays(other, plain)
    assert one.keys() == two.keys()
    for name, array in two.items():
        np.testing.assert_array_equal(one[name], array, name)


@pytest.mark.parametrize("is_half", [False, True])
def test_restored_it_goes_on_bit_for_bit(tmp_path, is_half):
    made, again = parameters(), parameters(seed=99)
    if is_half:
        made, again = in_half(made), in_half(again)
    host = build(made)
    for seed in range(3):
        step(host, made, seed)
    arrays = optimizer_arrays(host, made)
    assert any(name.endswith("/master_weight") for name in arrays) == is_half
    write_arrays(tmp_path / "optimizer.safetensors", arrays)
    for name, parameter in made.items():
        again[name].set_value(parameter)
    fresh = build(again)
    restore_optimizer(fresh, again, TensorFile(tmp_path / "optimizer.safetensors"))
    for seed in range(3, 6):
        step(host, made, seed)
        step(fresh, again, seed)
    for name, value in values(made).items():
        np.testing.assert_array_equal(again[name].numpy(), value, name)


def test_in_half_precision_small_steps_add_up():
    """A bfloat16 weight of 1 does not move by 1e-3 at once; its float32 value does, and it follows in the end."""
    weight = paddle.nn.Layer().create_parameter([1], dtype="bfloat16")
    weight.set_value(paddle.ones([1], dtype="bfloat16"))
    plain = partial(build_optimizer, schedule=1e-3, arguments=settings("adamw", weight_decay=0.0, max_grad_norm=0.0))
    host = HostOptimizer({"w": weight}, {"w"}, plain)
    seen = []
    for _ in range(10):
        weight.grad = paddle.ones([1], dtype="bfloat16")
        host.step()
        host.clear_grad()
        seen.append(float(weight.astype("float32")))
    assert seen[0] == 1.0 and seen[-1] == pytest.approx(0.99, abs=0.004)


def test_it_follows_a_weight_that_somebody_else_changed():
    """Some adapters set weights between steps."""
    made = parameters()
    host = build(made)
    step(host, made, 0)
    name = next(iter(made))
    made[name].set_value(paddle.full(made[name].shape, 7.0))
    step(host, made, 1)
    assert abs(float(made[name].mean()) - 7.0) < 0.1


def test_what_other_ranks_update_is_left_alone_and_its_gradient_goes():
    made = parameters()
    first, *others = made
    host, before = build(made, mine={first}), values(made)
    step(host, made, 0)
    assert not np.array_equal(made[first].numpy(), before[first])
    for name in others:
        np.testing.assert_array_equal(made[name].numpy(), before[name])
        assert made[name].grad is None or not made[name].grad.numpy().any()
    assert {name.rsplit("/", 1)[0] for name in optimizer_arrays(host, made)} == {first}


def test_state_is_made_and_updated_on_the_host_whatever_the_device(monkeypatch):
    """As on a GPU, which is not here: what paddle.set_device was told around the making and around each update."""
    told = []
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:3")
    monkeypatch.setattr(paddle, "set_device", told.append)
    made = parameters()
    built = []
    host = HostOptimizer(made, made, lambda copies: built.append(list(told)) or Updates(told))
    assert built == [["cpu"]] and told == ["cpu", "gpu:3"]
    next(iter(made.values())).grad = paddle.ones(next(iter(made.values())).shape)
    host.step()
    assert told == ["cpu", "gpu:3", "cpu", "update", "gpu:3"]


class Updates:
    def __init__(self, told):
        self.told = told

    def step(self):
        self.told.append("update")

    def clear_grad(self):
        pass
