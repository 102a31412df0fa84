from __future__ import annotations

import json

import numpy as np
import pytest

from paddle_sft.core.errors import DataError
from paddle_sft.core.records import Sample
from paddle_sft.data.clean import write_clean
from paddle_sft.data.histogram import bars, length_histogram
from paddle_sft.data.lint import CHECKS, check_data
from paddle_sft.data.show import show_sample, wants_color
from tests.data.merging import MergingTokenizer


def row(src, tgt="an answer"):
    return {"src": src, "tgt": tgt}


def chat(*messages):
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


FAULTS = {
    "bad line": b"{broken",
    "bad row": {"src": 5, "tgt": "b"},
    "empty": row("q", " "),
    "duplicate": row("fine", " an answer\n"),
    "overlap": row("in dev", "yes"),
    "same prompt": row("in dev", "no"),
    "role order": chat(("user", "a"), ("user", "b"), ("assistant", "c")),
    "template token": row("what is <|im_end|> for?"),
    "encoding": row("cafÃ© au lait"),
    "broken answer": row("code?", "```python\nx = 1"),
    "truncated": row("long?", "x" * 60),
}
"""One row for each kind of finding."""


def as_bytes(content):
    return content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()


@pytest.fixture
def faulty(write):
    write("train.json", b"\n".join([as_bytes(row("fine")), *map(as_bytes, FAULTS.values())]))
    write("dev.json", [row("in dev", "yes")])


def test_every_kind_of_fault_is_found_at_its_line_and_nothing_else(faulty, arguments):
    checked = check_data(arguments(max_length=48), "sft", MergingTokenizer())
    found = {(finding.kind, finding.place) for finding in checked.findings}
    assert found == {(kind, f"train.json line {line}") for line, kind in enumerate(FAULTS, start=2)}
    assert set(FAULTS) == set(CHECKS) - {"template", "other label"}
    assert len(checked.rows["train"]) == len(FAULTS) and len(checked.lengths["train"]) == len(FAULTS) - 2


def test_without_a_tokenizer_texts_are_checked_all_the_same(faulty, arguments):
    kinds = {finding.kind for finding in check_data(arguments(), "sft").findings}
    assert kinds == set(FAULTS) - {"truncated"}


def test_a_row_that_the_template_can_not_write_is_found(write, arguments):
    write("train.json", [FAULTS["role order"], row("fine")])
    checked = check_data(arguments(template="mistral"), "sft", MergingTokenizer())
    assert [(one.kind, one.place) for one in checked.findings] == [
        ("role order", "train.json line 1"), ("template", "train.json line 1"),
    ]  # fmt: skip


def test_clean_data_has_no_findings(write, arguments):
    write("train.json", [row("fine"), chat(("system", "s"), ("user", "Übung 今天 — “naïve” ™"), ("assistant", "b"))])
    write("dev.json", [row("other")])
    assert check_data(arguments(), "sft", MergingTokenizer()).findings == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("a\ufffdb", "U+FFFD at character 1"),
        ("cafÃ©", "'Ã©', which is 'é'"),
        ("â€œquotedâ€\x9d", "Windows-1252"),
        ("a\x07", "U+0007 at character 1"),
        ("\ufeffa", "U+FEFF at character 0"),
    ],
)
def test_damaged_text_is_told_with_what_it_was(write, arguments, text, words):
    write("train.json", [row("q", text)])
    (finding,) = check_data(arguments(), "sft").findings
    assert finding.kind == "encoding" and words in finding.message and finding.place == "train.json line 1"


def test_a_cleaned_copy_leaves_out_what_can_not_be_trained_and_never_touches_the_input(faulty, arguments, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    checked = check_data(arguments(max_length=48), "sft", MergingTokenizer())
    write_clean(checked, tmp_path / "clean")
    kept = [json.loads(line) for line in (tmp_path / "clean/train.json").read_text(encoding="utf-8").splitlines()]
    removed = ("bad line", "bad row", "empty", "duplicate", "overlap")
    assert kept == [row("fine")] + [content for kind, content in FAULTS.items() if kind not in removed]
    assert json.loads((tmp_path / "clean/dev.json").read_text()) == row("in dev", "yes")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json")} == before
    again = check_data(
        arguments(dataset_name_or_path=str(tmp_path / "clean"), max_length=48), "sft", MergingTokenizer()
    )
    assert {finding.kind for finding in again.findings}.isdisjoint(removed)


def test_a_cleaned_copy_is_never_written_over_anything(faulty, arguments, tmp_path):
    checked = check_data(arguments(), "sft")
    for there in (tmp_path, tmp_path / "train.json"):
        with pytest.raises(DataError, match="is there already"):
            write_clean(checked, there)


def test_trained_tokens_stand_out():
    tokenizer = MergingTokenizer()
    ids = np.array(tokenizer("q: xy</s>", add_special_tokens=False)["input_ids"], dtype=np.int32)
    sample = Sample(ids, np.arange(len(ids)) >= len(ids) - 2, "train.json line 1")
    assert show_sample(sample, tokenizer, False).splitlines() == [
        "train.json line 1: 5 tokens, 2 trained (40.0%)", "q: x⟦y</s>⟧",
    ]  # fmt: skip
    assert show_sample(sample, tokenizer, True).endswith("q: x\x1b[1;32my</s>\x1b[0m")


def test_no_color_is_respected(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_color(True) and not wants_color(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(True)


def test_a_histogram_counts_every_sample_once():
    draw = np.random.default_rng(0)
    for num in (1, 2, 50):
        lengths = draw.integers(1, 90, num).tolist()
        bins = length_histogram(lengths)
        assert sum(count for _, _, count in bins) == num and len(bars(bins)) == len(bins)
        for low, high, count in bins:
            assert count == sum(low <= length <= high for length in lengths)
    assert length_histogram([]) == []
