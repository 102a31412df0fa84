from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.data.build import build_samples
from paddle_sft.data.formats import Layout
from paddle_sft.data.sources import FoundSource, read_sources
from paddle_sft.generate.generation import Sampling, generate_texts, prompt_ids
from paddle_sft.generate.predict import predict
from tests import tiny

PROMPTS = [
    "red cat runs :",
    "the dog :",
    "a bird sings quickly on the tree :",
    "blue house :",
    "green cat sleeps :",
    "river",
]


class Spelling:
    """The tiny tokenizer, but an answer is spelt as its ids, so that no difference is lost in decoding."""

    def __init__(self, tokenizer, eos=None):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_token_id if eos is None else eos

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, *given, **more):
        return self._tokenizer(*given, **more)

    def decode(self, ids, **options):
        return " ".join(map(str, ids))


@pytest.fixture
def spelling(tiny_tokenizer):
    return Spelling(tiny_tokenizer)


def greedy(model, ids, num_tokens, eos=2):
    """The likeliest token again and again, computed from scratch each time: no cache, no batch."""
    ids, found = list(ids), []
    for _ in range(num_tokens):
        found.append(int(tiny.logits(model, [ids])[0, -1].argmax()))
        if found[-1] == eos:
            return found[:-1]
        ids.append(found[-1])
    return found


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_greedy_answers_are_those_of_the_slow_loop(model_folder, spelling, family):
    model = tiny.load(model_folder(family))
    answers = generate_texts(model, spelling, PROMPTS, Sampling(max_new_tokens=12), batch_size=4)
    expected = [greedy(model, ids, 12) for ids in prompt_ids(PROMPTS, spelling)]
    assert answers == [" ".join(map(str, ids)) for ids in expected]
    assert len(set(answers)) > 1


def test_an_adapted_model_answers_with_its_adapter(model_folder, spelling):
    model = tiny.load(model_folder())
    before = generate_texts(model, spelling, PROMPTS, Sampling(max_new_tokens=8), 4)
    attach(model, "lora", LoRAConfig(lora_rank=4, lora_alpha=8.0), None)
    tiny.train_deltas(model, size=0.3)
    after = generate_texts(model, spelling, PROMPTS, Sampling(max_new_tokens=8), 4)
    assert after != before
    assert after == [" ".join(map(str, greedy(model, ids, 8))) for ids in prompt_ids(PROMPTS, spelling)]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_answers_come_in_the_order_of_the_prompts_however_they_are_batched(model_folder, spelling, batch_size):
    model = tiny.load(model_folder())
    together = generate_texts(model, spelling, PROMPTS * 2, Sampling(max_new_tokens=6), batch_size)
    alone = [generate_texts(model, spelling, [prompt], Sampling(max_new_tokens=6), 1)[0] for prompt in PROMPTS]
    assert together == alone * 2


def test_an_answer_stops_before_its_end_token_and_the_others_go_on(model_folder, tiny_tokenizer):
    model = tiny.load(model_folder())
    free = [greedy(model, ids, 12, eos=-1) for ids in prompt_ids(PROMPTS, tiny_tokenizer)]
    end = next(token for token in free[0][2:] if 0 < sum(token in ids for ids in free) < len(free))
    answers = generate_texts(model, Spelling(tiny_tokenizer, eos=end), PROMPTS, Sampling(max_new_tokens=12), 8)
    expected = [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert answers == [" ".join(map(str, ids)) for ids in expected]
    assert len(expected[0]) < 12 and max(map(len, expected)) == 12


def test_nothing_is_computed_behind_the_end_token(model_folder, tiny_tokenizer):
    model, passes = tiny.load(model_folder()), []
    free = greedy(model, prompt_ids(PROMPTS[:1], tiny_tokenizer)[0], 12, eos=-1)
    end = next(token for token in free if token != free[0])
    model.register_forward_post_hook(lambda *_: passes.append(1))
    generate_texts(model, Spelling(tiny_tokenizer, eos=end), PROMPTS[:1], Sampling(max_new_tokens=60), 1)
    assert len(passes) == free.index(end) + 1


def test_no_more_tokens_are_made_than_asked_for(model_folder, spelling):
    for limit in (1, 5):
        answers = generate_texts(tiny.load(model_folder()), spelling, PROMPTS, Sampling(max_new_tokens=limit), 8)
        assert all(len(answer.split()) <= limit for answer in answers)


def test_drawn_answers_follow_the_seed_and_differ_between_seeds(model_folder, spelling):
    model, drawn = tiny.load(model_folder()), []
    for seed in (1, 1, 2):
        paddle.seed(seed)
        drawn.append(generate_texts(model, spelling, PROMPTS, Sampling(12, do_sample=True, temperature=2.0), 8))
    assert drawn[0] == drawn[1] != drawn[2]


def test_drawing_from_one_candidate_is_greedy(model_folder, spelling):
    model = tiny.load(model_folder())
    drawn = generate_texts(model, spelling, PROMPTS, Sampling(8, do_sample=True, top_k=1), 8)
    assert drawn == generate_texts(model, spelling, PROMPTS, Sampling(8), 8)


def test_a_repetition_penalty_is_used(model_folder, spelling):
    model = tiny.load(model_folder())
    plain, punished = (
        generate_texts(model, spelling, PROMPTS, Sampling(12, repetition_penalty=p), 8) for p in (1.0, 50.0)
    )

    def repeats(answers):
        return sum(len(answer.split()) - len(set(answer.split())) for answer in answers)

    assert repeats(punished) < repeats(plain)


def test_answering_leaves_every_weight_as_it_was(model_folder, spelling):
    model = tiny.load(model_folder())
    model.train()
    before = tiny.snapshot(model)
    generate_texts(model, spelling, PROMPTS, Sampling(max_new_tokens=3), 8)
    for name, array in tiny.snapshot(model).items():
        np.testing.assert_array_equal(array, before[name])


ROWS = [
    {"src": "red cat :", "tgt": "red"},
    {"src": "dog runs under the tree :", "tgt": "dog runs"},
    {"src": ["blue bird :", "and the cat :"], "tgt": ["blue", "cat"]},
]


def test_a_prompt_has_the_ids_that_training_put_before_the_answer(tmp_path, tiny_tokenizer):
    tiny.write_lines(tmp_path / "train.json", ROWS)
    arguments = SimpleNamespace(
        dataset_name_or_path=str(tmp_path), src_length=1024, max_length=2048, length_policy="error", template="default",
        max_samples=None, preprocessing_num_workers=None,
    )  # fmt: skip
    samples = build_samples(arguments, tiny_tokenizer, "train", "sft", progress=False).samples
    prompts = ["red cat :", "dog runs under the tree :", ["blue bird :", "blue", "and the cat :"]]
    for sample, ids in zip(samples, prompt_ids(prompts, tiny_tokenizer)):
        np.testing.assert_array_equal(sample.ids[: len(ids)], ids)
        assert sample.trained[len(ids)] and not sample.trained[len(ids) - 1]  # the last answer begins right behind
        assert sample.ids[-1] == tiny_tokenizer.eos_token_id
    assert prompt_ids(["red cat :"], tiny_tokenizer)[0][0] == tiny_tokenizer.bos_token_id


def test_predictions_stand_beside_their_references(model_folder, tmp_path, tiny_tokenizer):
    model = tiny.load(model_folder())
    file = tiny.write_lines(tmp_path / "dev.json", ROWS)
    asked = read_sources([FoundSource((file,), Layout())]).records
    found = predict(model, tiny_tokenizer, asked, Sampling(max_new_tokens=4), 8)
    assert [row["tgt"] for row in found] == ["red", "dog runs", "cat"]
    assert [row["src"] for row in found] == [
        "red cat :",
        "dog runs under the tree :",
        ["blue bird :", "blue", "and the cat :"],
    ]
    outputs = generate_texts(model, tiny_tokenizer, [row["src"] for row in found], Sampling(max_new_tokens=4), 1)
    assert [row["output"] for row in found] == outputs
    one = read_sources([FoundSource((file,), Layout())], 1).records
    assert len(predict(model, tiny_tokenizer, one, Sampling(max_new_tokens=1), 8)) == 1
