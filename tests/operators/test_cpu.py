"""The compiled operators give what compositions of Paddle's give: outputs and every gradient."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddle_sft.attention.segments import Scoring, Wanted, composed_attention, segment_attention
from paddle_sft.models import fast
from paddle_sft.operators import build, cpu

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")


def tensor(*shape, seed=0, scale=1.0):
    values = scale * np.random.default_rng([seed, *shape]).standard_normal(shape)
    return paddle.to_tensor(values.astype("float32"), stop_gradient=False)


def output_and_gradients(function, inputs):
    output = function(*inputs)
    output.backward(tensor(*output.shape, seed=9))
    found = [output.numpy()] + [one.grad.numpy().copy() for one in inputs]
    for one in inputs:
        one.clear_gradient(False)
    return found


def require_equal(ours, composed, inputs, tolerance=2e-6):
    for found, expected in zip(output_and_gradients(ours, inputs), output_and_gradients(composed, inputs)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_the_operators_are_there():
    assert isinstance(build.load_operators(), ctypes.CDLL)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 33), (3, 7, 64), (1, 300, 17)])
def test_rms_norm(shape):
    inputs = [tensor(*shape), tensor(shape[-1])]
    require_equal(lambda x, w: cpu.RMSNorm.apply(x, w, 1e-5), lambda x, w: fast._RMSNorm.apply(x, w, 1e-5), inputs)


STARTS = cpu.starts_of([[5]])
FUNCTIONS = {
    "rms norm": (lambda x, w: cpu.RMSNorm.apply(x, w, 1e-6), [(1, 5, 8), (8,)]),
    "composed rms norm": (lambda x, w: fast._RMSNorm.apply(x, w, 1e-6), [(1, 5, 8), (8,)]),
    "swiglu": (cpu.SwiGLU.apply, [(1, 5, 8)] * 2),
    "attention": (lambda q, k, v: cpu.SegmentAttention.apply(q, k, v, STARTS, 0, 0.3), [(1, 5, 2, 8)] * 3),
}
PARTLY = [(name, asked) for name, (_, shapes) in FUNCTIONS.items() for asked in range(len(shapes))]


@pytest.mark.parametrize("name, asked", PARTLY)
def test_an_input_that_is_not_trained_gets_no_gradient_and_changes_none(name, asked):
    """Adapters on some of a layer's projections: the others' outputs need no gradient in the first layer."""
    function, shapes = FUNCTIONS[name]
    inputs = [tensor(*shape, seed=number) for number, shape in enumerate(shapes)]
    expected = output_and_gradients(function, inputs)[1 + asked]
    for number, one in enumerate(inputs):
        one.stop_gradient = number != asked
    function(*inputs).backward(tensor(*function(*inputs).shape, seed=9))
    np.testing.assert_array_equal(inputs[asked].grad.numpy(), expected)
    assert all(one.grad is None or not one.grad.numpy().any() for n, one in enumerate(inputs) if n != asked)


@pytest.mark.parametrize("turned", [8, 4, 2])
def test_rotary(turned):
    cos, sin = tensor(2, 5, 1, turned, seed=1), tensor(2, 5, 1, turned, seed=2)
    cos.stop_gradient = sin.stop_gradient = True
    require_equal(
        lambda x: cpu.Rotary.apply(x, cos, sin), lambda x: fast.composed_rotate(x, cos, sin), [tensor(2, 5, 3, 8)]
    )


@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_swiglu(scale):
    inputs = [tensor(2, 7, 19, scale=scale), tensor(2, 7, 19, seed=1)]
    require_equal(cpu.SwiGLU.apply, lambda gate, up: F.silu(gate) * up, inputs)


@pytest.mark.parametrize("rows, vocabulary", [(1, 1), (1, 5), (9, 37), (40, 1000)])
def test_cross_entropy(rows, vocabulary):
    scores = tensor(rows, vocabulary, scale=6.0)
    labels = paddle.to_tensor(np.random.default_rng(0).integers(0, vocabulary, rows))
    loss = F.cross_entropy(scores, labels, reduction="sum")
    loss.backward()
    work = scores.detach().clone()
    assert cpu.cross_entropy_in_place(work, labels) == pytest.approx(float(loss), rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(work.numpy(), scores.grad.numpy(), atol=1e-6)


ROWS = [[[1]], [[5]], [[7, 1, 130, 2]], [[300], [300]], [[129, 4], [3, 130]], [[40] * 3] * 2]


@pytest.mark.parametrize("window", [0, 1, 3, 100])
@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize("heads, groups", [(1, 1), (6, 2)])
def test_attention_inside_segments(lengths, window, heads, groups):
    rows, width = len(lengths), sum(lengths[0])
    inputs = [tensor(rows, width, count, 8, seed=count) for count in (heads, groups, groups)]
    starts = cpu.starts_of(lengths)
    require_equal(
        lambda q, k, v: cpu.SegmentAttention.apply(q, k, v, starts, window, 0.3),
        lambda q, k, v: composed_attention(q, k, v, lengths, Scoring(0.3, window)),
        inputs,
    )


PLACES = [[0], [0, 4], [64], [1, 2, 3, 70, 71, 130], list(range(0, 140, 3)), list(range(140))]


@pytest.mark.parametrize("window", [0, 1, 5])
@pytest.mark.parametrize("places", PLACES, ids=lambda places: f"{len(places)} from {places[0]}")
def test_attention_of_some_queries(places, window):
    """What all would get, and gradients as if the others' outputs were not used; some segments ask nothing."""
    lengths, places = [[7, 1, 130, 2]], np.array(places, dtype=np.int64)
    inputs = [tensor(1, 140, count, 8, seed=count) for count in (6, 2, 2)]
    wanted = Wanted(places)
    require_equal(
        lambda q, k, v: segment_attention(q, k, v, lengths, Scoring(0.3, window), wanted),
        lambda q, k, v: wanted.take(composed_attention(q, k, v, lengths, Scoring(0.3, window))),
        inputs,
    )


def test_transposed_inputs_are_read_as_they_are():
    values = tensor(3, 5, 2, 8)
    cos, sin = tensor(5, 3, 1, 8, seed=1).detach(), tensor(5, 3, 1, 8, seed=2).detach()
    turned = values.transpose([1, 0, 2, 3])
    np.testing.assert_array_equal(
        cpu.Rotary.apply(turned, cos, sin).numpy(), cpu.Rotary.apply(turned.clone(), cos, sin).numpy()
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_visible(bad):
    x = tensor(1, 4, 8).detach()
    x[0, 2, 3] = float(bad)
    assert not np.isfinite(cpu.RMSNorm.apply(x, tensor(8), 1e-6).numpy()[0, 2]).all()
    assert not np.isfinite(cpu.SwiGLU.apply(x, x).numpy()).all()
    query = tensor(1, 4, 2, 8).detach()
    query[0, 1, 0, 0] = float(bad)
    mixed = cpu.SegmentAttention.apply(query, query, query, cpu.starts_of([[4]]), 0, 0.3).numpy()
    assert not np.isfinite(mixed[0, 1:, 0]).all()
    scores = tensor(2, 9).detach()
    scores[1, 4] = float(bad)
    assert not np.isfinite(cpu.cross_entropy_in_place(scores, paddle.to_tensor([0, 0])))


LOADED = "from paddle_sft.operators.build import load_operators; print(load_operators() is not None)"


def loaded(tmp_path, **environment) -> tuple:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        cwd=root, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), **environment},
    )  # fmt: skip
    return done.stdout.split()[-1] == "True", done.stderr


def test_without_a_compiler_one_line_says_so(tmp_path):
    found, said = loaded(tmp_path, CXX="no-such-compiler")
    assert not found
    assert said.count("CPU operators are not compiled") == 1 and "there is no no-such-compiler; install g++" in said


def test_the_switch_leaves_them_out_quietly(tmp_path):
    found, said = loaded(tmp_path, **{build.SWITCH: "0"})
    assert not found and "not compiled" not in said


def test_they_are_built_once(tmp_path):
    assert loaded(tmp_path)[0]
    built = list((tmp_path / "paddle_sft" / "operators").glob("operators-*.so"))
    before = built[0].stat().st_mtime_ns
    assert loaded(tmp_path)[0] and len(built) == 1 and built[0].stat().st_mtime_ns == before
