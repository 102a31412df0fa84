"""Every example of docs/data_formats is read, written and refused as its page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.data.formats import FORMATS, KINDS, Layout, RowReader, read_columns
from paddle_sft.data.own_template import choose_template
from paddle_sft.data.registry import resolve_datasets
from paddle_sft.data.tokenize import find_specials
from tests.data.merging import MergingTokenizer

FOLDER = Path(__file__).parents[2] / "docs" / "data_formats"
FENCE = re.compile(r"^```text (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A block's second word says what it is: row, refused, or the template that wrote it."""


def blocks(name):
    return [match.groups() for match in FENCE.finditer((FOLDER / f"{name}.md").read_text(encoding="utf-8"))]


def rows_of(content):
    return [json.loads(line) for line in content.splitlines()]


def stages_of(name):
    return [stage for stage, kind in KINDS.items() if kind in FORMATS[name].readers]


def written(row, template, layout=None):
    """The row as text, trained words between ⟦ and ⟧."""
    tokenizer = MergingTokenizer(("<s>", "</s>", "<|im_start|>", "<|im_end|>"))
    conversation, _ = RowReader("sft", layout).read(row, "an example")
    rendered = choose_template(template, tokenizer, find_specials(tokenizer))(conversation)
    pieces = [piece for group in (rendered.head, *rendered.turns) for piece in group if piece.special != "bos"]
    texts = [(piece.text or "</s>", piece.trained) for piece in pieces]
    return "".join(f"⟦{text}⟧" if trained else text for text, trained in texts).replace("⟧⟦", "")


def test_every_format_has_a_page_and_every_page_a_format():
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == {f"{name}{language}" for name in (*FORMATS, "index") for language in ("", "_zh")}
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.md)" in index for name in FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_examples_of_a_page_are_read_written_and_refused_as_it_says(name):
    row, words = None, []
    for word, content in blocks(name):
        words.append(word)
        if word not in ("row", "refused"):
            assert written(row, word).strip("\n") == content.strip("\n")
            continue
        for row in rows_of(content):
            require(row, name, is_refused=word == "refused")
    assert "row" in words and "refused" in words


def require(row, name, is_refused):
    """Every stage that takes the format reads the row, or refuses it."""
    for stage in stages_of(name):
        reader = RowReader(stage)
        if not is_refused:
            assert not reader.read(row, "an example")[1]
            assert reader.lines()[0].startswith(f"format: {name} (")
        elif (name, stage) != ("src_tgt", "pretrain"):  # there the answer may be empty
            with pytest.raises(DataError):
                reader.read(row, "an example")


def test_a_page_shows_what_each_example_of_a_conversation_becomes():
    for name in FORMATS:
        if "sft" in stages_of(name):
            assert {word for word, _ in blocks(name)} & {"chatml", "default"}, name


def test_the_settings_and_the_registry_of_the_index_are_read(tmp_path, monkeypatch):
    found = dict(blocks("index"))
    settings = json.loads(found["settings"])
    row = json.loads(found["alpaca"])
    assert (
        written(row, "default", Layout(settings["data_format"], read_columns(settings["columns"])))
        == "Name a colour.⟦Red.</s>⟧"
    )
    (tmp_path / "dataset_info.json").write_text(found["registry"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = [source.name for source in resolve_datasets("law,self_cognition")]
    assert names == ["law", "self_cognition"]
