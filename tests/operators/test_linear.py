"""Linear layers computed together give what the plain products give, with AMX's tiles and without."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddle_sft.operators.build import describe_operators, load_operators, replaced_operators
from paddle_sft.operators.linear import LinearParts, linears, product

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ to compile the operators with")
ROOT = Path(__file__).resolve().parents[2]


def tensor(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return paddle.to_tensor(values.astype("float32"), stop_gradient=False)


def double(found):
    return np.asarray(found.numpy(), dtype="float64")


def plain(x, layers, gradients):
    """Outputs, gradient of x, and of each layer's tensors, in float64 numpy."""
    rows = double(x).reshape([-1, x.shape[-1]])
    outputs, by_x, by_parts = [], np.zeros_like(rows), []
    for layer, gradient in zip(layers, gradients):
        weight, g = double(layer.weight), double(gradient).reshape([rows.shape[0], -1])
        output, by_x = rows @ weight, by_x + g @ weight.T
        by_parts.append(rows.T @ g)
        if layer.bias is not None:
            output = output + double(layer.bias)
            by_parts.append(g.sum(0))
        if layer.a is not None:
            a, b = double(layer.a), double(layer.b)
            output, by_x = output + layer.scaling * rows @ a @ b, by_x + layer.scaling * g @ b.T @ a.T
            by_parts += [layer.scaling * rows.T @ (g @ b.T), layer.scaling * (rows @ a).T @ g]
        outputs.append(output)
    return [*outputs, by_x, *by_parts]


def make(size, out, rank, has_bias, seed=0):
    bias = tensor(out, seed=seed + 1) if has_bias else None
    factors = (tensor(size, rank, seed=seed + 2), tensor(rank, out, seed=seed + 3)) if rank else (None, None)
    return LinearParts(tensor(size, out, seed=seed), bias, *factors, scaling=0.7)


def require_equal(found, expected):
    for one, other in zip(found, expected):
        one = double(one).reshape(other.shape)
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * max(1.0, np.abs(other).max()))


CASES = [  # rows of x, in, outs, rank, bias
    ((1, 1), 8, [5], 2, False),
    ((1, 3), 40, [33, 64, 1], 8, True),
    ((2, 55), 96, [100], 5, True),
    ((1, 257), 128, [128, 96, 100], 8, False),
    ((1, 130), 96, [96, 96], 100, True),
    ((1, 65), 64, [64], 0, True),
    ((1, 1030), 100, [1100], 13, False),
    ((1, 99), 700, [96], 3, False),
]


@pytest.mark.parametrize("shape, size, outs, rank, has_bias", CASES)
def test_linears(shape, size, outs, rank, has_bias):
    x = tensor(*shape, size)
    layers = [make(size, out, rank, has_bias, seed=10 * number) for number, out in enumerate(outs)]
    gradients = [tensor(*shape, out, seed=7).detach() for out in outs]
    outputs = linears(x, layers)
    paddle.autograd.backward(outputs, gradients)
    inputs = [x, *(one for layer in layers for one in layer.tensors())]
    require_equal([*outputs, *(one.grad for one in inputs)], plain(x, layers, gradients))


def test_layers_of_different_ranks_share_a_pass():
    """Those of low rank share one pass over x and the gradients, beside a wide one and one without an update."""
    x = tensor(1, 75, 98)
    layers = [make(98, out, rank, False, seed=10 * out) for out, rank in ((130, 16), (40, 33), (64, 0), (97, 11))]
    gradients = [tensor(1, 75, layer.weight.shape[1], seed=7).detach() for layer in layers]
    outputs = linears(x, layers)
    paddle.autograd.backward(outputs, gradients)
    inputs = [x, *(one for layer in layers for one in layer.tensors())]
    require_equal([*outputs, *(one.grad for one in inputs)], plain(x, layers, gradients))


@pytest.mark.parametrize("asked", range(5))
def test_only_what_is_trained_gets_a_gradient(asked):
    """x, weight, bias, A, B: each alone has the gradient that it has among all."""
    layer, x, gradient = make(128, 100, 4, True), tensor(1, 97, 128), tensor(1, 97, 100)
    inputs = [x, *layer.tensors()]
    expected = plain(x, [layer], [gradient])[1 + asked]
    for number, one in enumerate(inputs):
        one.stop_gradient = number != asked
    linears(x, [layer])[0].backward(gradient)
    assert [one.grad is not None for one in inputs] == [number == asked for number in range(5)]
    require_equal([inputs[asked].grad], [expected])


def test_saved_tensors_that_nobody_else_holds():
    """Under recompute they are made anew for the backward pass. Sizes are equal here: freed memory would be reused."""
    layers = [make(64, 64, 8, False, seed=10 * number) for number in range(3)]
    x, gradients = tensor(1, 64, 64), [tensor(1, 64, 64, seed=7).detach()] * 3
    hooks = (lambda saved: saved.numpy(), lambda array: paddle.to_tensor(array))
    with paddle.autograd.saved_tensors_hooks(*hooks):
        outputs = linears(x, layers)
    paddle.autograd.backward(outputs, gradients)
    inputs = [x, *(one for layer in layers for one in layer.tensors())]
    require_equal([*outputs, *(one.grad for one in inputs)], plain(x, layers, gradients))


@pytest.mark.parametrize("transpose_x", [False, True])
@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize(
    "rows, inner, columns", [(1, 1, 1), (100, 70, 109), (96, 32, 96), (130, 1000, 97), (5, 2000, 40)]
)
def test_product(rows, inner, columns, transpose_x, transpose_y):
    x = tensor(*((inner, rows) if transpose_x else (rows, inner))).detach()
    y = tensor(*((columns, inner) if transpose_y else (inner, columns)), seed=1).detach()
    left, right = double(x).T if transpose_x else double(x), double(y).T if transpose_y else double(y)
    require_equal([product(x, y, transpose_x, transpose_y)], [left @ right])
    total = tensor(rows, columns, seed=2).detach()
    before = double(total)
    product(x, y, transpose_x, transpose_y, add_to=total)
    require_equal([total], [before + left @ right])


def test_products_of_wide_numbers_are_as_exact_as_sgemm():
    """Rows of very different sizes: an error that grows with the largest number would show in the smallest row."""
    sizes = 10.0 ** np.repeat(np.arange(-12, 20), 3)
    x = paddle.to_tensor((sizes[:, None] * double(tensor(96, 500))).astype("float32"))
    y = tensor(500, 96, seed=1).detach()
    exact = double(x) @ double(y)
    scale = np.abs(exact).max(axis=1, keepdims=True)
    ours, theirs = (np.abs(double(one) - exact) / scale for one in (product(x, y), x @ y))
    assert ours.max() <= 1.5 * theirs.max() and ours.mean() <= 1.5 * theirs.mean()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(bad):
    x, y = tensor(100, 64).detach(), tensor(64, 96, seed=1).detach()
    x[3, 5] = float(bad)
    found = product(x, y).numpy()
    assert not np.isfinite(found[3]).any() and np.isfinite(found[np.arange(100) != 3]).all()


@pytest.mark.parametrize("transpose_x, transpose_y", [(False, False), (True, True)])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("rows, inner, columns", [(100, 64, 97), (1100, 700, 1100)])
def test_infinity_is_what_it_is_in_float32(rows, inner, columns, adds, transpose_x, transpose_y):
    """In either side, next to numbers of which the second part is 0, in one of several parts of a large product."""
    x, y, total = tensor(rows, inner), tensor(inner, columns, seed=1).detach(), tensor(rows, columns, seed=2).detach()
    x, y = x.detach().numpy(), y.numpy()
    y[inner - 1, :9] = 1.0
    x[rows - 1, inner - 1], x[7, 1], x[9, 2], y[3, columns - 2] = np.inf, -np.inf, np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = x.astype("float64") @ y.astype("float64") + (double(total) if adds else 0.0)
    given = [paddle.to_tensor(one.T.copy() if turned else one) for one, turned in ((x, transpose_x), (y, transpose_y))]
    found = product(*given, transpose_x, transpose_y, add_to=total if adds else None).numpy()
    finite = np.isfinite(expected)
    assert (finite.sum(), np.isposinf(expected).any()) == ((rows - 3) * (columns - 1), True)
    np.testing.assert_array_equal(found[~finite], expected[~finite].astype("float32"))
    np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=2e-6 * np.abs(expected[finite]).max())


@pytest.mark.parametrize("transpose_x, transpose_y", [(False, False), (True, False), (False, True), (True, True)])
def test_tiny_numbers_leave_their_neighbours_alone(transpose_x, transpose_y):
    """The last of the three parts of a number below 1e-33 is no bfloat16 number."""
    random = np.random.default_rng(5)
    x, y = (random.standard_normal((128, 128)).astype("float32") for _ in range(2))
    for array in (x, y):
        array *= np.float32(10.0) ** random.choice([0, -34, -36, -38], array.shape).astype("float32")
    found = product(paddle.to_tensor(x), paddle.to_tensor(y), transpose_x=transpose_x, transpose_y=transpose_y).numpy()
    expected = (x.T if transpose_x else x).astype("float64") @ (y.T if transpose_y else y).astype("float64")
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_other_types_are_computed_by_paddle():
    x, y = tensor(5, 6).astype("float64"), tensor(6, 7).astype("float64")
    np.testing.assert_allclose(product(x, y).numpy(), x.numpy() @ y.numpy())
    assert not product(x, y).stop_gradient  # what needs a gradient gets Paddle's product, which has one


def test_without_tiles_mkl_gives_the_same():
    """Where the processor has no tiles, both sides are MKL's, and the test only shows that the switch is harmless."""
    script = (
        "import sys, runpy; sys.argv = ['pytest']; import pytest; "
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(Path(__file__))!r}, '-k', 'test_linears']))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "PADDLE_SFT_AMX": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0 and f"{len(CASES)} passed" in done.stdout, done.stdout[-2000:]


def test_the_library_says_whether_it_uses_tiles():
    assert isinstance(load_operators(), ctypes.CDLL) and load_operators().products_use_tiles() in (0, 1)


@pytest.mark.parametrize("tiles, said", [(1, "compiled, float32 products on AMX"), (0, "compiled")])
def test_the_plan_says_who_computes(tiles, said):
    with replaced_operators(SimpleNamespace(products_use_tiles=lambda: tiles)):
        assert describe_operators() == said
    with replaced_operators(None):
        assert describe_operators() == "Paddle's own"
