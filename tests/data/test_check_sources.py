"""The check of a run with several sources, dev sets with names, held-out rows: it looks at what the run would read."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_sft.core.errors import DataError
from paddle_sft.data.build import build_samples
from paddle_sft.data.clean import write_clean
from paddle_sft.data.lint import check_data
from tests.data.merging import MergingTokenizer
from tests.data.test_build import lines


def row(src, tgt="an answer"):
    return {"src": src, "tgt": tgt}


def found(checked):
    return {(finding.kind, finding.line()) for finding in checked.findings}


@pytest.fixture
def sources(write, arguments, tmp_path):
    """Two sources whose files have one name, and two dev sets; other arguments by keyword."""
    write("law/train.json", b'{"src": "a", "tgt": "one"}\n{broken\n{"src": "b", "tgt": "two"}\n')
    write("chat/train.json", [{"prompt": "c", "completion": "three"}, row("a", "one"), row("d", "in dev")])
    write("exam.json", [row("d", "in dev"), row("e")])
    write("quiz.json", [row("e"), row("f")])

    def make(**given):
        values = dict(
            dataset_name_or_path=None,
            dataset={"law": str(tmp_path / "law"), "chat": str(tmp_path / "chat")},
            eval_dataset={"exam": str(tmp_path / "exam.json"), "quiz": str(tmp_path / "quiz.json")},
        )
        return arguments(**{**values, **given})

    return make


def test_a_finding_names_its_source_and_compares_with_all_others(sources):
    checked = check_data(sources(), "sft", MergingTokenizer())
    assert found(checked) - {one for one in found(checked) if one[0] == "bad line"} == {
        ("duplicate", "chat, train.json line 2: the same as law, train.json line 1"),
        ("duplicate", "quiz, quiz.json line 1: the same as exam, exam.json line 2"),
        ("overlap", "chat, train.json line 3: is dev data, too: exam, exam.json line 1"),
    }
    assert [one.place for one in checked.findings if one.kind == "bad line"] == ["law, train.json line 2"]
    assert "chat: format: " in " ".join(checked.notes)


def test_a_cleaned_copy_has_a_folder_for_each_source_and_loses_the_right_row(sources, tmp_path):
    """Both files have a line 2 and a line 3; only those of chat are left out."""
    write_clean(check_data(sources(), "sft"), tmp_path / "clean")
    read = {
        path.relative_to(tmp_path / "clean").as_posix(): [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "clean").rglob("*.json")
    }
    assert read == {
        "law/train.json": [row("a", "one"), row("b", "two")],
        "chat/train.json": [{"prompt": "c", "completion": "three"}],
        "exam/dev.json": [row("d", "in dev"), row("e")],
        "quiz/dev.json": [row("f")],
    }
    clean = {name: str(tmp_path / "clean" / name) for name in ("law", "chat", "exam", "quiz")}
    again = sources(
        dataset={name: clean[name] for name in ("law", "chat")},
        eval_dataset={name: clean[name] for name in ("exam", "quiz")},
    )
    assert check_data(again, "sft").findings == []


def test_sources_that_would_share_a_folder_are_refused(sources, tmp_path):
    checked = check_data(sources(dataset={name: str(tmp_path / "law") for name in ("a b", "a/b")}), "sft")
    with pytest.raises(DataError, match="'a b' and 'a/b' would both be written to"):
        write_clean(checked, tmp_path / "clean")
    assert not (tmp_path / "clean").exists()


def test_rows_beyond_max_samples_and_caps_are_not_looked_at(sources, tmp_path):
    capped = {"law": {"path": str(tmp_path / "law"), "max_samples": 1}, "chat": str(tmp_path / "chat")}
    assert found(check_data(sources(dataset=capped, eval_dataset=None, max_samples=2), "sft")) == set()


def test_held_out_rows_are_the_dev_rows(write, arguments):
    write("train.json", b"{broken\n" + b"".join(json.dumps(row(f"question {n}")).encode() + b"\n" for n in range(20)))
    checked = check_data(arguments(val_size=5), "sft")
    assert (len(checked.rows["train"]), len(checked.rows["dev"])) == (15, 5)
    assert [one.kind for one in checked.findings] == ["bad line"]


def test_a_run_that_only_measures_is_checked_too(sources):
    checked = check_data(sources(dataset=None), "sft")
    assert list(checked.rows) == ["dev"] and [one.kind for one in checked.findings] == ["duplicate"]


def test_a_dev_set_that_is_not_there_is_an_error(sources, tmp_path):
    with pytest.raises(DataError, match="missing.json"):
        check_data(sources(eval_dataset={"exam": str(tmp_path / "missing.json")}), "sft")


def test_half_a_surrogate_in_a_key_that_nobody_reads_is_copied(write, arguments, tmp_path):
    write("train.json", b'{"src": "a", "tgt": "b", "note": "\\ud83d"}\n')
    write_clean(check_data(arguments(), "sft"), tmp_path / "clean")
    assert json.loads((tmp_path / "clean" / "train.json").read_text())["note"] == "\ud83d"


def test_a_file_called_empty_is_not_taken_for_an_empty_row(write, arguments, tmp_path):
    path = write("empty.json", [{"src": 5, "tgt": "b"}])
    (finding,) = check_data(arguments(dataset_name_or_path=str(path)), "sft").findings
    assert finding.kind == "bad row"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(lines, max_size=4).map(b"\n".join), stage=st.sampled_from(["sft", "pretrain"]))
def test_any_bytes_can_be_checked_and_what_is_kept_can_be_trained(tmp_path, arguments, content, stage):
    (tmp_path / "train.json").write_bytes(content)
    clean = tmp_path / "clean"
    shutil.rmtree(clean, ignore_errors=True)
    try:
        checked = check_data(arguments(max_length=64), stage, MergingTokenizer())
        write_clean(checked, clean)
    except DataError as error:
        assert "train.json" in str(error) or "no training row is left" in str(error)
        return
    assert (tmp_path / "train.json").read_bytes() == content
    again = arguments(dataset_name_or_path=str(clean), max_length=64)
    assert build_samples(again, MergingTokenizer(), "train", stage).samples
