"""A profile names the operators of a step, counts their calls and their work, and loses no time."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.operators import cpu
from paddle_sft.operators.build import load_operators, replaced_operators
from paddle_sft.operators.linear import LinearParts, linears, product
from paddle_sft.operators.timing import TimedOperators
from paddle_sft.train.profile import BETWEEN, operator_lines
from tests import tiny

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")


@pytest.fixture
def profile(model_folder, tmp_path, capsys):
    """Train a tiny llama with LoRA and read its profile: (profile.json, operators by name, what was printed)."""

    def run(num_steps, **keys):
        model = tiny.load(model_folder("llama"))
        attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
        samples = tiny.make_samples(8, seed=3, longest=30)
        keys = {"max_steps": num_steps, "per_device_train_batch_size": 4, "profile": True, **keys}
        tiny.make_trainer(model, tmp_path, samples, **keys).train()
        content = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
        assert capsys.readouterr().out.strip().endswith((tmp_path / "profile.txt").read_text(encoding="utf-8").strip())
        return content, {line["name"]: line for line in content["operators"]}

    return run


@needs_compiler
def test_it_names_compiled_operators_with_their_rates(profile):
    content, lines = profile(4, profile_steps=2)
    assert content["steps"] == 2 and set(content["limits"]) == {"GFLOP/s", "GB/s"}
    layers, steps = 2, 2
    groups = 4  # q/k/v, o, gate/up, down
    assert lines["compiled linears"]["calls"] == lines["compiled linears_grad"]["calls"] == groups * layers * steps
    assert lines["compiled rms_norm"]["calls"] == (2 * layers + 1) * steps
    for name in ("linears", "linears_grad", "attention", "attention_grad"):
        line = lines[f"compiled {name}"]
        assert line["unit"] == "GFLOP/s" and line["rate"] > 0
        assert line["of_limit"] == pytest.approx(line["rate"] / content["limits"]["GFLOP/s"])
    assert lines["compiled swiglu"]["unit"] == "GB/s"


def test_it_names_paddles_operators_where_nothing_is_compiled(profile):
    with replaced_operators(None):
        content, lines = profile(3, profile_steps=2)
    assert content["limits"] == {} and not [name for name in lines if name.startswith("compiled")]
    assert lines["matmul"]["calls"] >= 2 * 2 * 7 and lines["Matmul gradient"]["calls"] >= 2 * 2 * 7


def test_all_of_the_time_is_somewhere(profile):
    content, lines = profile(3, profile_steps=2)
    assert sum(line["share"] for line in lines.values()) == pytest.approx(1.0, abs=0.05)
    total = sum(line["milliseconds"] for line in lines.values())
    assert total == pytest.approx(1000 * content["seconds_per_step"] * content["steps"], rel=0.05)
    assert BETWEEN in lines


@pytest.mark.parametrize("num_steps, profiled", [(1, 1), (2, 2), (3, 2)])
def test_a_short_run_is_profiled_as_far_as_it_goes(profile, num_steps, profiled):
    """The first step is left out where enough others are there."""
    assert profile(num_steps, profile_steps=2)[0]["steps"] == profiled


def counted(step):
    timed = TimedOperators(load_operators())
    with replaced_operators(timed):
        step()
    return timed.work


@needs_compiler
def test_the_work_of_a_product():
    assert counted(lambda: product(paddle.randn([3, 5]), paddle.randn([5, 7]))) == {"product": 2 * 3 * 5 * 7}


@needs_compiler
@pytest.mark.parametrize("trained", [False, True])
def test_the_work_of_linear_layers(trained):
    x, weight, a, b = (paddle.randn(shape) for shape in ([6, 10], [10, 8], [10, 2], [2, 8]))
    for one, is_trained in zip((x, weight, a, b), (True, trained, True, True)):
        one.stop_gradient = not is_trained
    work = counted(lambda: linears(x, [LinearParts(weight, None, a, b)])[0].sum().backward())
    dense, low = 2 * 6 * 10 * 8, 2 * 6 * 2 * (10 + 8)
    assert work == {"linears": dense + low, "linears_grad": dense * (1 + trained) + 2 * low}


@needs_compiler
def test_the_work_of_attention_is_below_the_diagonal():
    query, key, value = (paddle.randn([1, 7, heads, 8]) for heads in (4, 2, 2))
    query.stop_gradient = False
    work = counted(
        lambda: cpu.SegmentAttention.apply(query, key, value, cpu.starts_of([[4, 3]]), 0, 0.3).sum().backward()
    )
    half = (4**2 + 3**2) * 4 * 8  # of the square: a product has two operations for each pair and number
    assert work == {"attention": 2 * half, "attention_grad": 5 * half}


@needs_compiler
def test_the_work_of_some_queries_is_what_they_see():
    query, key, value = (paddle.randn([1, width, 4, 8]) for width in (3, 7, 7))
    rows, places = cpu.starts_of([[4, 3]]), np.array([1, 3, 6])
    work = counted(lambda: cpu.SegmentAttention.apply(query, key, value, rows, 0, 0.3, places))
    seen = 2 * (2 + 4 + 3) - 3  # a token itself counts half, as on the diagonal of a square
    assert work == {"attention": 2 * seen * 4 * 8}


@needs_compiler
def test_bytes_are_those_of_the_arrays():
    x, cos = paddle.randn([2, 5, 3, 8]), paddle.randn([2, 5, 1, 8])
    assert counted(lambda: cpu.Rotary.apply(x, cos, cos)) == {"rotary": 2 * x.size * 4}
    gate = paddle.randn([6, 7])
    gate.stop_gradient = False
    work = counted(lambda: cpu.SwiGLU.apply(gate, gate).sum().backward())
    assert work == {"swiglu": 3 * gate.size * 4, "swiglu_grad": 5 * gate.size * 4}
    weight = paddle.randn([7])
    work = counted(lambda: cpu.RMSNorm.apply(gate, weight, 1e-6).sum().backward())
    assert work == {"rms_norm": 2 * gate.size * 4, "rms_norm_grad": 3 * gate.size * 4}
    scores = paddle.randn([4, 9])
    assert counted(lambda: cpu.cross_entropy_in_place(scores, paddle.to_tensor([1, 2, 3, 4]))) == {
        "cross_entropy_in_place": 2 * 4 * 9 * 4
    }


def event(name, kind, start, end, *inside):
    return SimpleNamespace(
        name=name, type=f"TracerEventType.{kind}", start_ns=start * 10**6, end_ns=end * 10**6, children_node=inside
    )


def test_time_inside_another_operator_is_counted_once():
    kernel = event("matmul kernel launch", "DygraphKernelLaunch", 2, 5)
    outer = event(
        "outer",
        "PythonUserDefined",
        0,
        10,
        event("patch", "UserDefined", 1, 6, event("matmul dygraph", "Operator", 2, 6, kernel)),
    )
    backward = event("Global_MatmulGradNode", "Operator", 11, 14)
    lines = operator_lines([event("root", "UserDefined", 0, 0, outer, backward)], 0.020, {})
    found = {line.name: (line.calls, line.milliseconds, line.share) for line in lines}
    assert found == {
        "outer": (1, 6.0, 0.3), "matmul": (1, 4.0, 0.2), "Matmul gradient": (1, 3.0, 0.15), BETWEEN: (0, 7.0, 0.35)
    }  # fmt: skip
