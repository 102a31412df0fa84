"""What else the table of families in the docs says: merged weights, and where attention is computed on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import save_adapter
from paddle_sft.attention import paths
from paddle_sft.attention.paths import Machine
from paddle_sft.attention.segments import segment_attention
from paddle_sft.export.merge import MergeJob, merge
from paddle_sft.models import packed
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import build_from_scratch, load_model
from tests import tiny
from tests.parity.asking import Reference
from tests.parity.test_random_configs import TOLERANCE, drawing_of

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_what_merge_writes_computes_in_transformers_what_base_and_adapter_do_here(
    family: str, reference: Reference, tmp_path: Path, verified: Any
) -> None:
    rng = np.random.default_rng(8)
    config = {**drawing_of(family).random_config(rng, 0), "vocab_size": 120}
    reference.ask("make_model", folder=tmp_path / "base", config=config, seed=8)
    tiny.make_tokenizer(tmp_path / "base")
    model = load_model(tmp_path / "base", "float32").model
    lora = attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model, "lora", lora)
    merge(MergeJob(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", "hf"))
    ids = rng.integers(4, 120, (2, 30))
    reference.ask("logits", folder=tmp_path / "merged", input_ids=ids.tolist(), output=tmp_path / "logits")
    theirs, ours = load_file(str(tmp_path / "logits"))["logits"], tiny.logits(model, ids)
    base = tiny.logits(load_model(tmp_path / "base", "float32").model, ids)
    assert np.abs(ours - base).max() > 1e3 * TOLERANCE * np.abs(ours).max(), "the adapter does nothing"
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    assert difference < TOLERANCE
    verified(family, "merged", difference)


@families
def test_on_a_gpu_all_layers_take_flashmask_or_none_does(family: str, monkeypatch: Any, verified: Any) -> None:
    """The kernel itself is not run here: what it would be asked is computed segment by segment."""
    asked = []

    def record(query: Any, key: Any, value: Any, row_ends: Any, scoring: Any) -> Any:
        asked.append(row_ends.shape)
        return segment_attention(query, key, value, [[5, 7]], scoring)

    model = build_from_scratch(tiny.config(family), "float32", 0)
    ids = np.random.default_rng(0).integers(4, 96, (1, 12))
    found = []
    for on_gpu in (False, True):
        model.row_layout.machine = Machine(on_gpu, (8, 0))
        model.row_layout.set([[5, 7]])
        monkeypatch.setattr(packed, "flashmask_attention", record)
        monkeypatch.setattr(paths, "HALF", ("float32",))  # what a CPU computes in
        with paddle.no_grad():
            output = model(input_ids=paddle.to_tensor(ids))
        found.append((output[0] if isinstance(output, (tuple, list)) else output).numpy())
    assert len(asked) in (0, len(packed.attention_windows(tiny.config(family))))
    np.testing.assert_array_equal(found[1], found[0])
    verified(family, "flashmask", bool(asked))
