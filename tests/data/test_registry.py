from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.build import build_samples
from paddle_sft.data.formats import Layout
from paddle_sft.data.registry import resolve_datasets, resolve_dev_sets


@pytest.fixture
def registry(write, tmp_path, monkeypatch):
    def make(**entries):
        write("data/dataset_info.json", json.dumps(entries).encode())
        monkeypatch.chdir(tmp_path)
        return str(tmp_path / "data")

    return make


def test_names_become_files_formats_and_weights_in_order(registry, write, tmp_path):
    folder = registry(
        law={"path": "law.jsonl", "format": "alpaca", "columns": {"instruction": "q"}, "weight": 2, "split": "train"},
        self={"path": ["a.jsonl", "b.jsonl"]},
    )
    for name in ("law", "a", "b"):
        write(f"data/{name}.jsonl", [{}])
    found = resolve_datasets("self, law", folder)
    assert [(source.name, source.weight, source.layout) for source in found] == [
        ("self", 1.0, Layout()), ("law", 2.0, Layout("alpaca", {"instruction": "q"})),
    ]  # fmt: skip
    data = tmp_path / "data"
    assert found[0].files("train") == [data / "a.jsonl", data / "b.jsonl"] and found[0].files("dev") == []
    assert found[1].files("train") == [data / "law.jsonl"]


def test_the_registry_of_the_current_folder_goes_first(registry, write):
    folder = registry(law={"path": "far.jsonl"})
    write("dataset_info.json", b'{"law": {"path": "near.jsonl"}}')
    assert resolve_datasets(["law"], folder)[0].path.endswith("near.jsonl")


def test_a_split_of_its_own_makes_a_file_dev_data(registry, write, tmp_path):
    folder = registry(exam={"path": "exam.jsonl", "split": "dev"}, whole={"path": "whole", "split": "dev"})
    write("data/exam.jsonl", [{}])
    write("data/whole/train.json", [{}])
    write("data/whole/dev.json", [{}])
    exam, whole = resolve_datasets("exam,whole", folder)
    assert exam.files("train") == [] and exam.files("dev") == [tmp_path / "data/exam.jsonl"]
    assert whole.files("train") == [] and whole.files("dev") == [tmp_path / "data/whole/dev.json"]


@pytest.mark.parametrize(
    "entry, words",
    [
        ({}, "law has no path"),
        ({"path": ""}, "law has no path"),
        ({"path": "x", "fromat": "alpaca"}, "unknown key 'fromat', did you mean 'format'"),
        ({"path": "x", "format": "alpca"}, "data_format is 'alpca', did you mean 'alpaca'"),
        ({"path": "x", "weight": 0}, "weight is 0; a number above 0"),
        ({"path": "x", "weight": True}, "weight is true or false"),
        ({"path": "x", "split": "test"}, "split is 'test'; allowed: train, dev"),
        ({"path": "x", "columns": {"src": 1}}, "columns has a value that is no string"),
        ("x", "law is a string"),
    ],
)
def test_an_entry_that_can_not_be_used_is_refused_with_its_file_and_name(registry, entry, words):
    folder = registry(law=entry)
    with pytest.raises(DataError, match=rf"dataset_info\.json: law.*{words.replace('law ', '', 1)}"):
        resolve_datasets("law", folder)


def test_names_that_can_not_be_meant_are_refused(registry, tmp_path, monkeypatch):
    folder = registry(law={"path": "x"})
    with pytest.raises(ArgumentError, match="'lwa'.*did you mean 'law'"):
        resolve_datasets("lwa", folder)
    with pytest.raises(ArgumentError, match="names 'law' 2 times"):
        resolve_datasets("law,law", folder)
    with pytest.raises(ArgumentError, match="with commas between them"):
        resolve_datasets(" , ", folder)
    with pytest.raises(DataError, match=r"no dataset_info\.json in"):
        resolve_datasets("law")
    (tmp_path / "data" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="can't be read as JSON"):
        resolve_datasets("law", folder)


def test_samples_of_named_data_sets_follow_one_another(registry, write, arguments, tokenizer, ids_of):
    folder = registry(one={"path": "one.jsonl"}, two={"path": "two.csv", "columns": {"src": "q", "tgt": "a"}})
    write("data/one.jsonl", [{"src": "a", "tgt": "b"}])
    write("data/two.csv", b"q,a\nc,d\n")
    given = arguments(dataset_name_or_path=None, dataset="one,two", dataset_dir=folder)
    built = build_samples(given, tokenizer, "train", "sft")
    assert [sample.ids.tolist() for sample in built.samples] == [[1, *ids_of("ab"), 2], [1, *ids_of("cd"), 2]]
    assert "two: format: src_tgt (1 row, told from two.csv line 2)" in built.lines()
    with pytest.raises(ArgumentError, match="dataset_name_or_path"):
        build_samples(arguments(dataset="one", dataset_dir=folder), tokenizer, "train", "sft")


def test_an_object_is_a_registry_of_its_own(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "law": "law.jsonl",
        "chat": ["a.jsonl", "b.jsonl"],
        "books": {"path": "books", "format": "text", "weight": 2},
    }
    law, chat, books = resolve_datasets(given)
    assert (law.path, chat.path, books.path) == ("law.jsonl", ("a.jsonl", "b.jsonl"), "books")
    assert books.layout == Layout("text") and books.weight == 2
    with pytest.raises(DataError, match="dataset: law has no path"):
        resolve_datasets({"law": ""})
    with pytest.raises(DataError, match="dataset: law has an unknown key 'paths', did you mean 'path'"):
        resolve_datasets({"law": {"paths": "x"}})


def test_only_the_first_rows_of_a_set_may_be_asked_for(registry):
    folder = registry(law={"path": "x", "max_samples": 5}, chat={"path": "x", "max_samples": 0})
    assert resolve_datasets("law", folder)[0].max_samples == 5
    with pytest.raises(DataError, match="chat: max_samples is 0; a number from 1 on"):
        resolve_datasets("chat", folder)


def test_dev_sets_are_names_or_paths(registry, write, tmp_path):
    folder = registry(
        exam={"path": "exam.csv", "columns": {"src": "q", "tgt": "a"}}, law={"path": "x", "split": "train"}
    )
    for name in ("data/exam.csv", "quiz.jsonl", "whole/dev.json", "whole/train.json"):
        write(name, b"q,a\nc,d\n")
    layout = Layout("src_tgt")
    exam, quiz, whole = resolve_dev_sets("exam, quiz.jsonl, whole", layout, folder)
    assert [one.name for one in (exam, quiz, whole)] == ["exam", "quiz", "whole"]
    assert exam.layout == Layout(None, {"src": "q", "tgt": "a"}) and quiz.layout == layout
    assert exam.files("dev") == [tmp_path / "data/exam.csv"] and quiz.files("dev") == [Path("quiz.jsonl")]
    assert whole.files("dev") == [Path("whole/dev.json")]
    (named,) = resolve_dev_sets({"mine": "quiz.jsonl"}, layout)
    assert (named.name, named.layout, named.files("train")) == ("mine", layout, [])
    for given, words in (
        ("exmm", "eval_dataset has 'exmm': there is no such data set, file or folder, did you mean 'exam'"),
        ("law", "names 'law', which .* calls training data"),
        ("whole,whole/", "two sets called 'whole'"),
        ({"a b": "quiz.jsonl"}, "a set called 'a b', and its metrics are called eval_NAME_loss"),
    ):
        with pytest.raises((ArgumentError, DataError), match=words):
            resolve_dev_sets(given, layout, folder)
