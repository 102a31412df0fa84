"""The fake tokenizer of the other tests, held against a real one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.build import build_samples
from paddle_sft.data.own_template import choose_template
from paddle_sft.data.tokenize import find_specials, tokenize_conversations

WORDS = "the model reads a prompt and writes an answer, then it stops. 你好，世界 été"
ROWS = [
    {"src": "the prompt", "tgt": "an answer"},
    {"src": ["", "reads a  prompt\n"], "tgt": ["writes", " 你好 \U0001f600"]},
    {"src": "\u200b", "tgt": "stops."},  # a text that this tokenizer normalises away
]


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory):
    spm = pytest.importorskip("sentencepiece")
    transformers = pytest.importorskip("paddlenlp.transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return transformers.LlamaTokenizer(str(folder / "tokenizer.model"))


def test_ids_are_the_tokenizers_own(llama_tokenizer, write, arguments):
    write("train.json", ROWS)
    built = build_samples(arguments(), llama_tokenizer, "train", "sft")
    bos, eos = llama_tokenizer.bos_token_id, llama_tokenizer.eos_token_id
    assert len(built) == len(ROWS)
    for row, sample in zip(ROWS, built.samples):
        ids, trained = [bos], [False]
        sources, targets = ([row[key]] if isinstance(row[key], str) else row[key] for key in ("src", "tgt"))
        for source, target in zip(sources, targets):
            prompt = llama_tokenizer(source, add_special_tokens=False)["input_ids"]
            answer = llama_tokenizer(target, add_special_tokens=False)["input_ids"] + [eos]
            ids += prompt + answer
            trained += [False] * len(prompt) + [True] * len(answer)
        assert sample.ids.tolist() == ids
        assert sample.trained.tolist() == trained


def test_the_prompt_has_the_ids_that_generation_will_give_it(llama_tokenizer, write, arguments):
    write("train.json", ROWS[:1])
    (sample,) = build_samples(arguments(), llama_tokenizer, "train", "sft").samples
    prompt = llama_tokenizer(ROWS[0]["src"])["input_ids"]
    assert sample.ids.tolist()[: len(prompt)] == prompt


def test_pretraining_ids_are_the_tokenizers_own(llama_tokenizer, write, arguments):
    write("train.json", [{"text": WORDS}, {"text": "stops."}])
    built = build_samples(arguments(max_length=16), llama_tokenizer, "train", "pretrain")
    eos = llama_tokenizer.eos_token_id
    stream = llama_tokenizer(WORDS)["input_ids"] + [eos] + llama_tokenizer("stops.")["input_ids"] + [eos]
    joined = [token for sample in built.samples for token in sample.ids.tolist()]
    assert joined == stream[: len(joined)] and len(stream) - len(joined) <= 1


@pytest.fixture(scope="module")
def qwen2_tokenizer(tmp_path_factory):
    """Byte-level, with the marks of chatml as special tokens; PaddleNLP's own."""
    transformers = pytest.importorskip("paddlenlp.transformers")
    from tests.parity.vocabularies import make_qwen2_tokenizer

    folder = tmp_path_factory.mktemp("qwen2")
    make_qwen2_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def test_paddlenlp_still_drops_the_space_beside_special_tokens(qwen2_tokenizer):
    """When this fails, PaddleNLP was mended, and `paddle_sft.data.joint` need not set special tokens apart any more."""
    marked = qwen2_tokenizer("<|im_end|>\n<|im_start|>", add_special_tokens=False)["input_ids"]
    assert len(marked) == 2


def test_a_chat_template_keeps_the_line_ends_beside_special_tokens(qwen2_tokenizer, write, arguments):
    write("train.json", [{"src": ["red ", "b"], "tgt": ["\nan answer ", " é"]}])
    (sample,) = build_samples(arguments(template="chatml"), qwen2_tokenizer, "train", "sft").samples
    text = (
        "<|im_start|>user\nred <|im_end|>\n<|im_start|>assistant\n\nan answer <|im_end|>\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n é<|im_end|>\n"
    )
    assert qwen2_tokenizer.decode(sample.ids.tolist(), clean_up_tokenization_spaces=False) == text
    trained = [int(token) for token, flag in zip(sample.ids, sample.trained) if flag]
    said = qwen2_tokenizer.decode(trained, clean_up_tokenization_spaces=False)
    assert said.lstrip("\n") == "an answer <|im_end|> é<|im_end|>"


@pytest.fixture(scope="module")
def text_tokenizer(tmp_path_factory):
    """The suite's own of the same files, which knows where its tokens stand."""
    from paddle_sft.models.tokenizers import load_tokenizer
    from tests.parity.vocabularies import make_qwen2_tokenizer

    folder = tmp_path_factory.mktemp("own")
    make_qwen2_tokenizer(folder)
    return load_tokenizer(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.sampled_from("ab dte\n\t,.é今🙂12<|im_end|>"), min_size=1, max_size=12), min_size=1, max_size=5
    ),
    template=st.sampled_from(["chatml", "alpaca", "vicuna"]),
)
def test_a_text_tokenised_once_has_the_tokens_and_the_answers_of_one_that_is_tokenised_piece_by_piece(
    text_tokenizer, texts, template
):
    class Without:
        """The same, without `encode_pieces`."""

        def __init__(self):
            for name in (
                "eos_token_id",
                "bos_token_id",
                "all_special_tokens",
                "added_tokens_decoder",
                "special_tokens_map",
            ):
                setattr(self, name, getattr(text_tokenizer, name))
            self.convert_tokens_to_ids = text_tokenizer.convert_tokens_to_ids

        def __call__(self, text, add_special_tokens=True):
            return text_tokenizer(text, add_special_tokens=add_special_tokens)

    talk = Conversation(
        tuple(Turn(("user", "assistant")[n % 2], text) for n, text in enumerate([*texts, "end"])), "here"
    )
    drafts = []
    for tokenizer in (text_tokenizer, Without()):
        specials = find_specials(tokenizer)
        render = choose_template(template, tokenizer, specials)
        (draft,) = tokenize_conversations([talk], render, specials, tokenizer)
        drafts.append([draft.ids.tolist(), draft.trained.tolist(), draft.turn_starts.tolist()])
    assert drafts[0] == drafts[1]


def test_a_tokenizer_that_knows_where_its_tokens_stand_reads_a_text_once(text_tokenizer, monkeypatch):
    specials = find_specials(text_tokenizer)
    render = choose_template("vicuna", text_tokenizer, specials)
    read = []
    encode = type(text_tokenizer).encode_pieces
    monkeypatch.setattr(
        type(text_tokenizer), "encode_pieces", lambda self, runs: read.extend(runs) or encode(self, runs)
    )
    monkeypatch.setattr(type(text_tokenizer), "__call__", lambda *_, **__: pytest.fail("the text is read again"))
    talk = Conversation(tuple(Turn(("user", "assistant")[n % 2], f"text {n}") for n in range(8)), "here")
    tokenize_conversations([talk], render, specials, text_tokenizer)
    assert len(read) == 1 and all(f"text {n}" in "".join(read[0]) for n in range(8))
