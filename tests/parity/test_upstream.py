"""Alarms: each fault of PaddleNLP that the suite works around is still there. A red test here is good news: PaddleNLP
was mended, and the workaround it names can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_sft.models import hub
from paddle_sft.models.family import find_named
from paddle_sft.models.networks import gemma
from tests.parity import cases
from tests.parity.asking import Reference

VISIBLE = 5e-4
"""A logit difference that is no rounding, which is below 2e-5."""


def paddlenlp_config(folder: Path, name: str) -> Any:
    """The config object that PaddleNLP itself makes of a folder."""
    import paddlenlp.transformers as transformers

    return getattr(transformers, name).from_pretrained(str(folder))


def distance_to_transformers(reference: Reference, folder: Path) -> float:
    ids = cases.input_ids(seed=6)
    ours = cases.our_logits(hub.load_model(folder, "float32").model, ids)
    return float(np.abs(ours - cases.reference_logits(reference, folder, ids)).max())


def test_paddlenlp_still_computes_gemma_with_the_other_gelu(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else models/networks/gemma.py's use_tanh_gelu can go."""
    base = cases.make_base(reference, tmp_path / "gemma", "gemma")
    monkeypatch.setattr(gemma, "use_tanh_gelu", lambda model, config: None)
    find_named.cache_clear()
    assert distance_to_transformers(reference, base) > VISIBLE
    find_named.cache_clear()


def test_paddlenlp_still_ignores_rope_parameters(reference: Reference, tmp_path: Path) -> None:
    """Else models/config.py need not spell them the old way."""
    base = cases.make_base(reference, tmp_path / "llama3", "llama3-rope")
    written = json.loads((base / "config.json").read_text(encoding="utf-8"))
    assert written["rope_parameters"]["rope_theta"] == 500000.0 and "rope_theta" not in written, "no longer a test"
    config = paddlenlp_config(base, "LlamaConfig")
    assert config.rope_theta == 10000.0 and not getattr(config, "rope_scaling", None)


def test_paddlenlp_still_ignores_the_sliding_window() -> None:
    """Else attention need not be computed by models/packed.py where rows are not packed."""
    import paddle
    from paddlenlp.transformers import MistralConfig, MistralForCausalLM

    found = []
    for window in (None, 8):
        paddle.seed(0)
        model = MistralForCausalLM(MistralConfig(**{**cases.SHAPES["mistral"], "sliding_window": window})).eval()
        output = model(input_ids=paddle.to_tensor(cases.input_ids(seed=6)))
        found.append((output[0] if isinstance(output, tuple) else output).numpy())
    np.testing.assert_array_equal(*found)


def test_paddlenlp_still_gives_mistral_a_head_of_its_own() -> None:
    """Else models/networks/mistral.py need not tie it."""
    from paddlenlp.transformers import MistralConfig, MistralForCausalLM

    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: cases.SHAPES["mistral"][key] for key in keys}
    model = MistralForCausalLM(MistralConfig(**sizes, tie_word_embeddings=True))
    assert "lm_head.weight" in hub.unique_parameters(model)
