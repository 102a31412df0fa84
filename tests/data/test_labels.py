"""Labelled texts: what a row may look like, which classes the rows make, and where a text is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.arguments.data import DataArguments
from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Sample
from paddle_sft.data.build import build_samples
from paddle_sft.data.classes import Classes, find_classes
from paddle_sft.data.collate import collate, collate_rows
from paddle_sft.data.formats import read_row
from paddle_sft.data.label_samples import find_frame
from paddle_sft.data.lint import check_data
from paddle_sft.data.show import show_sample
from tests import tiny

PLACE = "train.json line 7"


def sample(label, length=3, number=1):
    ids = np.arange(5, 5 + length, dtype=np.int32)
    return Sample(ids, np.zeros(length, dtype=bool), f"train.json line {number}", json.dumps(label))


def samples(*labels):
    return [sample(label, number=number) for number, label in enumerate(labels, start=1)]


@pytest.mark.parametrize("row", [{"text": "a b", "label": "x"}, {"src": "a b", "label": "x", "id": 1}])
def test_a_text_and_its_label_are_read_under_both_names(row):
    record, unused = read_row(row, PLACE, "classification")
    assert (record.text, record.label, record.place) == ("a b", '"x"', PLACE)
    assert unused == (("id",) if "id" in row else ())


def test_columns_map_an_answer_to_the_label(tmp_path, tiny_tokenizer):
    tiny.write_lines(tmp_path / "train.json", [{"src": "the cat", "tgt": 1}])
    arguments = DataArguments(dataset_name_or_path=str(tmp_path), columns=["text=src", "label=tgt"])
    built = build_samples(arguments, tiny_tokenizer, "train", "classification", False)
    assert built.samples[0].label == "1"


BAD_ROWS = [
    ({"text": "a"}, ["(keys: text) has no label", "write text and label"]),
    ({"text": "a", "label": None}, ["no label"]),
    ({"text": 5, "label": "x"}, ["text is a number", "put it in quotes"]),
    ({"text": " \n", "label": "x"}, ["text is empty"]),
    ({"text": "a", "label": True}, ["label is true or false", "a whole number"]),
    ({"text": "a", "label": 0.5}, ["label is a number"]),
    ({"text": "a", "label": ""}, ["label is empty"]),
    ({"text": "a", "label": ["x", None]}, ["label is null"]),
    ({"text": "a", "src": "b", "label": "x"}, ["text and src", "once"]),
    ({"text": "half \ud83d", "label": "x"}, ["half of a surrogate pair"]),
    ({"src": "a", "tgt": "b"}, ["a src_tgt row", "columns"]),
    ({"label": "x"}, ["none of the keys", "text and label"]),
]


@pytest.mark.parametrize("row, words", BAD_ROWS, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_a_bad_row_is_refused_with_its_place_and_a_remedy(row, words):
    with pytest.raises(DataError) as error:
        read_row(row, PLACE, "classification")
    for word in [PLACE, *words]:
        assert word in str(error.value)


def test_a_labelled_row_is_text_for_pretraining_and_nothing_for_fine_tuning():
    row = {"text": "a b", "label": "x"}
    assert read_row(row, PLACE, "pretrain") == (read_row({"text": "a b"}, PLACE, "pretrain")[0], ("label",))
    with pytest.raises(DataError, match="a text_label row.*set stage to classification"):
        read_row(row, PLACE, "sft")


def test_all_bad_rows_of_a_file_are_named_at_once(tmp_path, tiny_tokenizer):
    rows = [{"text": "a", "label": "x"}, {"text": "b"}, {"text": 3, "label": "y"}, {"text": "c", "label": "y"}]
    tiny.write_lines(tmp_path / "train.json", rows)
    with pytest.raises(DataError) as error:
        build_samples(
            DataArguments(dataset_name_or_path=str(tmp_path)), tiny_tokenizer, "train", "classification", False
        )
    for words in ("train.json line 2: a text row (keys: text) has no label", "train.json line 3: text is a number"):
        assert words in str(error.value)


class Framed:
    """A tokenizer of letters that puts tokens around a text, as some do."""

    bos_token_id, eos_token_id = 1, 2

    def __init__(self, before=(), behind=()):
        self._before, self._behind = list(before), list(behind)

    def __call__(self, text, add_special_tokens=True):
        if not isinstance(text, str):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [ord(letter) for letter in text]
        return {"input_ids": self._before + ids + self._behind if add_special_tokens else ids}


@pytest.mark.parametrize("before, behind", [([], []), ([1], []), ([1, 7], [2]), ([], [2])])
def test_a_text_stands_in_the_frame_that_the_tokenizer_gives_any_text(before, behind, tmp_path):
    tokenizer = Framed(before, behind)
    assert find_frame(tokenizer) == (before, behind)
    tiny.write_lines(tmp_path / "train.json", [{"text": "abc", "label": "x"}])
    arguments = DataArguments(dataset_name_or_path=str(tmp_path), length_policy="truncate_right", data_cache_dir="none")
    built = build_samples(arguments, tokenizer, "train", "classification", False)
    assert built.samples[0].ids.tolist() == [*before, 97, 98, 99, *behind]
    assert built.samples.num_trained.tolist() == [1]


def test_a_long_text_keeps_its_beginning_and_what_was_cut_is_said(tmp_path):
    tiny.write_lines(tmp_path / "train.json", [{"text": "abcdef", "label": "x"}, {"text": "a", "label": "y"}])
    arguments = DataArguments(
        dataset_name_or_path=str(tmp_path), max_length=4, length_policy="truncate_right", data_cache_dir="none"
    )
    built = build_samples(arguments, Framed([1]), "train", "classification", False)
    assert [one.ids.tolist() for one in built.samples] == [[1, 97, 98, 99], [1, 97]]
    said = "\n".join(built.lines())
    assert "shortened 1 of 2 rows" in said and "6 tokens" in said and "trained" not in said


def test_classes_are_sorted_as_numbers_if_all_are_and_don_t_depend_on_the_order_of_rows():
    assert find_classes(samples("b", "a", "b")) == Classes(("a", "b")) == find_classes(samples("a", "b"))
    assert find_classes(samples(10, "2", 1)).names == ("1", "2", "10")
    assert find_classes(samples("10", "2", "x")).names == ("10", "2", "x")
    assert find_classes(samples(["b", "a"], [])) == Classes(("a", "b"), multi_label=True)


@pytest.mark.parametrize(
    "labels, words",
    [
        (("a", "a"), "every row has the label 'a'; a classifier needs at least 2 classes"),
        (([], []), "no row has a label"),
        (("a", ["b"]), "the label is a list in train.json line 2 and not in train.json line 1"),
    ],
)
def test_labels_that_make_no_classifier_are_refused(labels, words):
    with pytest.raises(DataError, match=words):
        find_classes(samples(*labels))


def test_unknown_labels_are_named_with_their_places():
    classes = Classes(("bad", "good"))
    with pytest.raises(DataError) as error:
        classes.require_known(samples("good", "godo", ["bad"], 1), "dev")
    text = str(error.value)
    assert "dev data: 3 problems" in text
    assert "train.json line 2: label 'godo' is none of the training data's classes (bad, good)" in text
    assert "train.json line 3" in text and "one label, no list" in text
    assert "train.json line 4: label 1" in text


def test_a_whole_number_is_the_id_of_a_class_that_a_model_knows_by_another_name():
    known = Classes(("LABEL_0", "LABEL_1"), known=True)
    assert known.targets(["1", '"LABEL_0"']).tolist() == [1, 0]
    with pytest.raises(DataError, match="label 2 is none of the model's classes"):
        known.require_known(samples(2), "train")
    assert Classes(("1", "0"), known=True).targets(["1"]).tolist() == [0]  # a name goes first


def test_several_labels_are_rows_of_zeros_and_ones():
    classes = Classes(("a", "b", "c"), multi_label=True)
    np.testing.assert_array_equal(classes.targets(['["c", "a"]', "[]"]), [[1, 0, 1], [0, 0, 0]])
    assert [classes.label_of(row) for row in classes.predict(np.array([[2.0, -1.0, 0.1], [-1, -1, -1]]))] == [
        ["a", "c"],
        [],
    ]
    np.testing.assert_allclose(classes.probabilities(np.array([[0.0, 1.0, -800.0]])), [[0.5, 0.7310586, 0]], atol=1e-7)


def test_probabilities_of_one_label_add_up_to_one():
    classes = Classes(("a", "b"))
    found = classes.probabilities(np.array([[1000.0, 1001.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.2689414, 0.7310586], [0.5, 0.5]], atol=1e-7)
    assert classes.label_of(classes.predict(found)[0]) == "b"


def test_the_plan_says_how_many_samples_each_class_has_and_that_there_is_nothing_to_tell_apart():
    classes = Classes(("a", "b"))
    assert classes.lines(samples("b", "a", "b", "b")) == ["2 classes, one label a text: 0 a (1, 25.0%), 1 b (3, 75.0%)"]
    assert "every sample has the label 'b'" in classes.lines(samples("b", "b"))[-1]


def test_a_text_is_read_at_its_last_token_in_a_row_of_its_own_and_in_a_packed_one():
    rows = [sample("a", 3), sample("b", 1), sample("a", 4)]
    alone, packed = collate(rows, 0), collate_rows([rows[:2], rows[2:]], 0)
    for batch, places in ((alone, ([0, 1, 2], [2, 0, 3])), (packed, ([0, 0, 1], [2, 3, 3]))):
        assert [part.tolist() for part in batch.last_tokens()] == list(places)
        assert batch.sample_labels == ('"a"', '"b"', '"a"') and batch.num_trained == 3


def test_the_check_of_the_data_finds_texts_whose_labels_contradict_each_other(tmp_path, tiny_tokenizer):
    rows = [("the cat", "a"), ("a dog", "a"), ("the cat ", "b"), ("a dog", "a"), ("sings", "b")]
    tiny.write_lines(tmp_path / "train.json", [{"text": text, "label": label} for text, label in rows])
    tiny.write_lines(tmp_path / "dev.json", [{"text": "sings", "label": "b"}, {"text": "the cat", "label": "a"}])
    arguments = DataArguments(dataset_name_or_path=str(tmp_path), length_policy="truncate_right")
    checked = check_data(arguments, "classification", tiny_tokenizer)
    found = {(one.kind, one.place.split()[-1]): one.message for one in checked.findings}
    assert found.pop(("other label", "3")) == 'train.json line 1 has "a" for this text'
    assert set(found) == {("duplicate", "4"), ("overlap", "5"), ("overlap", "1"), ("same prompt", "3")}


def test_a_sample_is_shown_with_its_label(tiny_tokenizer):
    shown = show_sample(sample("good", 3), tiny_tokenizer, False)
    assert shown.splitlines()[0] == 'train.json line 1: 3 tokens, label "good"'
