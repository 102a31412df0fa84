"""Which files and rows belong to which split of which source."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.build import build_samples
from paddle_sft.data.sources import (
    RowFilter,
    digest,
    find_sources,
    read_sources,
    replaced_dev_files,
    row_filter,
)


def rows(num, first=0):
    return [{"src": f"question {number}", "tgt": f"answer {number}"} for number in range(first, first + num)]


def read(arguments, split, stage="sft"):
    """Places of the rows of a split."""
    sources = find_sources(arguments, split, stage)
    found = read_sources(sources, arguments.max_samples, row_filter(sources, arguments, split))
    return [record.place for record in found.records]


@pytest.mark.parametrize("size, num_dev", [(0.1, 4), (0.26, 10), (7, 7), (1, 1), (0.001, 1), (39, 39)])
def test_val_size_splits_rows_off_the_training_data(write, arguments, size, num_dev):
    given = arguments(dataset_name_or_path=str(write("all.json", rows(40))), val_size=size)
    train, dev = read(given, "train"), read(given, "dev")
    assert len(dev) == num_dev and sorted(train + dev) == sorted(f"all.json line {number}" for number in range(1, 41))
    if 4 < num_dev < 39:
        assert dev != read(arguments(dataset_name_or_path=given.dataset_name_or_path), "train")[:num_dev]


def test_it_depends_on_what_the_rows_say_and_not_on_their_order(write, arguments):
    shuffled = rows(40)[::-1]
    one = arguments(dataset_name_or_path=str(write("a.json", rows(40))), val_size=10)
    other = arguments(dataset_name_or_path=str(write("b.json", shuffled)), val_size=10)
    asked = [[record.turns[0].content for record in read_sources(find_sources(each, "dev", "sft"), None, row_filter(
        find_sources(each, "dev", "sft"), each, "dev")).records] for each in (one, other)]  # fmt: skip
    assert sorted(asked[0]) == sorted(asked[1]) and asked[0] != asked[1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=40), st.integers(1, 12))
def test_equal_rows_are_never_on_both_sides(tmp_path_factory, numbers, size):
    class Given:
        val_size, max_samples, dataset_name_or_path = size, None, None

    folder = tmp_path_factory.mktemp("rows")
    (folder / "all.json").write_text("".join(json.dumps({"tgt": str(n), "src": "q"}) + "\n" for n in numbers))
    Given.dataset_name_or_path = str(folder / "all.json")
    sources = find_sources(Given, "train", "sft")
    try:
        sides = [{record.turns[1].content for record in read_sources(sources, None, row_filter(
            sources, Given, split)).records} for split in ("train", "dev")]  # fmt: skip
    except DataError as error:
        assert "val_size" in str(error) and (size >= len(numbers) or len(set(numbers)) < len(numbers))
        return
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_the_order_of_keys_does_not_matter_and_a_filter_travels_to_other_processes():
    import pickle

    assert digest({"a": 1, "b": "é"}) == digest({"b": "é", "a": 1}) != digest({"a": 1, "b": "e"})
    keep = pickle.loads(pickle.dumps(RowFilter(1 << 63, True)))
    assert {keep({"a": number}) for number in range(20)} == {True, False}


def test_val_size_beside_a_dev_split_or_larger_than_the_data_is_refused(write, arguments, tmp_path):
    write("data/train.json", rows(5))
    write("data/dev.json", rows(5))
    for split in ("train", "dev"):
        with pytest.raises(ArgumentError, match="val_size takes dev data .* there is a dev split .*dev.json"):
            find_sources(arguments(dataset_name_or_path=str(tmp_path / "data"), val_size=1), split, "sft")
    few = arguments(dataset_name_or_path=str(tmp_path / "data/train.json"), val_size=5)
    with pytest.raises(DataError, match="val_size takes 5 rows, and the training data has 5; lower it"):
        read(few, "train")
    same = arguments(dataset_name_or_path=str(write("same.json", rows(1) * 6)), val_size=2)
    with pytest.raises(DataError, match="the rows that it would leave equal those that it takes"):
        read(same, "train")


def test_samples_are_split_like_rows_and_max_samples_holds_for_both_together(write, arguments, tokenizer):
    given = arguments(dataset_name_or_path=str(write("all.json", rows(40))), val_size=6, max_samples=20)
    built = {split: build_samples(given, tokenizer, split, "sft", False).samples for split in ("train", "dev")}
    places = {split: [sample.place for sample in samples] for split, samples in built.items()}
    assert (len(places["train"]), len(places["dev"])) == (14, 6)
    assert sorted(places["train"] + places["dev"]) == sorted(f"all.json line {number}" for number in range(1, 21))


def test_val_size_may_take_nothing_of_a_small_source(write, arguments, tokenizer, tmp_path):
    write("a.json", rows(20))
    write("b.json", rows(2, first=50))
    named = {"a": str(tmp_path / "a.json"), "b": str(tmp_path / "b.json")}
    given = arguments(dataset_name_or_path=None, dataset=named, val_size=1)
    dev = build_samples(given, tokenizer, "dev", "sft", False).samples
    assert dev.source_names == ("a", "b") and len(dev) == 1


def test_dev_sets_replace_the_dev_split_and_keep_their_names(write, arguments, tmp_path):
    for name in ("data/train.json", "data/dev.json", "exam.json", "quiz.json"):
        write(name, rows(3))
    given = arguments(dataset_name_or_path=str(tmp_path / "data"), eval_dataset={
        "exam": str(tmp_path / "exam.json"), "quiz": str(tmp_path / "quiz.json")})  # fmt: skip
    assert [source.name for source in find_sources(given, "dev", "sft")] == ["exam", "quiz"]
    assert [source.name for source in find_sources(given, "train", "sft")] == [""]
    assert replaced_dev_files(given, "sft") == [tmp_path / "data/dev.json"]
    assert replaced_dev_files(arguments(dataset_name_or_path=str(tmp_path / "data")), "sft") == []
    write("bare/train.json", rows(3))
    with pytest.raises(DataError, match="eval_dataset bare: its folder has no dev split; name the file itself"):
        find_sources(arguments(eval_dataset=str(tmp_path / "bare")), "dev", "sft")


def test_a_source_of_text_among_instruction_data_is_pre_training_text(write, arguments, tokenizer, ids_of):
    write("law.json", [{"src": "a", "tgt": "b"}])
    books = write("books.json", [{"text": "abcdefg"}, {"text": "h"}])
    folder = books.parent
    named = {"law": str(folder / "law.json"), "books": {"path": str(books), "format": "text"}}
    given = arguments(dataset_name_or_path=None, dataset=named, max_length=6)
    assert [source.stage for source in find_sources(given, "train", "sft")] == ["sft", "pretrain"]
    samples = build_samples(given, tokenizer, "train", "sft", False).samples
    assert samples.source_names == ("law", "books") and samples.source.tolist() == [0, 1, 1, 1]
    assert [sample.ids.tolist() for sample in samples][1:] == [
        [1, *ids_of("abcde")], [*ids_of("fg"), 2], [1, *ids_of("h"), 2],
    ]  # fmt: skip
    assert all(sample.trained.all() for sample in list(samples)[1:]) and not samples[0].trained.all()
    alone = arguments(dataset_name_or_path=None, dataset={"books": named["books"]})
    with pytest.raises(ArgumentError, match="stage is sft and all of the data is running text"):
        find_sources(alone, "train", "sft")
    assert find_sources(alone, "train", "pretrain")[0].stage == "pretrain"


def test_only_the_first_rows_of_each_source_and_of_all_together(write, arguments, tmp_path):
    write("a.json", rows(5))
    write("b.json", rows(5))
    named = {"a": {"path": str(tmp_path / "a.json"), "max_samples": 2}, "b": str(tmp_path / "b.json")}
    assert read(arguments(dataset_name_or_path=None, dataset=named), "train") == [
        "a.json line 1", "a.json line 2", *(f"b.json line {number}" for number in range(1, 6)),
    ]  # fmt: skip
    assert len(read(arguments(dataset_name_or_path=None, dataset=named, max_samples=4), "train")) == 4
