"""Kinds of files: each gives the rows that JSON lines would give."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import DataError
from paddle_sft.data.source import find_files, read_rows

ROWS = [{"src": 'é, "b"', "tgt": "two\nlines"}, {"src": "", "tgt": "c"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def rows_of(path):
    return list(read_rows([path]))


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", LINES),
        ("a.json.gz", gzip.compress(LINES)),
        ("a.jsonl.gz", gzip.compress(b"\n " + json.dumps(ROWS).encode())),
        ("a.csv", as_csv(ROWS)),
        ("a.CSV", b"\xef\xbb\xbf" + as_csv(ROWS).replace(b"\n", b"\r\n").replace(b"two\r\nlines", b"two\nlines")),
        ("a.csv.gz", gzip.compress(as_csv(ROWS))),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(write, name, content):
    assert [row for row, _ in rows_of(write(name, content))] == ROWS


def test_parquet_gives_the_same_rows_with_their_nesting(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "é"}], "id": 1}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert rows_of(tmp_path / "train.parquet") == [(rows[0], "train.parquet item 1")]
    assert find_files(tmp_path, "train") == [tmp_path / "train.parquet"]


def test_zst_without_its_package_names_it(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"train.json.zst is compressed with zstd.*pip install zstandard"):
        rows_of(write("train.json.zst", b"x"))


@pytest.mark.parametrize(
    "kind, content", [("json", LINES), ("jsonl", json.dumps(ROWS).encode()), ("csv", as_csv(ROWS))]
)
def test_zst_gives_the_rows_that_were_compressed(write, kind, content):
    import zstandard

    pack = zstandard.ZstdCompressor(write_checksum=True).compress
    assert [row for row, _ in rows_of(write(f"a.{kind}.zst", pack(content)))] == ROWS
    two_frames = pack(content[:20]) + pack(content[20:])  # as parallel compressors write
    assert [row for row, _ in rows_of(write(f"b.{kind}.zst", two_frames))] == ROWS
    for damaged in (pack(content)[:-1], two_frames[:-9], b"no zstd at all", pack(content)[:-4] + b"xxxx"):
        with pytest.raises(DataError, match=f"c.{kind}.zst ends too early or is damaged"):
            rows_of(write(f"c.{kind}.zst", damaged))


def test_a_csv_row_is_named_by_the_line_it_begins_in(write):
    path = write("a.csv", b'src,tgt\n\n"a\nb",c\nd,e\n')
    assert [(row["src"], place) for row, place in rows_of(path)] == [("a\nb", "a.csv line 3"), ("d", "a.csv line 5")]


BAD = [
    ("a.json.gz", gzip.compress(LINES)[:-9], ["a.json.gz ends too early or is damaged", "compress it again"]),
    ("a.json.gz", LINES, ["a.json.gz can't be read", "Not a gzipped file"]),
    ("a.json.gz", gzip.compress(b"broken"), ["a.json.gz line 1", "not valid JSON"]),
    ("a.csv", b"src,tgt\n", ["a.csv is empty"]),
    ("a.csv", b"", ["a.csv is empty"]),
    ("a.csv", b"src,tgt\na\n", ["a.csv line 2: 1 values, and the header names 2 columns"]),
    ("a.csv", b"src,src\na,b\n", ["the header has an empty or repeated name ('src')"]),
    ("a.csv", b"src,\na,b\n", ["an empty or repeated name ('')"]),
    ("a.csv", b'src,tgt\n"a"b,c\n', ["a.csv line 2: not valid CSV"]),
    ("a.csv", b"src,tgt\na,\xe9\n", ["a.csv line 2: not UTF-8, byte 0xe9 at offset 10"]),
    ("a.csv", b"src,tgt\na,\0\n", ["a.csv line 2: holds a NUL"]),
    ("a.parquet", b"PAR1 nothing", ["a.parquet can't be read as Parquet"]),
    ("a.parquet", b"PAR1" + bytes(20) + b"\x08\0\0\0PAR1", ["a.parquet can't be read as Parquet"]),
    ("a.json", b'\n \n[{"a": 1},\n {"a" 2}]', ["a.json line 4: not valid JSON"]),
]  # fmt: skip


@pytest.mark.parametrize("name, content, words", BAD)
def test_a_damaged_file_is_refused_by_name_and_line(write, name, content, words):
    with pytest.raises(DataError) as error:
        rows_of(write(name, content))
    for word in words:
        assert word in str(error.value)


def test_a_missing_parquet_is_named_as_any_missing_file(tmp_path):
    with pytest.raises(DataError, match="y.parquet can't be read .*check that it exists"):
        rows_of(tmp_path / "y.parquet")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=40) | st.text(alphabet='ab",\n\r;', max_size=30).map(str.encode),
    name=st.sampled_from(["a.csv", "a.json", "a.json.gz", "a.csv.gz", "a.parquet"]),
    is_packed=st.booleans(),
)
def test_any_bytes_in_any_kind_of_file_give_rows_or_a_data_error(tmp_path, content, name, is_packed):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if is_packed and name.endswith(".gz") else content)
    try:
        rows = rows_of(path)
    except DataError as error:
        assert name in str(error)
        return
    assert rows and all(isinstance(row, dict) and place.startswith(name) for row, place in rows)


def test_a_list_and_a_glob_are_training_data_in_order(write, tmp_path):
    for name in ("b.jsonl", "a.jsonl", ".c.jsonl", "set/train.json", "set/dev.json"):
        write(name, ROWS)
    assert find_files(str(tmp_path / "*.jsonl"), "train") == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    given_paths = [str(tmp_path / "b.jsonl"), str(tmp_path / "set")]
    assert find_files(given_paths, "train") == [tmp_path / "b.jsonl", tmp_path / "set/train.json"]
    assert find_files(given_paths, "dev") == [tmp_path / "set/dev.json"]
    assert find_files(str(tmp_path / "*.jsonl"), "dev") == []


def test_files_of_a_pattern_are_in_the_order_of_their_names_whatever_the_disk_says(write, tmp_path):
    numbers = [7, 2, 9, 0, 5, 3, 8, 1, 6, 4]
    for number in numbers:
        write(f"{number}.json", ROWS)
    assert [int(path.stem) for path in find_files(str(tmp_path / "*.json"), "train")] == sorted(numbers)


def test_a_pattern_without_files_and_a_file_given_twice_are_refused(write, tmp_path):
    with pytest.raises(DataError, match="no file has such a name"):
        find_files(str(tmp_path / "*.jsonl"), "train")
    path = str(write("a.jsonl", ROWS))
    with pytest.raises(DataError, match="a.jsonl twice"):
        find_files([path, path], "train")
