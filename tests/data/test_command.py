"""paddle-sft data, as a user calls it."""

from __future__ import annotations

import json

import numpy as np
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


def test_the_packing_is_the_one_of_the_run_and_the_lengths_are_drawn(config, capsys, tmp_path):
    words = ["check", config(packing="best_fit", max_length=64), "--plot", str(tmp_path / "new" / "lengths.png")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "Packing: 6 samples, " in out and "rows of 64." in out and "No packing has fewer than " in out
    assert (tmp_path / "new" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    from matplotlib.image import imread

    assert len(np.unique(imread(tmp_path / "new" / "lengths.png").reshape(-1, 4), axis=0)) > 10


def test_a_mix_is_shown_by_source_and_data_that_training_refuses_has_no_packing(config, capsys, tmp_path):
    for name, seed in (("law", 3), ("chat", 4)):
        tiny.write_lines(tmp_path / f"{name}.json", tiny.rows(8, seed))
    both = {name: str(tmp_path / f"{name}.json") for name in ("law", "chat")}
    mixed = dict(dataset_name_or_path=None, dataset=both, mixing={"chat": {"epochs": 0.5}}, packing="sequential")
    main(["check", config(**mixed)])
    out = capsys.readouterr().out
    assert "train: 16 readable rows" in out and "Packing: 12 samples" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("law ", "chat "))] == [
        ["law", "8"], ["chat", "4"],
    ]  # fmt: skip
    tiny.write_lines(tmp_path / "chat.json", [{"src": 5}])
    assert main(["check", config(**mixed)]) == 1
    assert "no packing: training would refuse this data (" in capsys.readouterr().out
    assert main(["check", config(**{**mixed, "mixing": [0.5, 0.5]}, lazy=True, max_steps=3)]) == 1
    assert "no packing is known before" in capsys.readouterr().out


def test_samples_are_shown_of_every_source_and_of_every_dev_set(config, capsys, tmp_path):
    for name, seed in (("law", 3), ("chat", 4)):
        tiny.write_lines(tmp_path / f"{name}.json", tiny.rows(4, seed))
    both = {name: str(tmp_path / f"{name}.json") for name in ("law", "chat")}
    named = {"train": dict(dataset_name_or_path=None, dataset=both), "dev": dict(eval_dataset=both)}
    for split, given in named.items():
        assert main(["show", config(**given), "--num", "1", "--split", split]) == 0
        out = capsys.readouterr().out
        assert "law: 4 samples\n\nlaw.json line 1: " in out and "chat: 4 samples\n\nchat.json line 1: " in out
        assert "line 2" not in out


@pytest.mark.parametrize(
    "words, expected",
    [
        (["chek"], "paddle-sft data is 'chek', did you mean 'check'"),
        (["show", "--num", "x"], "--num is 'x'"),
        (["show", "--num"], "--num needs a value"),
        (["check", "--fix", "--all"], "--fix needs a value"),
        (["check", "--plot", "a.jpg"], "--plot is 'a.jpg'; a file name that ends in .png"),
        (["show", "--split", "test"], "--split is 'test'"),
    ],
)
def test_words_that_can_not_be_meant_are_refused(words, expected):
    with pytest.raises(ArgumentError, match=expected):
        main(words)


def test_help_is_printed(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    assert "paddle-sft data check" in capsys.readouterr().out
