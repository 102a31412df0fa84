"""How a process ends."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from paddle_sft.cli.entry import CPU_BACKEND

PROGRAM = """
import atexit, os, sys
from paddle_sft.cli.entry import leave
{before}
atexit.register(lambda: os.write(1, b"taken down"))
print("done ", end="")
leave(3)
"""


def test_the_cpu_back_end_is_a_module():
    assert find_spec(CPU_BACKEND) is not None


@pytest.mark.parametrize(
    "before, said", [("", "done taken down"), (f"sys.modules[{CPU_BACKEND!r}] = sys", "done ")], ids=["alone", "rank"]
)
def test_only_a_rank_on_a_cpu_ends_without_taking_its_groups_down(before, said):
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(before=before)], capture_output=True, text=True)
    assert (ended.returncode, sorted(ended.stdout.split())) == (3, sorted(said.split())), ended.stderr
