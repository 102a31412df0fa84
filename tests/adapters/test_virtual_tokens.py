"""Virtual tokens: every sample of a row has its own, however rows are made, in every family, and in generation."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import activate, attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.generate.generation import Prompts, Sampling, generate_texts
from paddle_sft.models.virtual import decoder_layers
from paddle_sft.stages.catalogue import STAGES
from tests import tiny

SAMPLES = tiny.make_samples(5, seed=4, longest=11)
CONFIGS = {
    "prompt_tuning": dict(num_virtual_tokens=3),
    "p_tuning": dict(num_virtual_tokens=3, encoder_reparameterization_type="LSTM"),
    "prefix_tuning": dict(num_virtual_tokens=3),
    "reft": dict(position="f2+l1"),
}


@pytest.fixture
def adapted(model_folder):
    def make(family, method, **config):
        model = tiny.load(model_folder(family))
        paddle.seed(2)
        attach(model, method, ADAPTERS[method].config(**{**CONFIGS[method], **config}), None)
        tiny.train_deltas(model, size=0.3)
        return model

    return make


def hidden_of_rows(model, rows):
    """Logits of all samples, one behind the other, computed in these rows."""
    batch = collate_rows(rows, 3)
    model.eval()
    with paddle.no_grad():
        found = STAGES["sft"].logits(model, paddle.to_tensor(batch.input_ids), batch.segment_lengths, batch).numpy()
    return np.concatenate([found[number, : sum(lengths)] for number, lengths in enumerate(batch.sample_lengths)])


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "reft"])
def test_packed_is_padded_is_one_by_one(adapted, family, method):
    model = adapted(family, method)
    alone = np.concatenate([hidden_of_rows(model, [[sample]]) for sample in SAMPLES])
    padded = hidden_of_rows(model, [[sample] for sample in SAMPLES])
    packed = hidden_of_rows(model, [SAMPLES[:3], SAMPLES[3:]])
    np.testing.assert_allclose(padded, alone, rtol=0, atol=2e-5)
    np.testing.assert_allclose(packed, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "reft"])
def test_an_answer_made_with_a_cache_is_the_one_that_whole_rows_give(adapted, family, method):
    """Greedy: every new token is the likeliest behind the whole row before it, read afresh."""
    model = adapted(family, method)
    ids = np.random.default_rng(1).integers(4, 96, (2, 6))
    model.eval()
    model.row_layout.clear()
    with paddle.no_grad():
        made, _ = model.generate(
            paddle.to_tensor(ids), attention_mask=paddle.ones(ids.shape, dtype="int64"), max_new_tokens=5,
            decode_strategy="greedy_search", eos_token_id=2, pad_token_id=3, bos_token_id=1, use_cache=True,
        )  # fmt: skip
    rows, made = ids, made.numpy()
    for step in range(made.shape[1]):
        model.row_layout.set([[rows.shape[1]]] * 2, prompt_lengths=[[6]] * 2)
        with paddle.no_grad():
            output = model(input_ids=paddle.to_tensor(rows))
        likeliest = (output[0] if isinstance(output, tuple) else output).numpy()[:, -1].argmax(-1)
        going_on = (rows[:, 6:] != 2).all(axis=1)
        np.testing.assert_array_equal(made[going_on, step], likeliest[going_on])
        rows = np.concatenate([rows, made[:, step : step + 1]], axis=1)


def test_virtual_tokens_are_tokens_of_the_text_for_the_model(adapted):
    """A prompt of word vectors computes what those words before the text do, in a model without the adapter."""
    model = adapted("llama", "prompt_tuning")
    words = np.array([7, 50, 9])
    update = model.model_updates["default"]
    update.prompt.set_value(model.get_input_embeddings().weight[paddle.to_tensor(words)])
    ids = np.random.default_rng(1).integers(4, 96, (2, 6))
    found = tiny.logits(model, ids)
    activate(model)
    plain = tiny.logits(model, np.concatenate([np.tile(words, (2, 1)), ids], axis=1))
    np.testing.assert_allclose(found, plain[:, 3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mistral", "bloom", "gemma2", "gpt2"])
def test_a_prefix_of_what_words_have_is_those_words(adapted, model_folder, family):
    """Keys and values of words, as prefix tuning starts without the MLP, are what a cache of those words holds."""
    changes = {"sliding_window": 5} if family == "mistral" else {}
    model = tiny.load(model_folder(family, **changes))
    attach(
        model, "prefix_tuning", ADAPTERS["prefix_tuning"].config(num_virtual_tokens=4, prefix_projection=False), None
    )
    paddle.seed(3)
    model.model_updates["default"].start(model)
    paddle.seed(3)
    words = paddle.randint(0, 96, [1, 4]).numpy()
    ids = np.random.default_rng(1).integers(4, 96, (2, 7))
    found = tiny.logits(model, ids)
    packed = hidden_of_rows(model, [SAMPLES[:2]])
    activate(model)
    plain = tiny.logits(model, np.concatenate([np.tile(words, (2, 1)), ids], axis=1))
    np.testing.assert_allclose(found, plain[:, 4:], rtol=0, atol=2e-5)
    rows = [np.concatenate([words[0], sample.ids])[None] for sample in SAMPLES[:2]]
    np.testing.assert_allclose(packed, np.concatenate([tiny.logits(model, row)[0, 4:] for row in rows]), atol=2e-5)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_table_of_positions_that_is_too_short_is_refused(adapted, method):
    model = adapted("gpt2", method, num_virtual_tokens=250)
    assert tiny.logits(model, np.full((1, 6), 5)).shape[1] == 6
    with pytest.raises(ModelError, match="257 tokens is longer than the 256 positions"):
        tiny.logits(model, np.full((1, 7), 5))


def test_two_of_them_do_not_take_part_together(adapted):
    model = adapted("llama", "prompt_tuning")
    attach(model, "reft", ADAPTERS["reft"].config(), None, name="other")
    with pytest.raises(ArgumentError, match="default and other .* activate one"):
        activate(model, "default", "other")


def test_noise_is_on_words_alone(adapted):
    """NEFTune's noise depends on the row's length: that of the text, as where vectors are put behind the embedding."""
    from paddle_sft.train.noise import add_embedding_noise

    model = adapted("llama", "prompt_tuning")
    add_embedding_noise(model, 5.0)
    model.train()
    seen = []
    decoder_layers(model)[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    batch = collate(SAMPLES[:2], 3)
    for seed in (1, 2):
        paddle.seed(seed)
        STAGES["sft"].loss(model, batch)
    np.testing.assert_array_equal(seen[0][:, :3], seen[1][:, :3])
    words = np.abs(seen[0] - seen[1])[:, 3:]
    width = batch.input_ids.shape[1]
    assert (words > 0).any(axis=-1).all()
    assert 2 * 5.0 / np.sqrt((width + 3) * 32) < words.max() <= 2 * 5.0 / np.sqrt(width * 32) + 1e-6


def test_texts_are_answered_with_the_prompt_known(adapted, tiny_tokenizer):
    """Where a row is read again as a whole, what was answered is no prompt."""
    model = adapted("llama", "reft")
    prompts = Prompts([np.array([5, 6, 7, 8])] * 2, 2)
    assert len(generate_texts(model, tiny_tokenizer, prompts, Sampling(max_new_tokens=3), 2)) == 2
    assert model.row_layout.prompt_lengths == [[4]] * 2


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_positions_that_are_given_go_on_behind_the_virtual_tokens(adapted, method):
    """Given as they are anyway, nothing changes; where they skip, the virtual tokens stay where they are."""
    model, lengths = adapted("llama", method), [[4, 3], [7]]
    ids = paddle.to_tensor(np.random.default_rng(2).integers(4, 96, (2, 7)))
    usual = np.array([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]])
    found = []
    for positions in (None, usual, usual + 5 * (usual > 1)):
        model.row_layout.set(lengths, positions)
        with paddle.no_grad():
            output = model(input_ids=ids)
            found.append((output[0] if isinstance(output, tuple) else output).numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)
    assert np.abs(found[2] - found[0])[:, :2].max() < 1e-6 < np.abs(found[2] - found[0]).max()


def test_a_classifier_reads_the_last_token_of_the_text(model_folder):
    model = tiny.load_classifier(model_folder())
    attach(model, "prompt_tuning", ADAPTERS["prompt_tuning"].config(num_virtual_tokens=3), None)
    samples = tiny.labelled(SAMPLES[:3])
    stage = STAGES["classification"]
    with paddle.no_grad():
        packed = stage.scores(model, collate_rows([samples], 3)).numpy()
        alone = np.concatenate([stage.scores(model, collate([one], 3)).numpy() for one in samples])
    np.testing.assert_allclose(packed, alone, rtol=0, atol=1e-5)
    model.model_updates["default"].enabled = False
    assert np.abs(stage.scores(model, collate_rows([samples], 3)).numpy() - packed).max() > 1e-3
