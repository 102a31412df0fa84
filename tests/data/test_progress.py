from __future__ import annotations

import io
import re

import pytest

from paddle_sft.data import progress
from paddle_sft.data.chunks import Place
from paddle_sft.data.progress import RowBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What a bar writes over two files of 100 bytes, after 30 rows and half of the second file."""
    monkeypatch.setattr(progress, "DELAY", 0.0)

    def make(stderr, title="tokenising train", max_rows=None):
        monkeypatch.setattr("sys.stderr", stderr)
        files = [tmp_path / "a", tmp_path / "b"]
        for file in files:
            file.write_bytes(b"x" * 100)
        with RowBar(title, files, max_rows) as bar:
            bar.update(10, Place(file=0))
            bar.update(20, Place(file=1, offset=50))
        return stderr.getvalue()

    return make


def test_a_terminal_shows_rows_their_rate_and_how_much_is_left(said):
    last = said(Terminal()).split("\r")[-1]
    assert last.startswith("tokenising train:  75%|") and re.search(r"\| \[00:0\d<00:\d\d, 30 rows, [\d,]+/s\]", last)


@pytest.mark.parametrize("max_rows, percent", [(30, 100), (1000, 75)])
def test_with_max_samples_what_is_nearer_to_the_end_counts(said, max_rows, percent):
    assert f"tokenising train: {percent:3}%|" in said(Terminal(), max_rows=max_rows).split("\r")[-1]


@pytest.mark.parametrize("given", [dict(stderr=io.StringIO()), dict(stderr=Terminal(), title=None)])
def test_a_log_file_and_a_caller_without_title_get_none(said, given):
    assert said(**given) == ""


def test_other_ranks_get_none(said, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    assert said(Terminal()) == ""
