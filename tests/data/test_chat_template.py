from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import Conversation, Turn
from paddle_sft.data.build import build_samples
from paddle_sft.data.builtin_templates import BUILT_IN, MARKS
from paddle_sft.data.chat_template import ChatTemplate, ChatTokens
from paddle_sft.data.dialogue import Dialogue, Message
from paddle_sft.data.own_template import choose_template, find_own_template
from paddle_sft.data.tokenize import find_specials, tokenize_conversations
from tests.data.merging import MERGES, MergingTokenizer

PROMPTED = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
UNPROMPTED = "{% for m in messages %}{{ m.role | upper }}: {{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
LLAMA = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + ' ' + eos_token }}"
    "{% else %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}"
)
ENDLESS = (
    "{% for m in messages %}{{ '\\nT: ' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\nT: ' }}{% endif %}"
)
FILES = {"prompted": PROMPTED, "unprompted": UNPROMPTED, "llama": LLAMA, "endless": ENDLESS}
SPECIALS = ("<s>", "</s>") + tuple(sorted({mark for name in ("llama3", "chatml", "gemma") for mark in MARKS[name]}))
NO_END_BETWEEN = ("baichuan", "chatglm")


def talk(*texts, trained=()):
    turns = [Message(("user", "assistant")[index % 2], text, index not in trained) for index, text in enumerate(texts)]
    return Dialogue(tuple(turns), "train.json line 3")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    for name, source in FILES.items():
        (folder / f"{name}.jinja").write_text(source, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def choose(files):
    """(tokenizer, template) by name of a built-in or a file above."""

    def make(name, merges=MERGES, **switches):
        tokenizer = MergingTokenizer(SPECIALS, merges=merges)
        path = name if name in BUILT_IN or name == "default" else str(files / f"{name}.jinja")
        return tokenizer, choose_template(path, tokenizer, find_specials(tokenizer), **switches)

    return make


def draft_of(conversation, chosen):
    tokenizer, template = chosen
    (draft,) = tokenize_conversations([conversation], template, find_specials(tokenizer), tokenizer)
    return draft


@pytest.mark.parametrize("name", ["chatml", "llama3", "prompted"])
def test_the_head_is_that_of_each_conversation_whatever_came_before(choose, name):
    systems = [None, "A.", None, "B", "B", "A."]
    talks = [talk("a", "b", "c", "d") for _ in systems]
    talks = [
        Dialogue(((Message("system", system, False),) if system else ()) + one.turns, one.place)
        for system, one in zip(systems, talks)
    ]
    tokenizer, template = choose(name)
    together = tokenize_conversations(talks, template, find_specials(tokenizer), tokenizer)
    alone = [draft_of(one, choose(name)) for one in talks]
    assert [draft.turn_starts.tolist() for draft in together] == [draft.turn_starts.tolist() for draft in alone]
    assert len({draft.turn_starts[0] for draft in alone}) > 1


def trained_texts(draft, tokenizer):
    """The texts of neighbouring trained tokens."""
    flags = np.concatenate([[False], draft.trained, [False]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(flags) == 1), np.flatnonzero(np.diff(flags) == -1)
    return [tokenizer.decode(draft.ids[start:end]) for start, end in zip(starts, ends)]


@pytest.mark.parametrize("name", [*BUILT_IN, *FILES])
def test_only_answers_and_their_end_tokens_are_trained(name, choose):
    chosen = choose(name, merges=())
    draft = draft_of(talk("one?", "first", "two?", "second"), chosen)
    end = {"endless": "", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}.get(name, "</s>")
    end = "<|im_end|>" if name in ("chatml", "qwen") else end
    between = "" if name in NO_END_BETWEEN else end
    first, second = trained_texts(draft, chosen[0])
    assert first.replace(" ", "") == f"first{between}" and second.replace(" ", "") == f"second{end}"
    assert chosen[1].end_of_answer.replace(" ", "") == end
    assert len(draft.turn_starts) == 2


contents = st.text(alphabet="ab\n :é]T<>", min_size=1, max_size=8).filter(str.strip)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.tuples(contents, contents), min_size=1, max_size=3), system=st.none() | contents)
@pytest.mark.parametrize("name", ["default", *BUILT_IN, *FILES])
def test_every_token_of_an_answer_is_trained_and_no_other(name, choose, texts, system):
    """The oracle reads the trained characters of the pieces, and the tokenizer's own offsets."""
    if system is not None and name == "llama":
        system = None  # it would write the system's message as a question
    head = (Turn("system", system),) if system is not None else ()
    turns = [Turn(role, text) for pair in texts for role, text in zip(("user", "assistant"), pair)]
    conversation = Conversation(head + tuple(turns), "train.json line 1")
    tokenizer, template = choose(name)
    draft = draft_of(conversation, (tokenizer, template))
    rendered = template(conversation)
    pieces = [piece for group in (rendered.head, *rendered.turns) for piece in group]
    if name == "default":
        assert tokenizer.decode(draft.ids[draft.trained]) == "".join(text + "</s>" for _, text in texts)
        return
    text = "".join(piece.text for piece in pieces)
    flags = [piece.trained for piece in pieces for _ in piece.text]
    assert draft.ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert draft.trained.tolist() == [any(flags[start:end]) for start, end in tokenizer.offsets(text)]
    said = [piece.text for piece in pieces if piece.trained]
    assert len(said) == len(texts)
    for one, (_, answer) in zip(said, texts):
        assert answer.strip() in one and len(one) <= len(answer) + 16


@pytest.mark.parametrize("name", sorted({"default", *BUILT_IN, *FILES} - {"unprompted"}))
def test_a_prompt_is_what_stands_before_its_answer(name, choose):
    chosen = choose(name, merges=())
    whole = draft_of(talk("one?", "first", "two?", "second"), chosen)
    prompt = draft_of(talk("one?", "first", "two?"), chosen)
    assert whole.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    assert not whole.trained[len(prompt.ids) - 1] and whole.trained[len(prompt.ids)]


@pytest.mark.parametrize("name", ["default", "chatml", "prompted", "unprompted"])
def test_weight_zero_mask_history_and_train_on_prompt_choose_what_is_trained(name, choose):
    conversation = talk("one?", "first", "two?", "second", trained=(1,))
    chosen = choose(name)
    assert [text.strip()[:6] for text in trained_texts(draft_of(conversation, chosen), chosen[0])] == ["second"]
    chosen = choose(name, mask_history=True)
    both = talk("one?", "first", "two?", "second")
    assert [text.strip()[:6] for text in trained_texts(draft_of(both, chosen), chosen[0])] == ["second"]
    chosen = choose(name, train_on_prompt=True)
    text = "".join(trained_texts(draft_of(conversation, chosen), chosen[0]))
    assert "one?" in text and "two?" in text and "second" in text and "first" not in text


def test_train_on_prompt_and_mask_history_contradict_each_other(choose):
    with pytest.raises(ArgumentError, match="train_on_prompt and mask_history are both true"):
        choose("chatml", train_on_prompt=True, mask_history=True)


def test_a_template_that_changes_earlier_answers_is_refused_and_the_message_named():
    source = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}{% else %}(gone){% endif %}</s>"
        "{% endfor %}"
    )
    template = ChatTemplate(source, "forgetful", ChatTokens({}, ("</s>",)))
    with pytest.raises(DataError) as error:
        template(talk("one?", "first", "two?", "second"))
    for words in ["train.json line 3: template forgetful", "message 2 (assistant)", "{% generation %}", "mask_history"]:
        assert words in str(error.value)
    rendered = template(talk("one?", "first", "two?", "second", trained=(1,)))  # the last answer can be told
    assert [piece.text for group in rendered.turns for piece in group if piece.trained] == ["second</s>"]


def test_a_generation_prompt_that_the_answer_does_not_begin_with_is_refused():
    source = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(DataError, match="message 2 .assistant.: what it writes"):
        ChatTemplate(source, "thinking", ChatTokens({}, ()))(talk("one?", "first"))


def test_marks_are_believed_and_counted():
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    with pytest.raises(DataError, match="marks 2 answers.*has 1"):
        ChatTemplate(marked, "eager", ChatTokens({}, ()))(talk("one?", "first"))


@pytest.mark.parametrize(
    "source, words",
    [
        ("{% if %}", "template x is not valid Jinja"),
        ("{% generation %}a", "template x is not valid Jinja"),
        (
            "{{ raise_exception('no ' + messages[0].role) }}",
            "line 3: template x can't write this conversation: no user",
        ),
        ("{{ messages[9].role }}", "line 3: template x can't write this conversation"),
        ("{{ 1 / 0 }}", "line 3: template x can't write this conversation"),
        ("{{ messages.__class__.__mro__ }}", "line 3: template x can't write this conversation"),
    ],
)
def test_a_template_that_can_not_be_used_is_a_data_error(source, words):
    with pytest.raises(DataError, match=words):
        ChatTemplate(source, "x", ChatTokens({}, ()))(talk("one?", "first"))


def test_tools_go_to_templates_that_write_them_and_are_refused_elsewhere(choose):
    call = [{"type": "function", "function": {"name": "f", "arguments": {"é": 1}}}]
    turns = (
        Turn("user", "a"),
        Message("assistant", "", True, {"tool_calls": call}),
        Turn("tool", "1"),
        Turn("assistant", "b"),
    )
    conversation = Dialogue(turns, "train.json line 3", ({"name": "f"},))
    source = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    rendered = ChatTemplate(source, "tools", ChatTokens({}, ("</s>",)))(conversation)
    pieces = [piece for group in (rendered.head, *rendered.turns) for piece in group]
    assert [piece.text for piece in pieces if piece.trained] == ['{"name": "f", "arguments": {"é": 1}}</s>', "b</s>"]
    assert "".join(piece.text for piece in pieces).startswith('[{"name": "f"}]<user>a')
    for name in ("chatml", "default"):
        with pytest.raises(DataError, match="line 3: the row has tools"):
            choose(name)[1](conversation)


@pytest.mark.parametrize("name", ["mistral", "llama2", "gemma", "alpaca", "vicuna", "baichuan"])
def test_families_without_other_roles_refuse_them_by_message(name, choose):
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("tool", "c"), Turn("assistant", "d"))
    with pytest.raises(DataError, match="line 3: template .* message 3 is tool"):
        choose(name)[1](Conversation(turns, "train.json line 3"))


# ---- where the template comes from -----------------------------------------------------------------------------


def test_the_models_own_template_is_found_in_the_order_of_hugging_face(tmp_path):
    assert find_own_template(tmp_path) is None and find_own_template(None) is None
    (tmp_path / "chat_template.json").write_text('{"conversation": ["a", "b"]}')
    assert find_own_template(tmp_path) == ({"conversation": ["a", "b"]}, "chat_template.json")
    listed = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert find_own_template(tmp_path) == ("y", "tokenizer_config.json; chat_template.json not used")
    (tmp_path / "chat_template.jinja").write_text("z")
    expected = ("z", "chat_template.jinja; tokenizer_config.json and chat_template.json not used")
    assert find_own_template(tmp_path) == expected


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("tokenizer_config.json", "{", "not valid JSON"),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "a", "template": "b"}]}',
            "without a template called default",
        ),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template is no text"),
        ("chat_template.json", '{"a": 1}', "neither chat_template .* nor conversation"),
        ("chat_template.json", '{"conversation": ["a"]}', "a list of two texts"),
    ],
)
def test_a_broken_template_file_of_a_model_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    tokenizer = MergingTokenizer(SPECIALS)
    with pytest.raises(DataError, match=words):
        choose_template("auto", tokenizer, find_specials(tokenizer), tmp_path)


def test_auto_without_a_template_and_a_missing_file_say_what_may_be_given(tmp_path):
    tokenizer = MergingTokenizer(SPECIALS)
    with pytest.raises(DataError, match="the model has no chat template.*Choose default, one of alpaca"):
        choose_template("auto", tokenizer, find_specials(tokenizer), tmp_path)
    with pytest.raises(ArgumentError, match="there is no such file"):
        choose_template("my.jinja", tokenizer, find_specials(tokenizer), tmp_path)
    with pytest.raises(ArgumentError, match="did you mean 'chatml'"):
        choose_template("chtml", tokenizer, find_specials(tokenizer), tmp_path)


def test_the_plan_says_which_template_writes_and_which_is_not_applied(write, arguments, tmp_path):
    write("train.json", [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "chat_template.jinja").write_text(PROMPTED)

    def lines(template, tokenizer=MergingTokenizer(SPECIALS)):
        built = build_samples(arguments(template=template), tokenizer, "train", "sft", model_folder=tmp_path / "model")
        return "\n".join(built.lines())

    assert "the model has a chat template (chat_template.jinja), which is not applied: set template to auto" in lines(
        "default"
    )
    assert "template: the model's own (chat_template.jinja)" in lines("auto")
    assert "format: messages (1 row, told from train.json line 1)" in lines("auto")
    plain = lines("chatml", MergingTokenizer())
    assert "this tokenizer has no token of its own for <|im_start|> (12 tokens), <|im_end|> (10 tokens)" in plain
    endless = tmp_path / "endless.jinja"
    endless.write_text(ENDLESS)
    assert "writes no end token behind an answer" in lines(str(endless))


def test_rows_without_a_trained_token_are_refused_with_their_places(write, arguments):
    silent = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}x"
        "{% generation %}{% endgeneration %}{% endif %}{% endfor %}"
    )
    path = write("silent.jinja", silent.encode())
    write("train.json", [{"src": "a", "tgt": "b"}, {"src": "c", "tgt": "d"}])
    with pytest.raises(DataError) as error:
        build_samples(arguments(template=str(path)), MergingTokenizer(SPECIALS), "train", "sft")
    for words in ["2 problems", "train.json line 1: none of its 2 tokens is trained", "train.json line 2"]:
        assert words in str(error.value)


def test_the_number_of_workers_changes_nothing_with_a_template(write, arguments):
    write("train.json", [{"src": "s" * (number % 7), "tgt": f"\nanswer {number}"} for number in range(1100)])
    tokenizer = MergingTokenizer(SPECIALS)
    one, two = (
        build_samples(arguments(preprocessing_num_workers=number, template="chatml"), tokenizer, "train", "sft")
        for number in (1, 2)
    )
    assert one.report == two.report
    assert all(left.ids.tolist() == right.ids.tolist() for left, right in zip(one.samples, two.samples))


def test_paddlenlps_parts_are_written_and_only_the_answer_is_trained(tmp_path):
    parts = {
        "system": "sys{{ system }}</s>",
        "conversation": ["<|im_start|>{{ user }}<|im_end|>\n", "{{ bot }}<|im_end|>\n"],
        "query": "<|im_start|>{{ query }}<|im_end|>\n",
    }
    (tmp_path / "chat_template.json").write_text(json.dumps(parts))
    tokenizer = MergingTokenizer(SPECIALS)
    template = choose_template("auto", tokenizer, find_specials(tokenizer), tmp_path)
    head = (Turn("system", "S"),)
    conversation = Conversation(head + talk("one?", "first", "two?", "second").turns, "train.json line 3")
    draft = draft_of(conversation, (tokenizer, template))
    assert tokenizer.decode(draft.ids) == (
        "sysS</s><|im_start|>one?<|im_end|>\nfirst<|im_end|>\n<|im_start|>two?<|im_end|>\nsecond<|im_end|>\n"
    )
    assert trained_texts(draft, tokenizer) == ["first<|im_end|>", "second<|im_end|>"]
    prompt = draft_of(Conversation(conversation.turns[:-1], "x"), (tokenizer, template))
    assert draft.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    with pytest.raises(DataError, match="questions and answers in turns"):
        template(Conversation((Turn("user", "a"), Turn("user", "b")), "train.json line 3"))
