from __future__ import annotations

import resource
import shutil
import signal

import numpy as np
import pytest

from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.log import get_logger
from paddle_sft.core.tensorfile import TensorFile, write_arrays
from paddle_sft.train.checkpoint import (
    OPTIMIZER,
    RUN_STATE,
    Progress,
    RunState,
    find_resume,
    last_good,
    list_checkpoints,
    optimizer_file,
    read_progress,
    remove_old,
    remove_unfinished,
    require_best,
    require_good,
    save_checkpoint,
)

RUN = {"num_samples": 6, "data": "00c0ffee", "mixing": [["law: 6 samples"]], "shuffle": True}


class Weights:
    """Stands for an adapter or a model: one file of a given size."""

    def __init__(self, size=10):
        self.size = size

    def write(self, folder):
        (folder / "weights").write_bytes(bytes(self.size))


class Optimizer:
    """Stands for the state of one."""

    def __init__(self, arrays):
        self.arrays = arrays

    def write(self, path):
        write_arrays(path, self.arrays)


def save(output_dir, step, weights=None, progress=None, run=None):
    folder = output_dir / f"checkpoint-{step}"
    state = Optimizer({"x/moment1_0": np.full(3, step, np.float32)})
    run_state = RunState(run or RUN, {"last_epoch": step}, {"row": step})
    save_checkpoint(folder, weights or Weights(), state, run_state, progress or Progress(step))
    return folder


@pytest.fixture
def output_dir(tmp_path):
    """Checkpoints 2, 10 and 9 of a run."""
    for step in (2, 10, 9):
        save(tmp_path / "run", step)
    return tmp_path / "run"


def names(paths):
    return [path.name for path in paths]


def test_checkpoints_are_listed_by_step_and_nothing_else_is(output_dir):
    (output_dir / "checkpoint-best").mkdir()
    (output_dir / "checkpoint-3-copy").mkdir()
    (output_dir / "checkpoint-11").write_text("a file")
    (output_dir / ".unfinished-checkpoint-12").mkdir()
    assert names(list_checkpoints(output_dir)) == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    assert list_checkpoints(output_dir / "nowhere") == []


def test_the_last_good_checkpoint_is_the_newest_that_is_whole(output_dir, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    assert last_good(output_dir).name == "checkpoint-10"
    (output_dir / "checkpoint-10" / "weights").write_bytes(b"short")
    assert last_good(output_dir).name == "checkpoint-9"
    assert (output_dir / "checkpoint-10").is_dir()  # left alone, and named
    assert any("checkpoint-10" in record.getMessage() and "5 bytes" in record.getMessage() for record in caplog.records)
    for step in (9, 2):
        (output_dir / f"checkpoint-{step}" / "manifest.json").unlink()
    assert last_good(output_dir) is None


def test_everything_a_run_needs_comes_back_exactly(tmp_path):
    history = [{"step": 1, "loss": 2 / 3}]
    progress = Progress(7, 1 / 3, 5, 0.1 + 0.2, 3, 99, 1e-7, history, 0.1, "checkpoint-5", {"law": 60, "chat": 39})
    folder = save(tmp_path, 7, progress=progress)
    back, state = read_progress(folder, RUN)
    assert back == progress and state == RunState(RUN, {"last_epoch": 7}, {"row": 7})
    np.testing.assert_array_equal(optimizer_file(folder).read("x/moment1_0"), np.full(3, 7.0))
    assert TensorFile(folder / OPTIMIZER).specs.keys() == {"x/moment1_0"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": "0badcafe"}, "data was '00c0ffee', now '0badcafe'"),
        ({"num_samples": 7}, "num_samples was 6, now 7"),
        ({"mixing": [["law: 7 samples"]]}, "mixing was "),
        ({"shuffle": False, "num_samples": 5}, "num_samples was 6, now 5; shuffle was True, now False"),
    ],
)
def test_another_run_is_refused(tmp_path, changes, words):
    folder = save(tmp_path, 3)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_progress(folder, {**RUN, **changes})
    assert "overwrite_output_dir" in str(caught.value)


def test_the_newest_are_kept_and_the_best(output_dir):
    remove_old(output_dir / "checkpoint-10", 2, None)
    assert names(list_checkpoints(output_dir)) == ["checkpoint-9", "checkpoint-10"]
    remove_old(save(output_dir, 11), 1, "checkpoint-9")
    assert names(list_checkpoints(output_dir)) == ["checkpoint-9", "checkpoint-11"]


def test_of_a_disk_that_the_newest_is_not_on_the_older_ones_go(output_dir):
    """The newest is on another machine's disk; here are those from before a restart."""
    remove_old(output_dir / "checkpoint-11", 2, None)
    assert names(list_checkpoints(output_dir)) == ["checkpoint-10"]
    remove_old(output_dir / "checkpoint-4", 1, None)  # taken back to an earlier step: 10 is later
    assert names(list_checkpoints(output_dir)) == ["checkpoint-10"]
    remove_old(output_dir / "checkpoint-12", 1, "checkpoint-10")
    assert names(list_checkpoints(output_dir)) == ["checkpoint-10"]
    remove_old(output_dir / "checkpoint-12", 1, None)
    assert list_checkpoints(output_dir) == []


@pytest.mark.parametrize("limit", [None, 0, -1, 3, 99])
def test_without_a_limit_all_are_kept(output_dir, limit):
    remove_old(output_dir / "checkpoint-10", limit, None)
    assert len(list_checkpoints(output_dir)) == 3


@pytest.mark.parametrize("limit", [1, 2])
def test_a_damaged_newer_one_does_not_push_out_the_last_good_one(output_dir, limit):
    """Taken back to step 2 because 9 and 10 are damaged, the run saves its step 5."""
    for step in (9, 10):
        (output_dir / f"checkpoint-{step}" / "weights").write_bytes(b"short")
    remove_old(save(output_dir, 5), limit, None)
    assert last_good(output_dir).name == "checkpoint-5"
    assert (output_dir / "checkpoint-2").is_dir() == (limit == 2)


def test_damaged_ones_do_not_count_as_kept(output_dir):
    (output_dir / "checkpoint-9" / "weights").write_bytes(b"short")
    remove_old(output_dir / "checkpoint-10", 2, None)
    assert names(list_checkpoints(output_dir)) == ["checkpoint-2", "checkpoint-10"]


def test_a_changed_byte_is_found(output_dir):
    file = output_dir / "checkpoint-10" / OPTIMIZER
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert last_good(output_dir).name == "checkpoint-9"
    with pytest.raises(CheckpointError, match="checkpoint-10 is damaged: .*optimizer.*was changed after it was writ"):
        find_resume(output_dir, str(output_dir / "checkpoint-10"), False)


def test_zeros_in_the_place_of_what_never_reached_the_disk_are_found(output_dir):
    """The right size with wrong content: what some file systems leave after a power failure."""
    file = output_dir / "checkpoint-10" / OPTIMIZER
    file.write_bytes(bytes(file.stat().st_size))
    assert last_good(output_dir).name == "checkpoint-9"


def test_what_was_being_written_is_named_and_what_was_being_replaced_comes_back(output_dir, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    (output_dir / "checkpoint-10").rename(output_dir / ".unfinished-old-checkpoint-10")
    shutil.copytree(output_dir / "checkpoint-9", output_dir / ".unfinished-checkpoint-11")  # killed before its rename
    assert find_resume(output_dir, None, False).name == "checkpoint-10"
    assert {record.getMessage() for record in caplog.records} == {
        f"passing over {output_dir / 'checkpoint-11'}: the run was killed while it was written"
    }
    remove_unfinished(output_dir)
    assert sorted(names(output_dir.iterdir())) == ["checkpoint-10", "checkpoint-2", "checkpoint-9"]


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_best_checkpoint_that_is_gone_or_damaged_is_no_result(output_dir, harm):
    best = output_dir / "checkpoint-9"
    assert require_best(best) == best
    shutil.rmtree(best) if harm == "gone" else (best / "weights").write_bytes(bytes(9) + b"x")
    with pytest.raises(CheckpointError, match="the best checkpoint so far, .*checkpoint-9, is gone or damaged"):
        require_best(best)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_names_the_last_good_checkpoint_and_leaves_it(tmp_path, earlier):
    if earlier:
        save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(
            CheckpointError, match="the last good checkpoint is .*checkpoint-1.*Free" if earlier else "no earlier"
        ):
            save(tmp_path, 2, Weights(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path.iterdir()) == (["checkpoint-1"] if earlier else [])
    assert (last_good(tmp_path) is not None) == earlier


def test_an_empty_or_missing_folder_is_a_fresh_start(tmp_path):
    assert find_resume(tmp_path, None, False) is None
    assert find_resume(tmp_path / "nowhere", None, False) is None
    (tmp_path / ".hidden").write_text("")
    assert find_resume(tmp_path, None, False) is None


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(tmp_path):
    for name in ("plan.json", "arguments.json"):
        (tmp_path / name).write_text("{}")
    assert find_resume(tmp_path, None, False) is None


def test_the_same_command_goes_on_where_it_stopped(output_dir):
    assert find_resume(output_dir, None, False).name == "checkpoint-10"
    assert find_resume(output_dir, True, False).name == "checkpoint-10"
    assert find_resume(output_dir, True, True).name == "checkpoint-10"  # asked for by name, so nothing is thrown away


def test_overwriting_starts_afresh(output_dir):
    (output_dir / "notes.txt").write_text("mine")
    assert find_resume(output_dir, None, True) is None
    assert names(output_dir.iterdir()) == ["notes.txt"]


def test_a_checkpoint_may_be_named(output_dir):
    assert find_resume(output_dir / "elsewhere", str(output_dir / "checkpoint-2"), False).name == "checkpoint-2"


def test_a_named_folder_that_is_no_checkpoint_or_damaged_is_refused(output_dir):
    with pytest.raises(CheckpointError, match=f"no checkpoint of this suite .it has no {RUN_STATE}"):
        find_resume(output_dir, str(output_dir), False)
    (output_dir / "checkpoint-9" / "weights").unlink()
    with pytest.raises(CheckpointError, match="checkpoint-9 is damaged: .*weights is missing.*another checkpoint"):
        require_good(output_dir / "checkpoint-9")


def test_asking_to_resume_where_there_is_nothing_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="resume_from_checkpoint is true and .* has no good checkpoint"):
        find_resume(tmp_path, True, False)


def test_a_folder_with_something_else_is_not_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty .thesis.tex. .*overwrite_output_dir"):
        find_resume(tmp_path, None, False)


def test_a_folder_with_damaged_checkpoints_only_is_no_fresh_start(output_dir):
    for path in list_checkpoints(output_dir):
        (path / "weights").unlink()
    with pytest.raises(CheckpointError, match="not empty"):
        find_resume(output_dir, None, False)
