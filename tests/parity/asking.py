"""The door to the reference environment: a worker process that is asked for what transformers and PEFT compute."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

VARIABLE = "PADDLE_SFT_REFERENCE_PYTHON"
MISSING = (
    f"{VARIABLE} is not set: the parity tests compare with Hugging Face transformers and PEFT, which live in an "
    "environment of their own. Run `make parity`, which builds it, or set the variable to the Python of an environment "
    "with torch, transformers>=5, peft, sentencepiece and protobuf"
)
_WORKER = Path(__file__).parent / "reference" / "worker.py"
_SETTINGS = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # they would show it this environment's packages


class ReferenceFailed(AssertionError):
    """The reference could not answer."""


class Reference:
    """A worker process, started at once and asked later, so that it imports torch while the tests import paddle."""

    def __init__(self, python: str, log: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        self._log = log
        self._process = subprocess.Popen(
            [python, str(_WORKER)],
            env={**environment, **_SETTINGS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def ask(self, job: str, **arguments: Any) -> Any:
        """The answer of a job (reference/worker.py lists them); paths are sent as text.

        Raises:
            ReferenceFailed: with the worker's traceback.
        """
        try:
            self._process.stdin.write(json.dumps({"job": job, "arguments": arguments}, default=str) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended before: the empty answer below says why
        line = self._process.stdout.readline()
        if not line:
            raise ReferenceFailed(f"the reference process ended:\n{self._log.read_text()[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise ReferenceFailed(f"{job} failed in the reference environment:\n{answer['error']}")
        return answer["answer"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
