"""Which way computes attention: decided on a CPU for every machine, and carried out as decided."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.attention import paths, segments
from paddle_sft.attention.paths import COMPILED, COMPOSED, KERNEL, Demand, Machine, Wish, choose_path
from paddle_sft.masks.segments import dense_from_row_ends
from paddle_sft.models import packed
from paddle_sft.models.attention_plan import plan_attention
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import read_config
from tests import tiny

GPU, CPU = Machine(True, (8, 0)), Machine(False, has_operators=True)
PACKED, PADDED = Demand("bfloat16", 128, is_packed=True), Demand("bfloat16", 128)


@pytest.mark.parametrize(
    "wish, machine, demand, path, why",
    [
        (Wish(), GPU, PACKED, KERNEL, "masked by row ends"),
        (Wish(True, True), GPU, PACKED, KERNEL, "masked by row ends"),
        (Wish(True, False), GPU, PADDED, KERNEL, "causal"),
        (Wish(True, False), GPU, PACKED, COMPOSED, "flash_mask is false"),
        (Wish(False), GPU, PADDED, COMPOSED, "use_flash_attention is false"),
        (Wish(True, True), GPU, Demand("bfloat16", 128, "ALiBi", True), COMPOSED, "the kernel has not ALiBi"),
        (Wish(), GPU, Demand("float32", 128), COMPOSED, "the run in float32; set bf16 or fp16 to true"),
        (Wish(), GPU, Demand("float16", 512), COMPOSED, "at most 256 numbers.*these have 512"),
        (Wish(), GPU, Demand("float16", 100), COMPOSED, "a multiple of 8; these have 100"),
        (Wish(), Machine(True, (7, 5)), PACKED, COMPOSED, "compute capability 8.0, this one has 7.5"),
        (Wish(), CPU, Demand("float32", 128), COMPILED, "no GPU"),
        (Wish(True, True), CPU, Demand("float32", 100, is_packed=True), COMPILED, "no GPU"),
        (Wish(), CPU, Demand("float32", 128, "ALiBi"), COMPOSED, "the compiled operator has not ALiBi"),
        (Wish(), Machine(False), Demand("float32", 128), COMPOSED, "no GPU, no compiled operators"),
    ],
)
def test_the_way_follows_from_wish_machine_and_model(wish, machine, demand, path, why):
    import re

    found, said = choose_path(wish, machine, demand)
    assert found == path and re.search(why, said), said


def kernel(query, key, value, startend_row_indices, causal, dropout):
    """What the documentation of paddle.nn.functional.flashmask_attention says it computes, by one masked square."""
    assert causal and startend_row_indices.shape[1] == startend_row_indices.shape[3] == 1
    assert startend_row_indices.dtype == paddle.int32
    share = query.shape[2] // key.shape[2]
    rows = []
    for number, ends in enumerate(startend_row_indices.numpy()[:, 0, :, 0]):
        keys, values = (one[number].repeat_interleave(share, axis=1).transpose([1, 0, 2]) for one in (key, value))
        scores = query[number].transpose([1, 0, 2]) @ keys.transpose([0, 2, 1]) / query.shape[-1] ** 0.5
        scores = scores + paddle.to_tensor(np.where(dense_from_row_ends(ends), 0.0, -1e30).astype("float32"))
        rows.append((paddle.nn.functional.softmax(scores, axis=-1) @ values).transpose([1, 0, 2]))
    return paddle.stack(rows)


SEGMENTS = [[5, 7], [[3, 4], 5]]


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_on_a_gpu_each_family_takes_the_way_that_the_plan_says_and_computes_the_same(family, model_folder, monkeypatch):
    """Windows of mistral and phi3, gemma2's own scale, gpt2's: all through row ends and scaled queries."""
    # heads of 12 numbers are not for the kernel; a scale of its own is multiplied into the queries
    changes = {"qwen3": {"head_dim": 16}, "gpt2": {"scale_attn_by_inverse_layer_idx": True}}
    folder = model_folder(family, **changes.get(family, {}))
    model, config = tiny.load(folder), read_config(folder)
    asked = []

    def record(*parts, **options):
        asked.append(options)
        return kernel(*parts, **options)

    monkeypatch.setattr(segments.F, "flashmask_attention", record)
    monkeypatch.setattr(paths, "HALF", ("float32",))  # what this machine computes in
    ids, found, said = np.random.default_rng(0).integers(4, 96, (2, 12)), [], []
    for machine in (CPU, GPU):
        model.row_layout.machine = machine
        said.append(plan_attention(model, config, Wish(), "float32", True)[0])
        model.row_layout.set(SEGMENTS)
        with paddle.no_grad():
            output = model(input_ids=paddle.to_tensor(ids))
        found.append((output[0] if isinstance(output, (tuple, list)) else output).numpy())
    assert len(asked) == (2 if said[1] == KERNEL else 0)  # two layers
    assert (said[1] == KERNEL) == (family not in ("bloom", "gemma2")) == (not FAMILIES[family].beyond_kernels(config))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=3e-6)


def test_a_window_that_ends_inside_one_of_several_answers_is_computed_by_segments(model_folder, monkeypatch):
    model = tiny.load(model_folder("mistral", sliding_window=4))
    monkeypatch.setattr(paths, "HALF", ("float32",))
    monkeypatch.setattr(packed, "flashmask_attention", lambda *parts: pytest.fail("one number a token can't say this"))
    model.row_layout.machine = GPU
    model.row_layout.set([[[3, 4, 5]]])
    model(input_ids=paddle.to_tensor(np.arange(12)[None] + 4))


def test_the_plan_says_that_a_wish_can_not_be_had_here(model_folder):
    folder = model_folder("mistral", sliding_window=4)
    path, why = plan_attention(tiny.load(folder), read_config(folder), Wish(True, True), "float32", True)
    assert path in (COMPILED, COMPOSED)
    assert "no GPU" in why and "sliding window of 4 tokens" in why and "the numbers are those of the kernel" in why
