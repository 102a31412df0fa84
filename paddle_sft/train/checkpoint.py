"""Checkpoints: one folder each, there whole or not at all, with all that a run needs to go on bit for bit."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from paddle_sft.core.atomic import (
    atomic_folder,
    bring_back_all,
    damage,
    quick_damage,
    unfinished,
    unfinished_name,
    write_json,
)
from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.later import Action, written_later
from paddle_sft.core.log import get_logger
from paddle_sft.core.tensorfile import TensorFile

OPTIMIZER = "optimizer.safetensors"
RUN_STATE = "run_state.json"
TRAINER_STATE = "trainer_state.json"
_STARTED = {"plan.json", "arguments.json", "spectrum.json", "runs", "profile.txt", "profile.json"}
"""What a run writes before its first checkpoint: a folder with no more than this has nothing to lose."""
_WRITING = ".writing-results"
"""Is there while a run writes its results: what else is there then is its own, and may be written anew."""
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass
class Progress:
    """What a run has done so far, beside its weights. Floats survive JSON exactly (shortest round-trip form)."""

    global_step: int = 0
    loss_sum: float = 0.0
    """Loss over all trained tokens so far."""
    num_trained: int = 0
    interval_loss_sum: float = 0.0
    interval_num_trained: int = 0
    num_input_tokens_seen: int = 0
    seconds: float = 0.0
    log_history: List[Dict[str, float]] = field(default_factory=list)
    best_metric: Optional[float] = None
    best_checkpoint: Optional[str] = None
    """Folder name of the best checkpoint inside output_dir."""
    tokens_by_source: Dict[str, int] = field(default_factory=dict)
    """Tokens that each named source gave."""
    skipped_steps: int = 0
    """Steps that were not applied, because a number in them was not finite."""
    skipped_in_a_row: int = 0
    """Of them the last ones, up to now."""


@dataclass(frozen=True)
class RunState:
    """What run_state.json holds: where the run is, beside its weights and its progress."""

    run: Dict[str, Any]
    """What must be the same on resume."""
    schedule: Dict[str, Any]
    """The learning rate's."""
    feed: Dict[str, Any] = field(default_factory=dict)
    """The place in data that is read while training."""


def save_checkpoint(folder: Path, weights: Any, optimizer: Any, state: RunState, progress: Progress) -> None:
    """Write a checkpoint folder.

    Args:
        weights: its `write(folder)` writes what is trained.
        optimizer: its `write(path)` writes the state of the optimizer.

    Raises:
        CheckpointError: the disk is full or the folder can't be written; older checkpoints are untouched.
    """
    with _naming_the_last_good(folder), atomic_folder(folder) as beside:
        _write_all(beside, weights, optimizer, state, progress)


def take_checkpoint(folder: Path, weights: Any, optimizer: Any, state: RunState, progress: Progress) -> Action:
    """Copy all that belongs into a checkpoint folder to memory; the action that is returned writes it.

    Both raise what `save_checkpoint` does. Memory: one checkpoint, until it is written.
    """
    with _naming_the_last_good(folder), contextlib.ExitStack() as stack:
        beside = stack.enter_context(atomic_folder(folder))
        with written_later() as actions:
            _write_all(beside, weights, optimizer, state, progress)
        kept = stack.pop_all()

    def write() -> None:
        with _naming_the_last_good(folder), kept:
            while actions:
                actions.pop(0)()  # and what it kept in memory goes

    return write


def _write_all(place: Path, weights: Any, optimizer: Any, state: RunState, progress: Progress) -> None:
    weights.write(place)
    optimizer.write(place / OPTIMIZER)
    write_json(place / RUN_STATE, asdict(state))
    write_json(place / TRAINER_STATE, asdict(progress))


@contextlib.contextmanager
def _naming_the_last_good(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        good = last_good(folder.parent)
        rest = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
        again = "it goes on from there" if good else "it starts from the beginning"
        raise CheckpointError(
            f"can't save {folder}: {error.strerror}; {rest}. Free space (or choose another output_dir) and run the "
            f"same command again: {again}"
        ) from error


def list_checkpoints(output_dir: Path) -> List[Path]:
    """checkpoint-N folders, oldest step first."""
    found = [(int(match.group(1)), path) for path in Path(output_dir).glob("checkpoint-*")
             if (match := _NAME.fullmatch(path.name)) and path.is_dir()]  # fmt: skip
    return [path for _, path in sorted(found)]


def _number(checkpoint: Path) -> int:
    """N of checkpoint-N."""
    return int(checkpoint.name.rpartition("-")[2])


def step_of(folder: Path) -> int:
    """The step after which a good checkpoint was saved, whatever its folder is called."""
    return int(json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))["global_step"])


def last_good(output_dir: Path) -> Optional[Path]:
    """The newest checkpoint that is whole; damaged newer ones are named in a warning and left alone."""
    for path in reversed(list_checkpoints(output_dir)):
        problems = damage(path)
        if not problems:
            return path
        get_logger().warning("passing over the damaged checkpoint %s: %s", path, "; ".join(problems[:3]))
    return None


def name_unfinished(output_dir: Path) -> None:
    """Bring back what was being replaced when a run was killed, and name what was being written: nobody reads it, and
    `remove_unfinished` takes it away."""
    bring_back_all(output_dir)
    for path in unfinished(output_dir):
        get_logger().warning("passing over %s: the run was killed while it was written", unfinished_name(path))


def remove_unfinished(output_dir: Path) -> None:
    """Remove what killed runs left half written. Call it before anything is written."""
    for path in unfinished(output_dir):
        shutil.rmtree(path, ignore_errors=True)


def require_good(folder: Path) -> Path:
    """The checkpoint a user named.

    Raises:
        CheckpointError: it is no checkpoint or it is damaged.
    """
    folder = Path(folder)
    if not (folder / RUN_STATE).is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint of this suite (it has no {RUN_STATE}); name a checkpoint-N folder"
        )
    problems = damage(folder)
    if problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems[:3])}; resume from another checkpoint")
    return folder


def read_progress(folder: Path, run: Dict[str, Any]) -> Tuple[Progress, RunState]:
    """Where a checkpoint stands, if it is one of `run`.

    Raises:
        CheckpointError: the data, the batch or what is trained changed since: going on would be another run.
    """
    saved = RunState(**json.loads((Path(folder) / RUN_STATE).read_text(encoding="utf-8")))
    changed = [
        f"{key} was {saved.run.get(key)!r}, now {run.get(key)!r}"
        for key in dict.fromkeys([*run, *saved.run])  # what is gone, a quantised base say, is another run too
        if saved.run.get(key) != run.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{folder} belongs to another run ({'; '.join(changed)}); restore them, or start "
            "afresh with another output_dir or overwrite_output_dir true"
        )
    progress = Progress(**json.loads((Path(folder) / TRAINER_STATE).read_text(encoding="utf-8")))
    return progress, saved


def optimizer_file(folder: Path) -> TensorFile:
    return TensorFile(Path(folder) / OPTIMIZER)


def remove_old(newest: Path, limit: Optional[int], best: Optional[str]) -> None:
    """Keep the checkpoint that was just written, `limit` - 1 whole ones before it, and the best one.

    Damaged ones don't count, and go. Those of later steps stay: they are from before the run was taken back to an
    earlier one, and it will come there again. `newest` itself may be on another machine's disk.
    """
    if not limit or limit < 1:
        return
    num_kept = 1
    for path in reversed([path for path in list_checkpoints(newest.parent) if _number(path) < _number(newest)]):
        problems = quick_damage(path)
        if not problems and num_kept < limit:
            num_kept += 1
        elif path.name != best:
            if problems:
                get_logger().warning("removing the damaged checkpoint %s: %s", path, "; ".join(problems[:3]))
            shutil.rmtree(path)


def require_best(folder: Path) -> Path:
    """The best checkpoint so far, which will be the result.

    Raises:
        CheckpointError: it is gone or damaged.
    """
    problems = damage(folder)
    if problems:
        raise CheckpointError(
            f"the best checkpoint so far, {folder}, is gone or damaged ({'; '.join(problems[:3])}); bring it back, or "
            "take the last weights as the result: set load_best_model_at_end to false and run the same command again"
        )
    return folder


_REPORTS = ("all_results.json", "train_results.json", "eval_results.json", "predictions.json", "loss.png")


def remove_reports(output_dir: Path) -> None:
    """Remove what an earlier run wrote about itself, so that nothing there speaks of another run. Weights stay: the
    folder may be where the base model lives."""
    for name in _REPORTS:
        if (Path(output_dir) / name).is_file():
            (Path(output_dir) / name).unlink()


@contextlib.contextmanager
def writing_results(output_dir: Path, leads: bool) -> Iterator[None]:
    """Around what a run writes at the top of output_dir: killed in there, a run without a checkpoint begins again.

    Args:
        leads: whether this rank writes.
    """
    if leads:
        (Path(output_dir) / _WRITING).touch()
    yield
    if leads:
        (Path(output_dir) / _WRITING).unlink()


def find_resume(output_dir: Path, asked: Any, overwrite: bool) -> Optional[Path]:
    """Where a run starts from.

    Args:
        asked: resume_from_checkpoint: a folder, true, or None. With None the last checkpoint in output_dir is taken
            too: the same command goes on where it stopped.

    Raises:
        CheckpointError: output_dir holds something else than a run, or there is nothing to resume.
    """
    if isinstance(asked, str):
        return require_good(Path(asked))
    output_dir = Path(output_dir)
    name_unfinished(output_dir)
    if overwrite and not asked:
        for path in list_checkpoints(output_dir):
            shutil.rmtree(path)
        return None
    good = last_good(output_dir)
    if good is not None:
        return good
    if asked:
        raise CheckpointError(
            f"resume_from_checkpoint is true and {output_dir} has no good checkpoint; leave it out to start afresh"
        )
    if (output_dir / _WRITING).is_file():
        return None
    names = {path.name for path in output_dir.iterdir()} if output_dir.is_dir() else set()
    leftovers = sorted(name for name in names - _STARTED if not name.startswith("."))
    if leftovers:
        raise CheckpointError(
            f"output_dir {output_dir} is not empty ({', '.join(leftovers[:5])}) and has no checkpoint to resume from; "
            "name another folder, or set overwrite_output_dir to true"
        )
    return None
