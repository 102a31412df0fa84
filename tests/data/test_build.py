from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.core.records import IGNORED
from paddle_sft.data import chunks
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


@pytest.fixture
def small_chunks(monkeypatch):
    """So that a few rows make several chunks."""
    monkeypatch.setattr(chunks, "NUM_ROWS", 3)


def content_of(built):
    return [(one.ids.tolist(), one.trained.tolist(), one.place) for one in built.samples]


@pytest.mark.parametrize("packing", ["none", "best_fit"])
@pytest.mark.parametrize("stage", ["sft", "pretrain"])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 100])
def test_the_number_of_workers_changes_nothing(write, arguments, tokenizer, small_chunks, stage, packing, num_rows):
    """Also where there are more of them than chunks, or rows."""
    write("train/a.json", [{"src": "s" * (number % 7), "tgt": f"answer {number}"} for number in range(num_rows)])
    write("train/b.json", [{"src": "the last", "tgt": "row"}])
    given = dict(max_length=14, packing=packing)
    one, more = (
        build_samples(arguments(preprocessing_num_workers=number, **given), tokenizer, "train", stage)
        for number in (1, 5)
    )
    assert one.lines() == more.lines() and len(one) > num_rows / 2
    assert f"format: src_tgt ({num_rows + 1} rows, told from train/a.json line 1)" in one.lines()
    assert content_of(one) == content_of(more)


def test_max_samples_and_the_longest_row_are_those_of_all_files_in_order(write, arguments, tokenizer, small_chunks):
    for name in ("a", "b"):
        write(f"train/{name}.json", [{"src": "a", "tgt": "b" * (2 + (line == 2))} for line in range(1, 6)])
    built = build_samples(arguments(max_samples=8), tokenizer, "train", "sft")
    places = [f"train/a.json line {line}" for line in range(1, 6)] + [
        f"train/b.json line {line}" for line in range(1, 4)
    ]
    assert [one.place for one in built.samples] == places
    assert (built.report.longest, built.report.longest_place) == (6, "train/a.json line 2")


@pytest.mark.parametrize("number", [1, 3])
def test_an_empty_file_is_refused_whatever_the_others_hold(write, arguments, tokenizer, number):
    write("train/a.json", [{"src": "a", "tgt": "b"}])
    write("train/b.json", b"\n")
    with pytest.raises(DataError, match="train/b.json is empty"):
        build_samples(arguments(preprocessing_num_workers=number), tokenizer, "train", "sft")


@pytest.mark.parametrize("number", [1, 2])
def test_rows_that_are_too_long_are_all_named_over_all_chunks(write, arguments, tokenizer, small_chunks, number):
    write("train.json", [{"src": "a" * (20 if line in (2, 9) else 1), "tgt": "b"} for line in range(1, 12)])
    given = dict(preprocessing_num_workers=number, length_policy="error", max_length=15)
    with pytest.raises(DataError, match="longer than max_length 15.*: 2 problems") as error:
        build_samples(arguments(**given), tokenizer, "train", "sft")
    assert [line for line in range(1, 12) if f"line {line}: 23 tokens" in str(error.value)] == [2, 9]


@pytest.mark.parametrize("number", [1, 2])
def test_rows_that_train_nothing_are_all_named_over_all_chunks(write, arguments, make_tokenizer, small_chunks, number):
    class Tokenizer(make_tokenizer):
        """Knows no "x"; the template below writes no end token."""

        def __call__(self, text, add_special_tokens=True):
            text = [one.replace("x", "") for one in text] if isinstance(text, list) else text
            return super().__call__(text, add_special_tokens)

    write("train.json", [{"src": "a", "tgt": "x" if line in (4, 11) else "b"} for line in range(1, 12)])
    template = write("own.jinja", b"{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match="rows that would train nothing: 2 problems") as error:
        given = arguments(preprocessing_num_workers=number, template=str(template))
        build_samples(given, Tokenizer(), "train", "sft")
    assert [line for line in range(1, 12) if f"line {line}: none of its" in str(error.value)] == [4, 11]


def test_what_the_template_can_not_write_is_named_over_all_chunks(write, arguments, tokenizer, small_chunks):
    rows = [{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]} for _ in range(9)]
    for line in (3, 8):
        rows[line - 1]["tools"] = [{"type": "function", "function": {"name": "f"}}]
    write("train.json", rows)
    with pytest.raises(DataError, match="the template: 2 problems") as error:
        build_samples(arguments(), tokenizer, "train", "sft")
    assert "line 3: the row has tools" in str(error.value) and "line 8: the row has tools" in str(error.value)


def test_behind_a_bad_row_rows_are_only_checked(write, arguments, make_tokenizer, small_chunks):
    """The user waits for the list of bad rows, not for tokens that nobody will use."""
    seen = []

    class Tokenizer(make_tokenizer):
        def __call__(self, text, add_special_tokens=True):
            seen.extend(text if isinstance(text, list) else [text])
            return super().__call__(text, add_special_tokens)

    rows = [json.dumps({"src": f"row {line}", "tgt": "b"}).encode() for line in range(1, 13)]
    write("train.json", b"\n".join([*rows[:4], b"broken", *rows[5:], b"{}"]))
    with pytest.raises(DataError, match="2 problems"):
        build_samples(arguments(preprocessing_num_workers=1), Tokenizer(), "train", "sft")
    assert "row 3" in seen and "row 9" not in seen


def test_a_data_set_that_gives_no_sample_is_named(write, arguments, tokenizer):
    write("one.json", [{"src": "a", "tgt": "b"}])
    write("two.json", [{"src": "a" * 50, "tgt": "b"}])
    registry = b'{"one": {"path": "one.json"}, "two": {"path": "two.json"}}'
    folder = write("dataset_info.json", registry).parent
    given = dict(
        dataset_name_or_path=None, dataset="one,two", dataset_dir=str(folder), length_policy="drop", max_length=9
    )
    with pytest.raises(DataError, match="data set two gives no sample at all"):
        build_samples(arguments(**given), tokenizer, "train", "sft")


def test_blocks_do_not_run_on_from_one_data_set_to_the_next(write, arguments, tokenizer):
    write("one.json", [{"text": "abcd"}])
    write("two.json", [{"text": "efghi"}])
    registry = b'{"one": {"path": "one.json"}, "two": {"path": "two.json"}}'
    folder = write("dataset_info.json", registry).parent
    given = dict(dataset_name_or_path=None, dataset="one,two", dataset_dir=str(folder), max_length=4)
    built = build_samples(arguments(**given), tokenizer, "train", "pretrain")
    assert [len(one) for one in built.samples] == [4, 2, 4, 3] and built.samples.source.tolist() == [0, 0, 1, 1]
    assert [one.place for one in built.samples] == ["one.json line 1"] * 2 + ["two.json line 1"] * 2


MEMORY = """
import json, re, resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from types import SimpleNamespace
from tests.data.conftest import ByteTokenizer
from paddle_sft.data.build import build_samples
from paddle_sft.data.stream import build_stream

class Tokenizer(ByteTokenizer):
    def __call__(self, text, add_special_tokens=True):
        return {{"input_ids": [[3] * 9 for _ in text]}} if isinstance(text, list) else super().__call__(text)

given = SimpleNamespace(dataset_name_or_path={data!r}, src_length=99, max_length=99, length_policy="drop",
    template="default", max_samples={num}, preprocessing_num_workers=2, data_cache_dir={kept!r})
if {lazy}:
    with build_stream(given, Tokenizer(), "sft") as stream:
        num = sum(1 for _ in stream.source_samples(0, 0))
else:
    num = len(build_samples(given, Tokenizer(), "train", "sft", False, Path({kept!r}).parent))
assert num == {num}
own = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)  # ru_maxrss counts pytest's, too
print(max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)
"""


@pytest.mark.parametrize("lazy", [False, True])
def test_memory_does_not_grow_with_the_file(write, tmp_path, request, lazy):
    """Rows of 40 kB: 12 MB of text more than what is read ahead anyway, and 84 MB more."""
    path = write("data/train.json", [{"src": "s" * 40_000, "tgt": "t"}] * 2800)
    megabytes = []
    for num in (1000, 2800):
        given = dict(root=str(request.config.rootpath), data=str(path), num=num, lazy=lazy, kept=str(tmp_path / "kept"))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY.format(**given)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        megabytes.append(float(done.stdout))
    assert megabytes[1] - megabytes[0] < 25, megabytes


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
