"""Calling the suite as a user does: in a process of its own, or in this one, which spares seconds of imports."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

from paddle_sft.cli.entry import run

ROOT = Path(__file__).parents[2]
TRAIN, MERGE, GENERATE = "paddle_sft.cli.finetune", "paddle_sft.cli.merge", "paddle_sft.cli.generate"
GATED_RUN = Path(__file__).with_name("gated_run.py")
TIME_LIMIT = 240.0
"""Seconds any process here may take: far more than it needs, so that only a hang is caught."""


class Outcome(NamedTuple):
    """What a command left in the terminal."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Outcome:
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self

    def refused(self, *phrases: str) -> Outcome:
        """Assert that it ended as a user's mistake does: exit code 2, one message with these phrases, no traceback."""
        assert "Traceback" not in self.err, self.err
        assert self.code == 2, self.err or self.out
        assert "error: " in self.err
        missing = [phrase for phrase in phrases if phrase not in self.err]
        assert not missing, f"{missing} not in: {self.err}"
        return self


def here(module: str, *words: Any) -> Outcome:
    """Run a command in this process, as run_finetune.py and the others call it."""
    out, err = io.StringIO(), io.StringIO()
    with _new_logger(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(module, [str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _new_logger() -> Iterator[None]:
    """The suite's logger as a new process finds it (its handler keeps its first stream); afterwards as it was."""
    logger = logging.getLogger("paddle_sft")
    before = list(logger.handlers), logger.level, logger.propagate
    logger.handlers.clear()
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])


def start(
    *words: Any, folder: Path = ROOT, changes: Optional[Dict[str, str]] = None, **options: Any
) -> subprocess.Popen:
    """Start `python WORDS` in `folder` as a user's shell would."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PADDLE_", "CUDA_VISIBLE"))}
    environment.update({"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    environment.update(changes or {})
    command = [sys.executable, *(str(word) for word in words)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes, **options)


def finish(job: subprocess.Popen) -> Outcome:
    """Wait for a process, but not forever."""
    try:
        out, err = job.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        job.kill()
        out, err = job.communicate()
        raise AssertionError(f"still running after {TIME_LIMIT} s; it said: {out[-2000:]} {err[-2000:]}") from None
    return Outcome(job.returncode, out, err)


def process(*words: Any, **options: Any) -> Outcome:
    """Run `python WORDS` to its end."""
    return finish(start(*words, **options))


def free_port() -> int:
    """Of those that no connection takes by itself before a server does (Linux: from 32768)."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port


def wait_until(happened: Callable[[], bool], job: subprocess.Popen) -> None:
    """Look every few milliseconds until it happened; fail when the process ends first, or never gets there."""
    limit = time.monotonic() + TIME_LIMIT
    while not happened():
        assert job.poll() is None, f"the process ended first: {job.communicate()[1][-2000:]}"
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.002)


class Lab(NamedTuple):
    """A tiny base model and data, and argument files over them."""

    model: Path
    data: Path

    def settings(self, **changes: Any) -> Dict[str, Any]:
        """A LoRA run of 4 steps; a change to None removes a key."""
        content = {
            "model_name_or_path": str(self.model),
            "dataset_name_or_path": str(self.data),
            "do_train": True,
            "device": "cpu",
            "lora": True,
            "max_steps": 4,
            "save_steps": 2,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "src_length": 32,
            "max_length": 64,
            "disable_tqdm": True,
            **changes,
        }
        return {key: value for key, value in content.items() if value is not None}

    def write(self, output_dir: Path, **changes: Any) -> Path:
        """The argument file of a run into `output_dir`, beside it."""
        path = output_dir.parent / f"{output_dir.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = self.settings(output_dir=str(output_dir), **changes)
        path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        return path

    def train(self, output_dir: Path, **changes: Any) -> Outcome:
        """Run it in this process, and see it succeed."""
        return here(TRAIN, self.write(output_dir, **changes)).succeeded()


# ---- what a run left behind --------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def snapshot(folder: Path) -> Dict[str, bytes]:
    """Every file of a folder, byte by byte."""
    folder = Path(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def without_times(content: Any) -> Any:
    """The same JSON without what a clock decides."""
    if isinstance(content, list):
        return [without_times(item) for item in content]
    if not isinstance(content, dict):
        return content
    return {key: without_times(value) for key, value in content.items() if not _is_time(key)}


def _is_time(key: str) -> bool:
    return key == "seconds" or key.endswith(("runtime", "per_second"))


def differences(one: Path, other: Path) -> List[str]:
    """Names of files that two output folders don't share byte for byte; in JSON, times may differ.

    Left out is what follows from times: manifests (checksums of files with times in them) and the loggers' folders.
    """
    found = []
    left, right = snapshot(one), snapshot(other)
    for name in sorted({*left, *right}):
        if name.endswith("manifest.json") or name.startswith("runs/"):
            continue
        if name not in left or name not in right:
            found.append(f"{name} is only in one")
        elif name.endswith(".json"):
            if without_times(json.loads(left[name])) != without_times(json.loads(right[name])):
                found.append(name)
        elif left[name] != right[name]:
            found.append(name)
    return found


def checkpoints(output_dir: Path) -> List[int]:
    return sorted(int(path.name.split("-")[1]) for path in Path(output_dir).glob("checkpoint-*"))


def rewind(whole: Path, output_dir: Path, step: int) -> Path:
    """Make `output_dir` what `whole` was right after the checkpoint of `step` was saved."""
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir.mkdir()
    for name in ("plan.json", "arguments.json"):
        shutil.copy(whole / name, output_dir / name)
    for saved in checkpoints(whole):
        if saved <= step:
            shutil.copytree(whole / f"checkpoint-{saved}", output_dir / f"checkpoint-{saved}")
    return output_dir


def losses(output_dir: Path, name: str = "loss") -> List[float]:
    history = read_json(output_dir / "trainer_state.json")["log_history"]
    return [entry[name] for entry in history if name in entry]
