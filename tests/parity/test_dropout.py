"""Dropout in training: what transformers drops is dropped here, at the same places and rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.models.hub import load_model
from tests.parity.asking import Reference

RATES: Dict[str, Dict[str, float]] = {
    "gpt2": dict(embd_pdrop=0.1, resid_pdrop=0.3, attn_pdrop=0.2),
    "opt": dict(dropout=0.3, attention_dropout=0.2),
    "bloom": dict(hidden_dropout=0.3, attention_dropout=0.2),
    "gemma": dict(attention_dropout=0.2),
    "gemma2": dict(attention_dropout=0.2),
}
SIZES: Dict[str, Dict[str, Any]] = {
    "gpt2": dict(vocab_size=99, n_embd=24, n_layer=2, n_head=3),
    "opt": dict(vocab_size=99, hidden_size=24, num_hidden_layers=2, ffn_dim=20, num_attention_heads=3),
    "bloom": dict(vocab_size=99, hidden_size=24, n_layer=2, n_head=3),
    "gemma": dict(
        vocab_size=99, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    ),
}  # fmt: skip
SIZES["gemma2"] = {**SIZES["gemma"], "query_pre_attn_scalar": 7, "sliding_window": 5}
SPREAD = {"opt": "init_std"}


def dropped_by_counting(rates: List[float]) -> Any:
    """A dropout that drops what reference/networks.py's logits_with_dropout drops; notes the rates it is asked for."""

    def drop(x: paddle.Tensor, p: float = 0.5, *args: Any, training: bool = True, **kwargs: Any) -> paddle.Tensor:
        if not training or not p:
            return x
        rates.append(p)
        draws = (np.arange(x.size) + 7919 * len(rates)) * 40503 % 65536 / 65536
        kept = paddle.to_tensor((draws.reshape(x.shape) >= p).astype("float32"))
        return x * kept / (1 - p)

    return drop


@pytest.mark.parametrize("family", RATES)
def test_training_drops_what_transformers_drops(
    family: str, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = {SPREAD.get(family, "initializer_range"): 0.15}
    config = {"model_type": family, **SIZES[family], **RATES[family], **spread, "pad_token_id": 3}
    reference.ask("make_model", folder=tmp_path, config=config, seed=8)
    ids = np.random.default_rng(8).integers(4, 99, (2, 17))
    reference.ask("logits_with_dropout", folder=tmp_path, input_ids=ids.tolist(), output=tmp_path / "logits")
    theirs = load_file(str(tmp_path / "logits"))["logits"]
    model = load_model(tmp_path, "float32").model
    asked: List[float] = []
    monkeypatch.setattr(paddle.nn.functional, "dropout", dropped_by_counting(asked))
    model.train()
    model.row_layout.set([[17], [17]])
    with paddle.no_grad():
        ours = model(input_ids=paddle.to_tensor(ids))
    ours = (ours[0] if isinstance(ours, (tuple, list)) else ours).numpy()
    assert set(asked) == set(RATES[family].values()), json.dumps(config)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
