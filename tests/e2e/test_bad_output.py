"""Output folders that can't be written, disks that fill up, checkpoints that don't belong: nothing is lost."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.e2e.commands import (
    GENERATE,
    MERGE,
    TRAIN,
    checkpoints,
    differences,
    here,
    process,
    read_json,
    rewind,
    snapshot,
)


@pytest.fixture
def refuse(lab, finished):
    """Run the command of a finished run with changes; it must be refused and leave that run's folder as it was."""

    def run(*phrases: str, **changes):
        before = snapshot(finished)
        here(TRAIN, lab.write(finished, **changes)).refused(*phrases)
        assert snapshot(finished) == before

    return run


# ---- output folders ----------------------------------------------------------------------------------------------


def test_a_folder_with_something_else_in_it_is_not_trained_into(lab, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").write_text("five years", encoding="utf-8")
    here(TRAIN, lab.write(output)).refused("is not empty (thesis.tex)", "overwrite_output_dir")
    assert snapshot(output) == {"thesis.tex": b"five years"}


def test_a_finished_run_without_checkpoints_is_not_trained_over(lab, tmp_path):
    lab.train(tmp_path / "out", save_strategy="no", max_steps=1)
    before = snapshot(tmp_path / "out")
    here(TRAIN, lab.write(tmp_path / "out", save_strategy="no", max_steps=1)).refused(
        "is not empty", "adapter.safetensors"
    )
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("below", ["", "deeper/out"])
def test_an_output_path_at_or_below_a_file_is_refused_before_paddle_is_loaded(lab, tmp_path, below):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    command = lab.write(tmp_path / "out", model_name_or_path="./not/looked/at")
    words = (command, "--output_dir", tmp_path / "file" / below)
    here(TRAIN, *words).refused("can't write into", str(tmp_path / "file"), "choose another output folder")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_overwriting_loses_nothing_when_the_new_run_cannot_start(refuse, tmp_path):
    refuse("no such file or folder", overwrite_output_dir=True, dataset_name_or_path=str(tmp_path / "nowhere"))
    refuse("no model folder", overwrite_output_dir=True, model_name_or_path=str(tmp_path / "nowhere"))
    refuse("match no layer", overwrite_output_dir=True, lora_target_modules=["nothing_like_it"])


def test_overwriting_leaves_no_trace_of_the_earlier_run(lab, tmp_path, finished):
    lab.train(finished, do_eval=True, do_predict=True, plot_loss=True, max_steps=6)
    lab.train(finished, overwrite_output_dir=True)
    lab.train(tmp_path / "fresh", overwrite_output_dir=True)
    assert differences(finished, tmp_path / "fresh") == ["arguments.json"]


# ---- checkpoints -------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_that_was_named_is_refused(refuse, finished, tmp_path):
    named = Path(shutil.copytree(finished / "checkpoint-2", tmp_path / "checkpoint-2"))
    weights = named / "adapter.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    refuse("is damaged", "checksum", "resume from another checkpoint", resume_from_checkpoint=str(named))


def test_a_folder_that_is_no_checkpoint_of_ours_is_refused(refuse, lab, tmp_path):
    foreign = tmp_path / "checkpoint-7"
    foreign.mkdir()
    (foreign / "trainer_state.json").write_text("{}", encoding="utf-8")
    refuse("is no checkpoint of this suite", "run_state.json", resume_from_checkpoint=str(foreign))
    refuse("is no checkpoint of this suite", resume_from_checkpoint=str(lab.model))
    refuse("is no checkpoint of this suite", resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_resuming_where_nothing_was_saved_is_refused(lab, tmp_path):
    here(TRAIN, lab.write(tmp_path / "out", resume_from_checkpoint=True)).refused("has no good checkpoint")


def test_data_that_changed_since_is_refused(refuse, tmp_path):
    tiny.make_data(tmp_path / "data", num_train=22)
    rows = tiny.rows(22, 1)
    rows[11]["tgt"] += " and"
    tiny.write_lines(tmp_path / "data" / "train.json", rows)
    refuse("checkpoint-4", "data was", "start afresh", dataset_name_or_path=str(tmp_path / "data"), max_steps=6)


@pytest.mark.parametrize(
    "changes, phrase",
    [
        (dict(seed=43), "seed was 42, now 43"),
        (dict(per_device_train_batch_size=8), "samples_per_step was 4, now 8"),
        (dict(optim="adafactor"), "optim"),
        (dict(lora_rank=4), "lora_rank"),
        (dict(lora_alpha=3.0), "lora_alpha"),
        (dict(lora_target_modules=["q_proj"]), "q_proj"),
        (dict(lora=None), "every weight"),
        (dict(lora_dropout=0.3), "lora_dropout was 0.0, now 0.3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_resumed_run_may_not_become_another_run(refuse, changes, phrase):
    refuse("checkpoint-4", phrase, max_steps=6, **changes)


def test_a_longer_run_and_another_accumulation_may_go_on(lab, finished):
    outcome = lab.train(finished, max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert "resuming from" in outcome.out
    assert read_json(finished / "train_results.json")["train_steps"] == 6


# ---- a full disk -------------------------------------------------------------------------------------------------

LARGE = dict(lora_rank=128, max_steps=6)
"""The adapter has 475 kB and the optimizer's state 950 kB; every other file is smaller."""


def _no_file_above(num_bytes: int):
    """Run in a new process: writing beyond this size fails, as on a full disk, at the byte where it is reached."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.fixture
def small_files():
    """The same in this process, until the test ends or calls it with infinity."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_saving_keeps_the_last_checkpoint_and_the_command_goes_on_later(lab, tmp_path):
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = lab.write(output, **LARGE)
    here(TRAIN, command).succeeded()
    output.rename(whole)
    rewind(whole, output, 2)
    before = snapshot(output / "checkpoint-2")

    outcome = process("run_finetune.py", command, preexec_fn=_no_file_above(600_000))
    outcome.refused(
        "can't save", "checkpoint-4", "the last good checkpoint is", "checkpoint-2", "run the same command again"
    )
    assert checkpoints(output) == [2]
    assert snapshot(output / "checkpoint-2") == before
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []

    here(TRAIN, command).succeeded()
    assert differences(whole, output) == []


def test_a_disk_that_is_full_at_the_first_save_says_so(lab, tmp_path, small_files):
    command = lab.write(tmp_path / "out", **LARGE)
    small_files(600_000)
    here(TRAIN, command).refused("can't save", "checkpoint-2", "there is no earlier checkpoint")
    small_files(resource.RLIM_INFINITY)
    here(TRAIN, command).succeeded()


def test_a_disk_that_fills_up_while_the_result_is_written_loses_no_checkpoint(lab, tmp_path, small_files):
    command = lab.write(tmp_path / "out", **LARGE, save_strategy="no")
    small_files(400_000)
    here(TRAIN, command).refused("can't write (or read)", str(tmp_path / "out"))
    small_files(resource.RLIM_INFINITY)
    here(TRAIN, command).succeeded()


def test_a_disk_that_is_full_from_the_start_is_reported(lab, tmp_path, small_files):
    command = lab.write(tmp_path / "out")
    small_files(100)
    outcome = here(TRAIN, command)
    small_files(resource.RLIM_INFINITY)
    outcome.refused("can't write", str(tmp_path / "out"), "run the same command again")


def test_a_disk_that_fills_up_while_merging_leaves_no_half_model(lab, finished, tmp_path, small_files):
    words = ("--model_name_or_path", lab.model, "--lora_path", finished, "--output_path", tmp_path / "merged")
    for layout in (("--safe_serialization", "True"), ("--safe_serialization", "False"), ("--format", "hf")):
        small_files(50_000)
        outcome = here(MERGE, *words, *layout)
        small_files(resource.RLIM_INFINITY)
        outcome.refused("can't write", "merged")
        assert not (tmp_path / "merged").exists()
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    here(MERGE, *words).succeeded()


# ---- merging and generating --------------------------------------------------------------------------------------


def _merge(lab, adapter, output, *words):
    return here(MERGE, "--model_name_or_path", lab.model, "--lora_path", adapter, "--output_path", output, *words)


def test_merging_twice_into_one_folder_is_refused_and_the_first_stays(lab, finished, tmp_path):
    _merge(lab, finished, tmp_path / "merged").succeeded()
    before = snapshot(tmp_path / "merged")
    _merge(lab, finished, tmp_path / "merged").refused("is not empty", "overwrite_output_dir")
    assert snapshot(tmp_path / "merged") == before


def test_merging_onto_its_own_sources_is_refused(lab, finished):
    for place in (lab.model, finished):
        before = snapshot(place)
        _merge(lab, finished, place, "--overwrite_output_dir", "True").refused("is the base or the adapter itself")
        assert snapshot(place) == before


def test_overwriting_with_a_merge_removes_a_merged_model_and_nothing_else(lab, finished, tmp_path):
    place = tmp_path / "home"
    base = Path(shutil.copytree(lab.model, place / "models" / "base"))
    (place / "thesis.tex").write_text("five years", encoding="utf-8")
    before = snapshot(place)
    words = ("--model_name_or_path", base, "--lora_path", finished, "--overwrite_output_dir", "True", "--output_path")
    for output in (place, place / "models"):
        here(MERGE, *words, output).refused("merge_receipt.json", "name another folder")
        assert snapshot(place) == before
    _merge(lab, finished, tmp_path / "merged").succeeded()
    here(MERGE, *words, tmp_path / "merged").succeeded()


def test_merging_into_a_file_is_refused(lab, finished, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    _merge(lab, finished, tmp_path / "file").refused(str(tmp_path / "file"))
    _merge(lab, finished, tmp_path / "file" / "below").refused("can't write into")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_merging_an_adapter_of_another_base_names_the_shapes_and_writes_nothing(lab, finished, tmp_path, model_folder):
    words = ("--model_name_or_path", model_folder(intermediate_size=64), "--lora_path", finished)
    outcome = here(MERGE, *words, "--output_path", tmp_path / "merged")
    outcome.refused("belongs to another base", "mlp.gate_proj is [32, 64]", "trained on [32, 48]")
    assert not (tmp_path / "merged").exists()


def test_merging_a_damaged_adapter_is_refused(lab, finished, tmp_path):
    weights = finished / "adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    _merge(lab, finished, tmp_path / "merged").refused("adapter.safetensors is cut short")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("src", [5, None, [], ["red", None], {"text": "red"}])
def test_a_prompt_that_is_no_text_is_refused_by_its_line(lab, tmp_path, src):
    lines = tiny.write_lines(tmp_path / "prompts.json", [{"src": "red"}, {"src": src}])
    outcome = here(GENERATE, "--model_name_or_path", lab.model, "--prompt_file", lines, "--max_new_tokens", 1)
    outcome.refused("prompts.json line 2", "src")


def test_answers_that_cannot_be_written_are_refused_before_they_are_computed(lab, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    words = ("--model_name_or_path", "./not/looked/at", "--prompt", "red")
    here(GENERATE, *words, "--output_file", tmp_path / "file" / "answers.json").refused("can't write", "file")


def test_a_model_and_a_tokenizer_that_do_not_belong_together_are_refused_when_generating(lab, tmp_path, model_folder):
    small = Path(shutil.copytree(model_folder(vocab_size=50), tmp_path / "small"))
    assert json.loads((small / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 50
    outcome = here(GENERATE, "--model_name_or_path", small, "--prompt", " ".join(tiny.WORDS), "--max_new_tokens", 1)
    outcome.refused("tokenizer", "50 tokens")
