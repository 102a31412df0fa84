"""One rank of several: runs argument files one after the other, as `run_finetune.py FILE` would."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from paddle.distributed.fleet.base import topology

from paddle_sft.cli.entry import leave, run
from paddle_sft.core.log import rank

SECONDS = 120


def rewind(source: Path, target: Path) -> None:
    """Make `target` what `source` was after its second step; the first rank does, the others wait."""
    if rank() == 0:
        beside = target.with_name(target.name + ".beside")
        shutil.copytree(source / "checkpoint-2", beside / "checkpoint-2")
        shutil.copy(source / "plan.json", beside / "plan.json")
        os.rename(beside, target)
    limit = time.monotonic() + SECONDS
    while not target.is_dir():
        assert time.monotonic() < limit, f"{target} never came"
        time.sleep(0.01)


def main(jobs: str) -> int:
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        topology._HYBRID_PARALLEL_GROUP = None  # fleet starts once a process; here every run has a layout of its own
        if "_rewind" in job:
            rewind(*map(Path, job["_rewind"]))
        if "_machines" in job:  # each rank works in a folder of its own: one command, and a disk a rank
            os.chdir(Path(job["_machines"]) / str(rank()))
        begin = time.time()
        code = run("paddle_sft.cli.finetune", [job["file"]])
        print(f"ran {Path(job['file']).stem}: {code} in {time.time() - begin:.1f} s", flush=True)
        if code != job.get("_code", 0):
            return code or 1
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1]))
