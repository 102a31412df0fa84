"""What Gemma 2 has over Gemma, as far as it shows without transformers (tests/parity compares the numbers)."""

from __future__ import annotations

import numpy as np
import paddle

from paddle_sft.models.catalogue import attention_windows
from paddle_sft.models.config import to_hugging_face, to_paddlenlp
from paddle_sft.models.hub import build_from_scratch
from tests import tiny


def test_every_other_layer_slides_from_the_first_on_unless_layer_types_says_else():
    config = tiny.config("gemma2", num_hidden_layers=4, sliding_window=7)
    assert attention_windows(config) == [7, 0, 7, 0]
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert attention_windows({**config, "layer_types": kinds}) == [0, 7, 7, 0]


def test_no_logit_is_beyond_the_cap():
    model = build_from_scratch(tiny.config("gemma2", final_logit_softcapping=0.5, initializer_range=2.0), "float32", 0)
    largest = np.abs(tiny.logits(model, [[5, 6, 7, 8]])).max()
    assert 0.45 < largest <= 0.5
    free = build_from_scratch(tiny.config("gemma2", final_logit_softcapping=None, initializer_range=2.0), "float32", 0)
    assert np.abs(tiny.logits(free, [[5, 6, 7, 8]])).max() > 5


def test_a_cap_that_is_left_out_on_purpose_stays_out():
    """transformers takes 30 where the key is missing."""
    config = to_paddlenlp(tiny.config("gemma2", final_logit_softcapping=None, attn_logit_softcapping=None))
    written = to_hugging_face(config, "float32")
    assert written["final_logit_softcapping"] is None and written["attn_logit_softcapping"] is None


def test_every_one_of_the_four_norms_of_a_layer_matters(some_ids):
    model = build_from_scratch(tiny.config("gemma2"), "float32", 0)
    before = tiny.logits(model, some_ids)
    norms = [name for name, _ in model.gemma.layers[1].named_sublayers() if name.endswith("layernorm")]
    assert len(norms) == 4
    for name in norms:
        weight = getattr(model.gemma.layers[1], name).weight
        saved = weight.numpy()
        weight.set_value(saved + 0.5 * paddle.randn(weight.shape).numpy())
        assert np.abs(tiny.logits(model, some_ids) - before).max() > 1e-3, name
        weight.set_value(saved)
