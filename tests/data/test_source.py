from __future__ import annotations

import json
import os

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.data.source import find_files, read_rows

ROW = {"src": "a", "tgt": "b"}


def read(*files, **options):
    return list(read_rows(files, **options))


@pytest.mark.parametrize(
    "there, split, found",
    [
        (["train.json"], "train", ["train.json"]),
        (["train.jsonl"], "train", ["train.jsonl"]),
        (["train/b.json", "train/a.json", "train/c.jsonl", "train/.a.json", "train/README"], "train",
         ["train/a.json", "train/b.json", "train/c.jsonl"]),
        (["train.json", "dev.json"], "dev", ["dev.json"]),
        (["train.json", "dev/x.json"], "dev", ["dev/x.json"]),
        (["train.json"], "dev", []),
    ],
)  # fmt: skip
def test_files_of_a_split_are_found_and_sorted(write, tmp_path, there, split, found):
    for name in there:
        write(name, [ROW])
    assert find_files(str(tmp_path), split) == [tmp_path / name for name in found]


def test_parts_of_a_split_are_in_the_order_of_their_names_whatever_the_disk_says(write, tmp_path):
    numbers = [7, 2, 9, 0, 5, 3, 8, 1, 6, 4]
    for number in numbers:
        write(f"train/{number}.json", [ROW])
    assert [int(path.stem) for path in find_files(tmp_path, "train")] == sorted(numbers)


def test_a_single_file_is_the_training_split_and_has_no_dev(write):
    path = write("anything.json", [ROW])
    assert find_files(path, "train") == [path]
    assert find_files(path, "dev") == []


@pytest.mark.parametrize(
    "there, split, words",
    [
        ([], "train", ["train.json", "train/*.json", "nothing in it", "Rename"]),
        (["data.json", "x/y.json"], "train", ["train.json", "data.json, x/", "Rename"]),
        (["train.json", "train/a.json"], "train", ["train.json and train/", "Remove or rename"]),
        (["train.json", "train.jsonl"], "train", ["train.json and train.jsonl", "Remove or rename"]),
        (["train/a.tsv"], "train", ["a.tsv", "*.json", "Put the data files there"]),
        (["train.json/a.json"], "train", ["train.json is a folder", "rename the folder"]),
        (["train"], "train", ["is a file", "rename the file to train.json"]),
        (["train.json", "dev.json", "dev/a.json"], "dev", ["dev.json and dev/", "Remove or rename"]),
        (["train.json", "dev/a.txt"], "dev", ["a.txt", "Put the data files there"]),
    ],
)
def test_a_folder_that_can_not_be_meant_is_refused_with_a_remedy(write, tmp_path, there, split, words):
    for name in there:
        write(name, [ROW])
    with pytest.raises(DataError) as error:
        find_files(tmp_path, split)
    for word in [str(tmp_path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", [None, "", "no/such/folder", "belle"])
def test_a_missing_data_set_says_what_may_be_given(name):
    with pytest.raises(DataError) as error:
        find_files(name, "train")
    for word in ["dataset_name_or_path", str(name or "not given"), "train.json or train/*.json"]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["train.json.bz2", "train.arrow", "data.XLSX"])
def test_a_kind_of_file_that_is_not_available_is_refused_by_name(write, name):
    path = write(name, b"whatever")
    with pytest.raises(DataError, match=r"not available yet; convert it to JSON lines"):
        find_files(path, "train")


def test_rows_come_in_order_with_the_line_they_stand_in(write):
    one = write("train/1.json", b'\n{"src": 1}\r\n\n  {"src": 2}')
    two = write("train/2.json", [{"src": 3}])
    assert read(one, two) == [
        ({"src": 1}, "train/1.json line 2"),
        ({"src": 2}, "train/1.json line 4"),
        ({"src": 3}, "train/2.json line 1"),
    ]


def test_an_array_gives_the_rows_that_lines_give(write):
    rows = [{"src": "é", "tgt": str(i)} for i in range(3)]
    lines = write("train.json", rows)
    array = write("array.json", b"\n " + json.dumps(rows, indent=2).encode())
    assert [row for row, _ in read(array)] == [row for row, _ in read(lines)]
    assert [place for _, place in read(array)] == ["array.json item 1", "array.json item 2", "array.json item 3"]


@pytest.mark.parametrize("content", [b'{"src": 1}\n', b'[{"src": 1}]'])
def test_a_byte_order_mark_is_not_part_of_the_data(write, content):
    assert [row for row, _ in read(write("train.json", b"\xef\xbb\xbf" + content))] == [{"src": 1}]


@pytest.mark.parametrize("num, expected", [(None, 5), (1, 1), (3, 3), (4, 4), (9, 5)])
def test_max_samples_takes_the_first_rows_over_all_files(write, num, expected):
    files = [write("a.json", [{"n": 0}, {"n": 1}, {"n": 2}]), write("b.json", [{"n": 3}, {"n": 4}])]
    assert [row["n"] for row, _ in read(*files, max_samples=num)] == list(range(expected))


def test_a_bad_line_behind_max_samples_is_not_looked_at(write):
    path = write("train.json", b'{"n": 0}\nbroken\n')
    assert len(read(path, max_samples=1)) == 1
    with pytest.raises(DataError):
        read(path, max_samples=2)


BAD_CONTENT = [
    ("empty", b"", ["train.json is empty", "write one complete JSON object"]),
    ("blank lines only", b" \n\n", ["train.json is empty"]),
    ("empty array", b"[]", ["train.json is empty", "[]"]),
    ("broken line", b'{"a": 1}\n{"a": 1,}\n', ["train.json line 2", "not valid JSON", "column", "write one complete"]),
    ("spread over lines", b'{\n"src": 1\n}', ["train.json line 1", "on one line"]),
    ("two on one line", b'{"a": 1} {"a": 2}', ["train.json line 1", "Extra data", "column 10"]),
    ("a string", b'{"a": 1}\n"text"\n', ["train.json line 2", "a string where an object is needed"]),
    ("a later list", b'{"a": 1}\n["text"]\n', ["train.json line 2", "a list where an object is needed"]),
    ("null", b"null", ["train.json line 1", "null where an object is needed"]),
    ("not UTF-8", b'{"a": 1}\n{"a": "\xe9"}', ["train.json line 2", "not UTF-8", "0xe9", "offset 16", "save it as"]),
    ("not UTF-8 behind a mark", b'\xef\xbb\xbf {"a": "\xe9"}', ["train.json line 1", "offset 11"]),
    ("UTF-16", '{"a": 1}\n'.encode("utf-16"), ["train.json", "UTF-16", "save it as UTF-8"]),
    ("huge number", b'{"a": ' + b"1" * 5000 + b"}x", ["train.json line 1", "JSON"]),
    ("deep nesting", b'{"a": ' * 100000, ["train.json line 1", "JSON"]),
    ("broken array", b'[{"a": 1},\n {"a" 2}]', ["train.json line 2", "not valid JSON", "one JSON array", "mend it"]),
    ("array of strings", b'[{"a": 1}, "x"]', ["train.json item 2", "a string where an object is needed"]),
    ("array, then lines", b'[1]\n{"a": 1}\n', ["train.json line 2", "Extra data", "begins with '['"]),
    ("array not UTF-8", b'[{"a": 1},\n"\xff"]', ["train.json line 2", "not UTF-8", "0xff", "offset 12"]),
    ("array not UTF-8 behind a mark", b'\xef\xbb\xbf["\xff"]', ["train.json line 1", "0xff", "offset 5"]),
    ("deep array", b"[" * 100000, ["train.json line 1", "JSON"]),
]  # fmt: skip


@pytest.mark.parametrize("content, words", [case[1:] for case in BAD_CONTENT], ids=[case[0] for case in BAD_CONTENT])
def test_bad_content_is_refused_with_file_line_and_remedy(write, content, words):
    path = write("train.json", content)
    with pytest.raises(DataError) as error:
        read(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_every_bad_line_is_counted_and_the_first_twenty_are_shown(write):
    good_and_bad = b"".join(b'{"n": 1}\nbad\n' for _ in range(25))
    with pytest.raises(DataError) as error:
        read(write("train.json", good_and_bad))
    text = str(error.value)
    assert "25 problems" in text and "5 more" in text
    assert "line 40:" in text and "line 42:" not in text  # bad lines are 2, 4, ..., 50; the 20th is 40


def test_a_folder_or_a_missing_file_in_place_of_a_file_is_a_data_error(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(DataError, match="x.json is a folder"):
        read(tmp_path / "x.json")
    with pytest.raises(DataError, match="y.json can't be read .*check that it exists"):
        read(tmp_path / "y.json")


def test_an_unreadable_file_is_a_data_error(write, monkeypatch):
    path = write("train.json", [ROW])
    if os.geteuid():
        path.chmod(0)
    else:  # root reads everything, so the refusal must be played

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match="train.json can't be read .Permission denied.*permissions"):
        read(path)
