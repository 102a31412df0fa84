from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import IGNORED
from paddle_sft.data.build import build_samples
from paddle_sft.data.collate import collate


def test_rows_become_samples_and_a_batch(write, arguments, tokenizer, ids_of):
    write("train.json", [{"src": "ab", "tgt": "c"}, {"src": ["d", ""], "tgt": ["e", "fg"]}])
    built = build_samples(arguments(), tokenizer, "train", "sft")
    batch = collate(built.samples, tokenizer.pad_token_id)
    a, b, c, d, e, f, g = ids_of("abcdefg")
    o = IGNORED
    assert batch.input_ids.tolist() == [[1, a, b, c, 2, 0, 0], [1, d, e, 2, f, g, 2]]
    assert batch.labels.tolist() == [[o, o, c, 2, o, o, o], [o, e, 2, f, g, 2, o]]
    assert batch.num_trained == built.report.trained_tokens == 7
    assert len(built) == 2 and [sample.place for sample in built.samples] == ["train.json line 1", "train.json line 2"]


def test_pretraining_blocks_are_the_text_end_to_end(write, arguments, tokenizer, ids_of):
    write("train.json", [{"text": "abc"}, {"src": "d", "tgt": "e"}, {"text": "é"}])
    built = build_samples(arguments(max_length=6), tokenizer, "train", "pretrain")
    stream = [1, *ids_of("abc"), 2, 1, *ids_of("de"), 2, 1, *ids_of("é"), 2]
    assert [sample.ids.tolist() for sample in built.samples] == [stream[:6], stream[6:12]]
    assert built.report.tokens_before == 13 and built.report.tokens_after == 12
    text = "\n".join(built.lines())
    for words in ["3 documents -> 2 blocks of 6 tokens (the last has 6)", "10 of them trained", "1 token left over"]:
        assert words in text


def test_dev_is_read_beside_train_and_max_samples_holds_for_it(write, arguments, tokenizer, ids_of):
    write("train.json", [{"src": "a", "tgt": "b"}])
    write("dev/x.json", [{"src": "c", "tgt": str(number)} for number in range(5)])
    built = build_samples(arguments(max_samples=3), tokenizer, "dev", "sft")
    assert [sample.ids.tolist()[2:3] for sample in built.samples] == [ids_of("0"), ids_of("1"), ids_of("2")]


def test_a_missing_dev_split_is_an_error_when_it_is_asked_for(write, arguments, tokenizer):
    write("train.json", [{"src": "a", "tgt": "b"}])
    with pytest.raises(DataError, match=r"no dev data: looked for dev\.json.*switch evaluation off"):
        build_samples(arguments(), tokenizer, "dev", "sft")


def test_unused_keys_are_said_and_not_passed_over(write, arguments, tokenizer):
    write("train.json", [{"src": "a", "tgt": "b", "id": 1}, {"src": "a", "tgt": "b", "id": 2, "lang": "zh"}])
    lines = build_samples(arguments(), tokenizer, "train", "sft").lines()
    assert lines[-1] == "keys of the rows that are not used: id (2 rows), lang (1 rows)"


def test_bad_lines_and_bad_rows_of_all_files_are_said_at_once_in_order(write, arguments, tokenizer):
    good = json.dumps({"src": "a", "tgt": "b"}).encode()
    write("train/a.json", b"\n".join([good, b"broken", good, b'{"src": "a"}']))
    write("train/b.json", b"\n".join([b'{"src": "a", "tgt": " "}', good, b"\xff"]))
    with pytest.raises(DataError) as error:
        build_samples(arguments(), tokenizer, "train", "sft")
    first, *lines = str(error.value).split("\n")
    assert "train: 4 problems" in first
    expected = ["a.json line 2: not valid", "a.json line 4: no 'tgt'"]
    expected += ["b.json line 1: tgt is", "b.json line 3: not UTF-8"]
    assert len(lines) == 4 and all(words in line for words, line in zip(expected, lines))


@pytest.mark.parametrize("stage", ["sft", "pretrain"])
def test_the_number_of_workers_changes_nothing(write, arguments, tokenizer, stage):
    write("train.json", [{"src": "s" * (number % 7), "tgt": f"answer {number}"} for number in range(1500)])
    one, two = (
        build_samples(arguments(preprocessing_num_workers=number, max_length=14), tokenizer, "train", stage)
        for number in (1, 2)
    )
    assert one.report == two.report and len(one) == len(two) > 0
    for left, right in zip(one.samples, two.samples):
        assert left.place == right.place
        np.testing.assert_array_equal(left.ids, right.ids)
        np.testing.assert_array_equal(left.trained, right.trained)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"template": "defualt"}, "template is 'defualt', did you mean 'default'"),
        ({"length_policy": "cut"}, "length_policy is 'cut'"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
    ],
)
def test_arguments_that_can_not_work_are_refused(write, arguments, tokenizer, given, words):
    write("train.json", [{"src": "a", "tgt": "b"}])
    with pytest.raises(ArgumentError, match=words):
        build_samples(arguments(**given), tokenizer, "train", "sft")


def test_an_unknown_stage_is_refused(arguments, tokenizer):
    with pytest.raises(ArgumentError, match="stage is 'stf', did you mean 'sft'"):
        build_samples(arguments(), tokenizer, "train", "stf")


def test_the_room_does_not_import_paddle():
    code = "import sys, paddle_sft.data.build, paddle_sft.data.collate; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


near_rows = st.dictionaries(
    st.sampled_from(["src", "tgt", "text", "messages", "id"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    max_size=3,
)
near_messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "human", "user", "assistant", "gpt", "tool", "function_call", "x"]),
            "content": st.none() | st.text(st.characters(), max_size=5) | st.just('{"name": "f", "arguments": {}}'),
        },
        optional={"weight": st.sampled_from([0, 1, 2, None]), "train": st.booleans()},
    ),
    max_size=4,
)
near_chats = st.fixed_dictionaries(
    {},
    optional={
        "messages": near_messages,
        "conversations": near_messages,
        "prompt": near_messages | st.text(max_size=3),
        "completion": near_messages | st.text(max_size=3),
        "instruction": st.text(max_size=3),
        "output": st.text(max_size=3) | st.none(),
        "history": st.lists(st.lists(st.text(max_size=2), max_size=3), max_size=2),
        "system": st.text(max_size=3) | st.none(),
        "tools": st.just("[]") | st.integers(),
    },
)
lines = st.one_of(st.binary(max_size=30), (near_rows | near_chats).map(lambda row: json.dumps(row).encode()))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(lines, max_size=4).map(b"\n".join),
    stage=st.sampled_from(["sft", "pretrain"]),
    template=st.sampled_from(["default", "chatml", "mistral"]),
    policy=st.sampled_from(["truncate_source", "split"]),
)
@example(content=b'{"src": "\\ud800", "tgt": "b"}', stage="sft", template="default", policy="split")
@example(content=b'{"src": "a", "tgt": "b"}', stage="sft", template="chatml", policy="split")
def test_any_bytes_give_samples_or_a_data_error(tmp_path, arguments, tokenizer, content, stage, template, policy):
    (tmp_path / "train.json").write_bytes(content)
    given_arguments = arguments(max_length=8, src_length=4, template=template, length_policy=policy)
    try:
        built = build_samples(given_arguments, tokenizer, "train", stage)
    except DataError as error:
        assert "train.json" in str(error)
        return
    assert built.samples
    for sample in built.samples:
        assert 2 <= len(sample) <= 8 and sample.num_trained and sample.place.startswith("train.json ")
