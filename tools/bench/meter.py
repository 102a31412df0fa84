"""What every contestant measures, in the same way, and how it hands its numbers over."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Dict, List

import numpy as np


class Meter:
    """Time and tokens of a run's optimizer steps. The first warms up: it counts as time to the first step alone."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._tokens: List[int] = []
        self._ends: List[float] = []

    def step_done(self, tokens: int) -> None:
        """An optimizer step over so many real tokens is applied; padding is not counted."""
        self._tokens.append(tokens)
        self._ends.append(time.time())

    def numbers(self) -> Dict[str, float]:
        """tokens_per_second of all steps but the first, seconds_to_first_step since the process began, peak_mib."""
        seconds = self._ends[-1] - self._ends[0]
        return {
            "tokens_per_second": sum(self._tokens[1:]) / max(seconds, 1e-9),
            "seconds_to_first_step": self._ends[0] - self._began,
            "steps": len(self._ends),
            "tokens": sum(self._tokens),
            "peak_mib": peak_mib(),
        }


def peak_mib() -> float:
    """The most memory that this process ever held (VmHWM: it starts anew with the program, unlike ru_maxrss)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not tell a process's peak memory (it has no VmHWM in /proc/self/status)")


def read_options() -> argparse.Namespace:
    """--work FOLDER --output FILE --began SECONDS, and the contestant's own words."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="folder of the reference set")
    parser.add_argument("--output", type=Path, required=True, help="file for the numbers")
    parser.add_argument("--began", type=float, required=True, help="when the process was started, in seconds")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8, help="samples of a padded batch")
    options = parser.parse_args()
    options.sizes = json.loads((options.work / "sizes.json").read_text(encoding="utf-8"))
    samples = json.loads((options.work / "samples.json").read_text(encoding="utf-8"))
    options.train, options.held_out = samples[: options.sizes["samples"]], samples[options.sizes["samples"] :]
    options.lora = np.load(options.work / "lora.npz")
    return options


LEARNING_RATE = 1e-3
"""Constant, so that contestants with a step more or less are alike."""


def labels_of(sample: Dict[str, Any]) -> List[int]:
    """The ids where a token is trained, -100 elsewhere; not shifted."""
    first = sample["first_trained"]
    return [-100] * first + sample["ids"][first:]


def mean_loss(samples: List[Dict[str, Any]], logits_of: Any) -> float:
    """Loss a trained token, sample by sample; `logits_of(ids)` gives those of the next tokens, [T, V] float32."""
    total, tokens = 0.0, 0
    for sample in samples:
        ids, first = np.asarray(sample["ids"]), sample["first_trained"]
        scores = logits_of(ids)[first - 1 : len(ids) - 1].astype(np.float64)
        largest = scores.max(axis=1)
        sums = np.log(np.exp(scores - largest[:, None]).sum(axis=1)) + largest
        total += float((sums - scores[np.arange(len(scores)), ids[first:]]).sum())
        tokens += len(scores)
    return total / tokens


def hand_over(options: argparse.Namespace, numbers: Dict[str, Any]) -> None:
    """Write the numbers where the caller waits for them."""
    options.output.write_text(json.dumps(numbers), encoding="utf-8")
