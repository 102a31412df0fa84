from __future__ import annotations

import json
import math

import numpy as np
import pytest

from paddle_sft.core.errors import ArgumentError
from paddle_sft.train.spectrum import (
    choose_top,
    kind_of,
    make_report,
    measure,
    read_patterns,
    report_lines,
    signal_to_noise,
)


def slow_ratio(matrix):
    """The paper's formula by a full decomposition."""
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    sigma = (np.percentile(values, 75) - np.percentile(values, 25)) / 1.349
    rows, columns = matrix.shape
    edge = sigma * math.sqrt((1 + math.sqrt(min(rows, columns) / max(rows, columns))) ** 2)
    signal, noise = sum(v for v in values if v > edge), sum(v for v in values if v <= edge)
    return (signal / noise if noise else math.inf) / values[0]


@pytest.mark.parametrize("shape", [(40, 40), (24, 64), (64, 24)])
@pytest.mark.parametrize("seed", range(3))
def test_the_ratio_is_the_papers(shape, seed):
    random = np.random.default_rng(seed)
    matrix = random.standard_normal(shape) + 3 * np.outer(
        random.standard_normal(shape[0]), random.standard_normal(shape[1])
    )
    assert signal_to_noise(matrix.astype(np.float32)) == pytest.approx(slow_ratio(matrix), rel=1e-4)


def test_a_matrix_with_structure_has_more_signal_than_noise_alone_of_the_same_size():
    random = np.random.default_rng(0)
    noise = random.standard_normal((64, 64))
    values, low = np.linalg.svd(noise, compute_uv=False), noise.copy()
    low += random.standard_normal((64, 6)) @ random.standard_normal((6, 64))
    edge = lambda m: signal_to_noise(m) * np.linalg.svd(m, compute_uv=False)[0]  # noqa: E731
    assert values[0] > 0 and edge(low) > edge(noise)


def test_what_is_all_zero_has_no_signal():
    assert signal_to_noise(np.zeros((4, 6), np.float32)) == 0.0


def ratios_of(names_and_snr):
    random = np.random.default_rng(0)
    found = measure((name, random.standard_normal((6, 6)).astype(np.float32)) for name in names_and_snr)
    return [type(one)(one.name, one.kind, names_and_snr[one.name]) for one in found]


def test_of_each_kind_the_top_share_is_taken_and_at_least_one():
    snr = {f"llama.layers.{n}.mlp.up_proj.weight": float(n) for n in range(10)}
    snr.update({f"llama.layers.{n}.self_attn.q_proj.weight": float(10 - n) for n in range(10)})
    ratios = ratios_of(snr)
    top = choose_top(ratios, 30)
    assert top == [f"llama.layers.{n}.mlp.up_proj.weight" for n in (7, 8, 9)] + [
        f"llama.layers.{n}.self_attn.q_proj.weight" for n in (0, 1, 2)
    ]
    assert len(choose_top(ratios, 1)) == 2 and len(choose_top(ratios, 100)) == 20


def test_kinds_have_no_layer_and_no_expert_number():
    assert kind_of("llama.layers.17.mlp.up_proj.weight") == "mlp.up_proj"
    assert kind_of("mixtral.layers.3.block_sparse_moe.experts.5.w2.weight") == "block_sparse_moe.experts.w2"
    assert kind_of("gpt2.h.3.attn.c_attn.weight") == "attn.c_attn"


def test_a_report_can_be_read_again_and_read_aloud(tmp_path):
    ratios = ratios_of({f"llama.layers.{n}.mlp.up_proj.weight": [0.5, 2.0, math.inf][n] for n in range(3)})
    report = make_report(ratios, 40, "here", ["lm_head.weight"])
    (tmp_path / "spectrum.json").write_text(json.dumps(report), encoding="utf-8")
    assert read_patterns(str(tmp_path / "spectrum.json")) == [
        r"^llama\.layers\.2\.mlp\.up_proj\.weight$", r"^lm_head\.weight$",
    ]  # fmt: skip
    assert report_lines(report) == ["mlp.up_proj: 1 of 3, layers 2 (ratios inf to 0.5)"]


def test_the_authors_programs_file_is_read(tmp_path):
    entries = (
        "- ^lm_head.weight$\n- ^model.embed_tokens.weight$\n# mlp.down_proj layers\n- model.layers.1.mlp.down_proj\n"
    )
    text = f"unfrozen_parameters:\n{entries}"
    (tmp_path / "snr.yaml").write_text(text, encoding="utf-8")
    found = read_patterns(str(tmp_path / "snr.yaml"))
    assert found == ["^lm_head.weight$", "^model.embed_tokens.weight$", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", '{"ratios": []}', "has no list unfrozen_parameters; make one with paddle-sft spectrum"),
        ("a.json", '{"unfrozen_parameters": []}', "has no list"),
        ("a.txt", "x", "must be a file ending in .json, .yaml, .yml"),
    ],
)
def test_another_file_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ArgumentError, match=message):
        read_patterns(str(tmp_path / name))


def test_a_matrix_outside_the_layers_has_no_ratio():
    matrix = np.eye(4, 6)
    found = measure([("opt.decoder.layers.0.linear1.weight", matrix), ("opt.decoder.project_out.weight", matrix)])
    assert [ratio.name for ratio in found] == ["opt.decoder.layers.0.linear1.weight"]


def test_a_broken_matrix_is_refused_by_name():
    with pytest.raises(ArgumentError, match="llama.layers.0.a.b.weight holds NaN"):
        measure([("llama.layers.0.a.b.weight", np.full((2, 2), np.nan))])
