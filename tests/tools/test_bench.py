"""The benchmark of whole runs: its reference set, its count of operations, its table. (Pages run a small one.)"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "bench"))

import meter
import reference_set
import run
from reference_set import Sizes

TINY = Sizes(samples=5, layers=2, hidden=16, heads=4, kv_heads=2, intermediate=24, vocabulary=50, rank=3, row=600)


def test_the_set_has_the_lengths_and_shares_that_are_promised():
    samples = reference_set.make_samples(Sizes(samples=256))
    lengths = np.array([len(one["ids"]) for one in samples[:256]])
    assert 130 < lengths.mean() < 150 and 300 < lengths.max() <= 500
    trained = sum(len(one["ids"]) - one["first_trained"] for one in samples) / sum(len(one["ids"]) for one in samples)
    assert 0.55 < trained < 0.65
    assert all(4 <= min(one["ids"]) and max(one["ids"]) < 32000 for one in samples)
    assert reference_set.make_samples(Sizes(samples=8))[:8] == reference_set.make_samples(Sizes(samples=8))[:8]


def test_the_folder_holds_a_model_that_loads_and_a_start_for_every_linear_layer(tmp_path):
    from paddle_sft.models.hub import load_model
    from paddle_sft.models.linears import find_linears

    reference_set.write(tmp_path, TINY)
    model = load_model(tmp_path / "model", "float32").model
    linears = {path.split("layers.")[1]: layer for path, layer in find_linears(model).items() if "layers." in path}
    with np.load(tmp_path / "lora.npz") as starts:
        assert {name.split("layers.")[1] for name in starts.files} == set(linears)
        for name in starts.files:
            assert starts[name].shape == (linears[name.split("layers.")[1]].weight.shape[0], 3)


def test_needed_operations_are_those_of_a_count_layer_by_layer():
    """One sample of 3 tokens, the last one trained: every product written out as 2 rows inner columns."""
    sizes, samples = TINY, [{"ids": [4, 5, 6], "first_trained": 2}]
    total = 0
    for layer in range(2):
        for name, (rows, columns) in sizes.shapes().items():
            forward = 2 * 3 * rows * columns
            first = layer == 0 and name.split(".")[1] in ("q_proj", "k_proj", "v_proj")
            total += forward if first else 2 * forward
            inner, outer = 2 * 3 * rows * 3, 2 * 3 * 3 * columns
            total += 3 * (inner + outer)
        total += 6 * (2 * 3 * 3 * 16) / 2
    total += 2 * (2 * 1 * 16 * 50)
    assert reference_set.needed_operations(sizes, samples) == total


def test_the_first_step_warms_up_and_padding_does_not_count(monkeypatch):
    clock = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(meter.time, "time", lambda: next(clock))
    watch = meter.Meter(began=4.0)
    for tokens in (100, 30, 60):
        watch.step_done(tokens)
    numbers = watch.numbers()
    assert numbers["tokens_per_second"] == 30.0 and numbers["seconds_to_first_step"] == 6.0
    assert numbers["steps"] == 3 and numbers["tokens"] == 190 and 10 < numbers["peak_mib"] < 100_000


def test_the_loss_is_a_mean_over_trained_tokens():
    table = 7 + np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))  # 7: softmax takes it out
    samples = [{"ids": [0, 1, 2], "first_trained": 1}, {"ids": [2, 0], "first_trained": 1}]
    found = meter.mean_loss(samples, lambda ids: table[ids])
    assert found == pytest.approx(-(np.log(0.25) + np.log(0.1) + np.log(0.2)) / 3)


def test_the_table_has_medians_the_limit_and_what_was_reached_of_the_goals():
    def made(speed, peak):
        return {"tokens_per_second": speed, "peak_mib": peak, "seconds_to_first_step": 5.0, "final_loss": 9.0,
                "steps": 3, "version": "1"}  # fmt: skip

    runs = {"suite": [made(speed, 800.0) for speed in (900, 100, 800)], "hf_float32": [made(200, 1600.0)],
            "stock": [made(50, 1000.0)]}  # fmt: skip
    found = {name: run.medians(numbers) for name, numbers in runs.items()}
    ratios = run.ratios(found, 1000.0)
    assert [round(row["reached"], 3) for row in ratios] == [4.0, 16.0, 0.8, 1.25]
    assert [row["goal"] for row in ratios] == [4.0, 8.0, 0.6, 1.0]
    results = {"machine": run.machine(), "sizes": vars(TINY), "repeats": 3, "medians": found, "runs": runs}
    results.update(gemm_operations_per_second=[2e11, 1e11, 3e11], limit_tokens_per_second=1000.0, ratios=ratios)
    text = "\n".join(run.table(json.loads(json.dumps(results))))
    assert "| this suite, float32 | 800 | 800 | 5.0 | 9.0000 |" in text
    assert "needed products at 200 GFLOP/s | 1,000 |" in text and "| share of the limit | 0.80 | 0.6 |" in text


def test_a_contestant_that_is_none_and_no_repeat_are_refused(capsys):
    for words, said in ((["--contestants", "suite,trl"], "no contestant trl"), (["--repeats", "0"], "at least 1")):
        with pytest.raises(SystemExit):
            run.read_options(words)
        assert said in capsys.readouterr().err


def test_a_contestant_that_fails_ends_the_run_with_its_last_words(tmp_path):
    (tmp_path / "broken.py").write_text("raise SystemExit('no such thing')", encoding="utf-8")
    broken = run.Contestant("a broken one", str(tmp_path / "broken.py"))
    with pytest.raises(SystemExit, match="a broken one failed with exit code 1:\nno such thing"):
        run.call(broken, tmp_path, None)
