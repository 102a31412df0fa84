from __future__ import annotations

import errno
import threading

import numpy as np
import paddle
import pytest

from paddle_sft.core.atomic import damage
from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.later import is_later, perform, written_later
from paddle_sft.core.log import get_logger
from paddle_sft.core.tensorfile import TensorFile, TensorSpec, write_tensors
from paddle_sft.models.hub import load_model, stored
from paddle_sft.models.writer import write_model
from paddle_sft.train.checkpoint import Progress, RunState, last_good, list_checkpoints
from paddle_sft.train.saver import Saver
from paddle_sft.train.team import Team
from tests import tiny

STATE = RunState({"seed": 1}, {"last_epoch": 1})
SECONDS = 60
"""Far more than anything here takes."""


class Weights:
    """Two tensors in a file; `gate` holds up who writes them, `failure` is raised in its place."""

    def __init__(self):
        self.tensor = paddle.arange(6, dtype="float32").reshape([2, 3])
        self.gate = threading.Event()
        self.gate.set()
        self.failure = None

    def write(self, folder, specs=(), produce=None):
        spec = TensorSpec("w", "F32", (2, 3))
        write_tensors(folder / "weights", [spec], lambda _: stored(self.tensor), checksums=True)
        perform(self._pass)

    def _pass(self):
        assert self.gate.wait(SECONDS)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def weights():
    found = Weights()
    yield found
    found.gate.set()


def saver_in(folder, is_async=True, limit=None):
    return Saver(folder, limit, is_async, Team())


def save(saver, weights, step, **progress):
    slots = {"w/moment1_0": paddle.full([2, 3], float(step))}
    saver.save(weights, slots, STATE, Progress(step, **progress))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stored_tensor_is_a_copy():
    """What is taken to memory must not change when the optimizer changes the weights in place."""
    tensor = paddle.zeros([3])
    array = stored(tensor)
    tensor.add_(paddle.ones([3]))
    np.testing.assert_array_equal(array, np.zeros(3))


def test_both_ways_write_the_same_bytes(tmp_path, weights):
    for name, is_async in (("sync", False), ("async", True)):
        saver = saver_in(tmp_path / name, is_async)
        save(saver, weights, 3, loss_sum=0.1)
        saver.finish()
    assert contents(tmp_path / "sync") == contents(tmp_path / "async")
    assert damage(tmp_path / "async" / "checkpoint-3") == []


def test_what_is_written_is_what_was_when_it_was_saved(tmp_path, weights):
    saver, progress = saver_in(tmp_path), Progress(1, log_history=[{"loss": 1.0}])
    slots = {"w/moment1_0": paddle.zeros([2, 3])}
    weights.gate.clear()
    saver.save(weights, slots, STATE, progress)
    weights.tensor.add_(paddle.ones([2, 3]))
    slots["w/moment1_0"].add_(paddle.ones([2, 3]))
    progress.global_step = 2
    progress.log_history.append({"loss": 2.0})
    assert list_checkpoints(tmp_path) == []  # no name before all is there
    assert not is_later()
    weights.gate.set()
    saver.finish()
    folder = tmp_path / "checkpoint-1"
    np.testing.assert_array_equal(TensorFile(folder / "weights").read("w"), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(TensorFile(folder / "optimizer.safetensors").read("w/moment1_0"), np.zeros((2, 3)))
    text = (folder / "trainer_state.json").read_text()
    assert '"global_step": 1' in text and "2.0" not in text


def test_the_next_save_waits_for_the_one_before(tmp_path, weights):
    saver = saver_in(tmp_path)
    weights.gate.clear()
    save(saver, weights, 1)
    second = threading.Thread(target=save, args=(saver, weights, 2))
    second.start()
    second.join(0.2)
    assert second.is_alive() and list_checkpoints(tmp_path) == []
    weights.gate.set()
    second.join(SECONDS)
    saver.finish()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("call", ["check", "finish", "save"])
def test_an_error_of_the_writer_stops_the_run_in_the_words_of_a_synchronous_save(tmp_path, weights, call):
    sync, saver = saver_in(tmp_path, is_async=False), saver_in(tmp_path)
    save(sync, weights, 1)
    weights.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CheckpointError) as expected:
        save(sync, weights, 2)
    save(saver, weights, 2)
    saver._writer.join(SECONDS)
    with pytest.raises(CheckpointError) as caught:
        save(saver, weights, 3) if call == "save" else getattr(saver, call)()
    assert str(caught.value) == str(expected.value)
    assert "the last good checkpoint is" in str(caught.value) and "checkpoint-1" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    saver.check()  # it is said once


def test_while_the_writer_works_a_check_does_not_wait(tmp_path, weights):
    saver = saver_in(tmp_path)
    saver.check()
    weights.gate.clear()
    save(saver, weights, 1)
    saver.check()
    assert list_checkpoints(tmp_path) == []
    weights.gate.set()
    saver.finish()
    assert last_good(tmp_path).name == "checkpoint-1"


def test_old_ones_go_only_when_the_new_one_is_there(tmp_path, weights):
    saver = saver_in(tmp_path, limit=1)
    save(saver, weights, 1)
    saver.finish()
    weights.gate.clear()
    save(saver, weights, 2)
    assert last_good(tmp_path).name == "checkpoint-1"
    weights.gate.set()
    saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    weights.failure = OSError(errno.ENOSPC, "No space left on device")
    save(saver, weights, 3)
    with pytest.raises(CheckpointError):
        saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_run_that_breaks_off_waits_for_the_writer_and_logs_what_it_met(tmp_path, weights, caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    saver = saver_in(tmp_path)
    save(saver, weights, 1)
    saver.close()
    assert last_good(tmp_path).name == "checkpoint-1" and not caplog.records
    weights.failure = OSError(errno.ENOSPC, "No space left on device")
    save(saver, weights, 2)
    saver.close()
    assert "can't save" in caplog.text
    saver.close()


def test_shards_and_their_index_are_the_same_when_written_later(tmp_path):
    model = load_model(tiny.make_model(tmp_path / "model"), "float32").model
    now, later = tmp_path / "now", tmp_path / "later"
    for folder in (now, later):
        folder.mkdir()
    write_model(now, model, "paddle", "40KB")
    with written_later() as actions:
        write_model(later, model, "paddle", "40KB")
    for action in actions:
        action()
    assert (now / "model.safetensors.index.json").is_file() and len(contents(now)) > 4
    assert contents(now) == contents(later)
