"""The pages besides their commands: examples load, links lead somewhere, both languages agree, names are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest

from paddle_sft.arguments.data import DataArguments
from paddle_sft.arguments.keys import finetune_catalogue
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.core.errors import ArgumentError, DataError
from paddle_sft.data.build import build_samples
from tests import tiny
from tests.docs.reading import BY_NAME, PAGES, ROOT, anchor, blocks, headings, links, page_commands, prose, twins

LANGUAGES = ("bash", "json", "text")
"""A block in another language, or in none, could hide a command from the tests."""
GENERATED = ("docs/arguments.md", "docs/arguments_zh.md")
BASE = {"model_name_or_path": "a/model", "dataset_name_or_path": "data", "output_dir": "out", "do_train": True}
"""What an example that shows a few keys leaves out."""
DATA_KEYS = {"src", "tgt", "text"}
REFUSED_ROWS = ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completion": "b", "label": True})
REFUSED_ARGUMENTS = (
    "context_parallel_degree=2 expert_parallel_degree=2 deepspeed=a.json stage=dpo stage=rm stage=ppo stage=kto"
).split()
"""What the table of the README calls "not yet, refused by name"."""
NOT_OURS = ("No ccache found", "No space left on device", "ValueError", "IndexError")
"""Messages of other programs among the headings of the troubleshooting pages."""

names = pytest.mark.parametrize("name", BY_NAME)


@names
def test_every_block_is_in_a_language_that_is_looked_at(name):
    languages = {block.line: block.language for block in blocks(BY_NAME[name])}
    assert {line: language for line, language in languages.items() if language not in LANGUAGES} == {}


EXAMPLES = [
    pytest.param(block, id=f"{name}:{block.line}")
    for name, page in BY_NAME.items()
    for block in blocks(page)
    if block.language == "json"
]


def read_json(text: str) -> List[Dict[str, Any]]:
    """A JSON object over several lines, or one object a line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("block", EXAMPLES)
def test_a_json_example_loads(block, tmp_path, tiny_tokenizer):
    rows = read_json(block.text)
    if not all(DATA_KEYS & set(row) for row in rows):
        assert len(rows) == 1, "neither data rows nor one argument file"
        (tmp_path / "example.json").write_text(json.dumps({**BASE, **rows[0]}), encoding="utf-8")
        assert load_finetune_arguments([str(tmp_path / "example.json")]).given >= set(rows[0]) - {"$schema"}
        return
    tiny.write_lines(tmp_path / "train.json", rows)
    stage = "pretrain" if any("text" in row for row in rows) else "sft"
    stage = "classification" if all("label" in row for row in rows) else stage
    built = build_samples(DataArguments(dataset_name_or_path=str(tmp_path)), tiny_tokenizer, "train", stage, False)
    assert built.report.num_rows == len(rows) and not built.unused_keys


def broken_links(page: Path) -> List[str]:
    """Relative links of a page that lead to no file or no heading."""
    broken = []
    for link in links(page):
        path, _, fragment = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            broken.append(link)
    return broken


@names
def test_every_relative_link_leads_to_a_file_and_a_heading(name):
    assert not broken_links(BY_NAME[name])


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text("# Up here\n[b](b.md) [c](#up-here) [d](#down) [e](a.md#up-here)", encoding="utf-8")
    assert broken_links(tmp_path / "a.md") == ["b.md", "#down"]


@pytest.mark.parametrize("english, chinese", twins().items())
def test_both_languages_have_the_same_headings_blocks_and_commands(english, chinese):
    one, other = BY_NAME[english], BY_NAME[chinese]
    assert len(headings(one)) == len(headings(other))
    assert [block.language for block in blocks(one)] == [block.language for block in blocks(other)]
    assert page_commands(one) == page_commands(other)
    texts = [[block.text for block in blocks(page) if block.language == "text"] for page in (one, other)]
    assert texts[0] == texts[1]
    if english not in GENERATED:
        assert Path(chinese).name in links(one) and Path(english).name in links(other)


def test_every_page_of_a_user_is_there_in_both_languages():
    alone = {name for name in BY_NAME if not name.endswith("_zh.md")} - set(twins())
    assert alone == {"docs/architecture.md"}


def test_every_page_is_found_from_the_readme():
    found, new = set(), {ROOT / "README.md"}
    while new:
        found |= new
        near = {(page.parent / link.partition("#")[0]).resolve() for page in new for link in links(page)}
        new = (near & set(PAGES)) - found
    assert set(PAGES) - found == set()


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_the_table_of_other_spellings_is_what_the_arguments_do(name):
    catalogue = finetune_catalogue()
    section = re.split(r"^## .*LLaMA-Factory.*$", prose(BY_NAME[name]), flags=re.MULTILINE)[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for theirs, ours in rows:
        targets = [word.split(":")[0] for word in re.findall(r"`([^`]+)`", ours)]
        for spelling in (word.split(":")[0] for word in re.findall(r"`([a-z_0-9:]+[^`]*)`", theirs)):
            if spelling == "full":  # a value
                continue
            translation = catalogue.translations.get(spelling)
            assert (translation.target if translation else catalogue.find(spelling).name) in targets, spelling


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_the_table_of_what_works_names_the_families_of_the_code_and_the_refused_rows(name):
    from paddle_sft.models.catalogue import FAMILIES

    table = [line for line in prose(BY_NAME[name]).splitlines() if line.startswith("| ")]
    assert any(all(family in line for family in FAMILIES) for line in table)
    words = [key for row in REFUSED_ROWS for key in row]
    assert any(all(f"`{word}`" in line for word in words) for line in table)


@pytest.mark.parametrize("row", REFUSED_ROWS, ids=lambda row: "-".join(row))
def test_a_row_that_the_readme_calls_not_available_is_refused_by_name(row, tmp_path, tiny_tokenizer):
    tiny.write_lines(tmp_path / "train.json", [row])
    with pytest.raises(DataError, match="stage sft would train"):
        build_samples(DataArguments(dataset_name_or_path=str(tmp_path)), tiny_tokenizer, "train", "sft", False)


@pytest.mark.parametrize("written", REFUSED_ARGUMENTS)
def test_an_argument_that_the_readme_calls_not_available_is_refused_by_name(written, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(BASE), encoding="utf-8")
    key, _, value = written.partition("=")
    with pytest.raises(ArgumentError, match=f"^{key} .*not available yet"):
        load_finetune_arguments([str(tmp_path / "run.json"), f"--{key}", value or "true"])


def messages_of_the_package() -> str:
    """All source text, with string literals that stand over several lines joined."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "paddle_sft").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_the_troubleshooting_pages_quote_messages_that_exist():
    source = messages_of_the_package()
    for name in ("docs/troubleshooting.md", "docs/troubleshooting_zh.md"):
        quoted = [text for heading in headings(BY_NAME[name]) for text in re.findall(r"`([^`]+)`", heading)]
        assert len(quoted) > 15
        assert [text for text in quoted if text not in source and text not in NOT_OURS] == []


@names
def test_keys_in_the_tables_exist(name):
    """A key that starts a row of a table of arguments is one of a command's."""
    from paddle_sft.arguments import keys

    catalogues = [keys.finetune_catalogue(), *map(keys.command_catalogue, keys.COMMANDS)]
    known = {key for catalogue in catalogues for key in catalogue.spellings()}
    head = r"^\| (?:Key|参数) \| (?:Default|默认值).*\n"
    tables = re.findall(head + r"(?:\|.*\n)+", prose(BY_NAME[name]), flags=re.MULTILINE)
    for table in tables:
        assert [key for key in re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE) if key not in known] == []


def test_there_are_pages_to_look_at():
    assert len(PAGES) > 15
