"""Combinations of saved adapters: sums are sums, TIES and DARE follow their papers, and what can't be is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.combine import Combination, combine, shorten
from paddle_sft.adapters.mixing import MIXES
from paddle_sft.adapters.state import read_adapter, save_adapter
from paddle_sft.arguments.combine import COMBINATIONS
from paddle_sft.cli.main import main
from paddle_sft.core.errors import ArgumentError
from tests import tiny

WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("base") / "llama")


def make(base, folder, method="lora", seed=0, targets=("q_proj", "up_proj"), **numbers):
    model = tiny.load(base)
    config = attach(model, method, ADAPTERS[method].config(**numbers), list(targets))
    tiny.train_deltas(model, seed)
    save_adapter(folder, model, method, config)
    return folder


@pytest.fixture(scope="module")
def pair(base, tmp_path_factory):
    one = make(base, tmp_path_factory.mktemp("one"), lora_rank=2, lora_alpha=3.0)
    two = make(base, tmp_path_factory.mktemp("two"), seed=1, lora_rank=3, rslora=True, targets=("q_proj", "v_proj"))
    return [read_adapter(one), read_adapter(two)]


def delta(adapter, path):
    return adapter.update(path).delta_weight().numpy() if path in adapter.shapes else 0.0


def weighted(adapters, path):
    return sum(weight * delta(adapter, path) for adapter, weight in zip(adapters, WEIGHTS))


def test_cat_is_the_weighted_sum_of_the_updates(pair):
    made = combine(pair, Combination("cat", WEIGHTS))
    assert set(made.shapes) == set(pair[0].shapes) | set(pair[1].shapes)
    for path in made.shapes:
        np.testing.assert_allclose(delta(made, path), weighted(pair, path), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "lokr"])
def test_svd_is_the_nearest_matrix_of_the_rank(base, tmp_path, pair, method):
    """By the definition: the first singular values of the weighted sum, whatever method it is of."""
    if method == "dora":
        with pytest.raises(ArgumentError, match="method dora, which adds no matrix"):
            combine([pair[0], read_adapter(make(base, tmp_path, "dora"))], Combination("svd", WEIGHTS, 2))
        return
    others = [pair[0], pair[1] if method == "lora" else read_adapter(make(base, tmp_path, method))]
    made = combine(others, Combination("svd", WEIGHTS, 2))
    for path in made.shapes:
        u, s, v = np.linalg.svd(weighted(others, path))
        np.testing.assert_allclose(delta(made, path), (u[:, :2] * s[:2]) @ v[:2], rtol=1e-4, atol=1e-5)


def test_shortening_to_the_full_rank_loses_nothing():
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((9, 4), (4, 7)))
    short_a, short_b = shorten(a, b, 4)
    np.testing.assert_allclose(short_a @ short_b, a @ b, rtol=1e-5, atol=1e-5)


def slow_ties(tensors, weights, density):
    """Section 4 of the paper, number by number."""
    trimmed = []
    for tensor in tensors:
        order = sorted(range(tensor.size), key=lambda place: -abs(tensor.flat[place]))
        kept = np.zeros(tensor.size)
        for place in order[: int(density * tensor.size)]:
            kept[place] = tensor.flat[place]
        trimmed.append(kept)
    found = np.zeros(tensors[0].size)
    for place in range(found.size):
        values = [one[place] for one in trimmed]
        sign = 1 if sum(values) >= 0 else -1
        agree = [w * value for value, w in zip(values, weights) if np.sign(value) == sign]
        found[place] = sum(agree) / len(agree) if agree else 0.0
    return found.reshape(tensors[0].shape)


def test_ties_is_the_papers_three_steps():
    random = np.random.default_rng(0)
    tensors = [random.standard_normal((5, 6)).astype(np.float32) for _ in range(3)]
    found = MIXES["ties"](tensors, (0.5, 0.3, 0.9), 0.5, None)
    np.testing.assert_allclose(found, slow_ties(tensors, (0.5, 0.3, 0.9), 0.5), rtol=1e-6)


def test_dare_keeps_a_share_and_its_expected_value(pair):
    tensor = np.ones((400, 50), dtype=np.float32)
    random = np.random.default_rng(0)
    found = MIXES["dare_linear"]([tensor], (1.0,), 0.25, lambda shape, density: random.random(shape) < density)
    assert set(np.unique(found)) == {0.0, 4.0}
    assert abs(float(found.mean()) - 1.0) < 0.03
    same = [combine(pair, Combination("dare_ties_svd", WEIGHTS, seed=seed)) for seed in (1, 1, 2)]
    arrays = [one.file.read(next(iter(one.file.specs))) for one in same]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    assert np.abs(arrays[0] - arrays[2]).max() > 0


@pytest.mark.parametrize(
    "how, words",
    [
        (Combination("linear", WEIGHTS), "ranks 2, 3, .*use cat, svd"),
        (Combination("tise", WEIGHTS), "ties"),
        (Combination("cat", (1.0,)), "2 adapters and 1 weights"),
        (Combination("cat", (1.0, float("nan"))), "finite"),
        (Combination("cat", WEIGHTS, rank=4), "has none to choose"),
        (Combination("ties_svd", WEIGHTS, density=0.0), "density must be above 0"),
    ],
)
def test_what_can_not_be_combined_is_refused(pair, how, words):
    with pytest.raises(ArgumentError, match=words):
        combine(pair, how)


def test_adapters_of_different_bases_are_refused(pair):
    foreign = replace(pair[1], base={**pair[1].base, "fingerprint": pair[0].base["fingerprint"][::-1]})
    with pytest.raises(ArgumentError, match="different bases"):
        combine([pair[0], foreign], Combination("cat", WEIGHTS))


def test_the_command_writes_an_adapter_that_runs_and_names_every_mistake(pair, tmp_path, capsys):
    folders = [str(one.folder) for one in pair]
    assert main(["combine", *folders, "--weights", "0.7", "-0.4", "--output", str(tmp_path / "one")]) == 0
    assert "rank 2 to 5" in capsys.readouterr().out
    made = read_adapter(tmp_path / "one")
    for path in made.shapes:
        np.testing.assert_allclose(delta(made, path), weighted(pair, path), rtol=1e-5, atol=1e-6)
    assert main(["combine", folders[0], "--weights", "1", "2", "--method", "linear", "--svd_rank", "3"]) == 2
    said = capsys.readouterr().err
    for words in ("output_path is missing", "two or more adapters, 1 given", "svd_rank is set"):
        assert words in said
    assert main(["combine", *folders, "--output", str(tmp_path / "one")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_every_way_to_combine_is_listed_once():
    assert set(COMBINATIONS) == {"cat", "svd", *MIXES, *(f"{name}_svd" for name in MIXES if name != "linear")}
