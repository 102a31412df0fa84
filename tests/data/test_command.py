"""paddle-sft data, as a user calls it."""

from __future__ import annotations

import json

import pytest

from paddle_sft.cli.data import main
from paddle_sft.core.errors import ArgumentError
from tests import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config over a tiny tokenizer folder and clean data; other keys by keyword."""
    pytest.importorskip("paddlenlp")
    folder = tmp_path_factory.mktemp("command")
    tiny.make_tokenizer(folder / "model")
    tiny.write_lines(folder / "clean" / "train.json", tiny.rows(6, 1))
    tiny.write_lines(folder / "clean" / "dev.json", [{"src": "other :", "tgt": "red"}])

    def make(**given):
        values = dict(
            model_name_or_path=str(folder / "model"), dataset_name_or_path=str(folder / "clean"),
            output_dir=str(folder / "output"), do_train=True, device="cpu",
        )  # fmt: skip
        values.update(given)
        path = folder / "config.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        return str(path)

    return make


def test_clean_data_gives_0_and_the_lengths(config, capsys):
    assert main(["check", config()]) == 0
    out = capsys.readouterr().out
    for words in ["train: 6 readable rows", "format: src_tgt (6 rows", "tokens of train samples", "nothing found"]:
        assert words in out


def test_findings_give_1_their_places_and_a_cleaned_copy(config, capsys, tmp_path):
    rows = [{"src": "red", "tgt": "cat"}] * 14
    tiny.write_lines(tmp_path / "train.json", rows)
    words = ["check", config(dataset_name_or_path=str(tmp_path)), "--fix", str(tmp_path / "clean")]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "duplicate (13): a row that is there more than once" in out
    assert "train.json line 2: the same as train.json line 1" in out and "... and 3 more; --all shows them" in out
    assert "1 of 14 readable rows" in out
    assert len((tmp_path / "clean" / "train.json").read_text().splitlines()) == 1
    assert main(["check", "--all", config(dataset_name_or_path=str(tmp_path))]) == 1
    assert "train.json line 14" in capsys.readouterr().out


def test_a_missing_model_leaves_the_rows_checked_and_says_so(config, capsys, tmp_path):
    assert main(["check", config(model_name_or_path=str(tmp_path / "none"))]) == 0
    assert "lengths and the template are not checked" in capsys.readouterr().out


def test_samples_are_shown_with_what_is_trained(config, capsys):
    assert main(["show", config(), "--num", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("⟦") == out.count("⟧") == 2 and "train.json line 2: " in out and "train.json line 3" not in out
    assert main(["show", config(), "--split", "dev"]) == 0
    assert "dev.json line 1: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, expected",
    [
        (["chek"], "paddle-sft data is 'chek', did you mean 'check'"),
        (["show", "--num", "x"], "--num is 'x'"),
        (["show", "--num"], "--num needs a value"),
        (["check", "--fix", "--all"], "--fix needs a value"),
        (["show", "--split", "test"], "--split is 'test'"),
    ],
)
def test_words_that_can_not_be_meant_are_refused(words, expected):
    with pytest.raises(ArgumentError, match=expected):
        main(words)


def test_help_is_printed(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    assert "paddle-sft data check" in capsys.readouterr().out
