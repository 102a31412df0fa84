"""Runs of one argument file at many layouts, each compared with one process. One launch of ranks takes many runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np

from paddle_sft.core.tensorfile import TensorFile
from tests import tiny
from tests.e2e.commands import TRAIN, here
from tests.parallel.many_ranks import rewind

SCRIPT = Path(__file__).with_name("many_ranks.py")
STEPS = 3
RUNS = 32
TOLERANCE = 1e-5

_TP, _PP, _SP = {"tensor_parallel_degree": 2}, {"pipeline_parallel_degree": 2}, {"sequence_parallel": True}
_S1 = {"sharding": "stage1"}
_VPP = {**_PP, "virtual_pp_degree": 2}
TWO: Dict[str, Dict[str, Any]] = {
    "tp2": _TP, "pp2": _PP, "dp2": {},
    "stage1": _S1, "stage2": {"sharding": "stage2"}, "stage3": {"sharding": "stage3"},
    "stage3-offload": {"sharding": "stage3 offload"},
    "sp2": {**_TP, **_SP}, "sep2": {"sep_parallel_degree": 2}, "vpp2": _VPP,
}  # fmt: skip
FOUR: Dict[str, Dict[str, Any]] = {
    "tp2-pp2": {**_TP, **_PP}, "tp2-stage1": {**_TP, **_S1}, "pp2-stage1": {**_PP, **_S1},
    "tp2-pp2-sp": {**_TP, **_PP, **_SP}, "tp2-vpp2-sp": {**_TP, **_VPP, **_SP}, "vpp2-stage1": {**_VPP, **_S1},
}  # fmt: skip
KINDS: Dict[str, Dict[str, Any]] = {"full": {}, "lora": {"lora": True, "lora_rank": 4}}
OF_WHOLE_MODELS: Dict[str, Dict[str, Any]] = {
    "nf4": {**KINDS["lora"], "weight_quantize_algo": "nf4", "weight_double_quant": True},
    "vera": {"adapter": "vera", "vera_rank": 4},
}
"""What goes only where every rank has the whole model."""


def batch_of(layout: Dict[str, Any], ranks: int) -> Dict[str, int]:
    """Rows and accumulation that make a step of 4 rows, cut as small as the layout's schedule wants it."""
    shared = 1
    for key in ("tensor_parallel_degree", "pipeline_parallel_degree", "sep_parallel_degree"):
        shared *= layout.get(key, 1)
    rows_of_rank = 4 // (ranks // shared)
    if "pipeline_parallel_degree" in layout:
        return {"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows_of_rank}
    return {"per_device_train_batch_size": rows_of_rank}


class Lab(NamedTuple):
    """A base model, data, and the folder where runs are."""

    model: Path
    data: Path
    runs: Path

    def output(self, name: str) -> Path:
        return self.runs / name

    def job(self, name: str, layout: Dict[str, Any], ranks: int, kind: str, **changes: Any) -> Dict[str, Any]:
        """The run called `name`, its argument file written. Keys that begin with _ are for many_ranks.py.

        epsilon is far above rounding: AdamW turns gradients of 1e-9 and of -1e-9 into steps of full size, both ways.
        """
        content = {
            "model_name_or_path": str(self.model), "dataset_name_or_path": str(self.data), "do_train": True,
            "device": "cpu", "max_steps": STEPS, "save_steps": 2, "logging_steps": 1, "learning_rate": 0.001,
            "adam_epsilon": 1e-5, "max_grad_norm": 0.5, "weight_decay": 0.1, "src_length": 32, "max_length": 48,
            "disable_tqdm": True, "packing": "best_fit", "evaluation_strategy": "steps", "eval_steps": 2,
            "output_dir": str(self.output(name)),
            **layout, **batch_of(layout, ranks), **{**KINDS, **OF_WHOLE_MODELS}[kind],
            **{key: value for key, value in changes.items() if not key.startswith("_")},
        }  # fmt: skip
        file = self.runs / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
        return {"file": str(file), **{key: value for key, value in changes.items() if key.startswith("_")}}

    def resumed(self, name: str, source: str, layout: Dict[str, Any], ranks: int, kind: str) -> Dict[str, Any]:
        """A run that goes on from the second step of another."""
        copy = [str(self.output(source)), str(self.output(name))]
        return self.job(name, layout, ranks, kind, _rewind=copy)


def make_lab(folder: Path, family: str = "llama", **changes: Any) -> Lab:
    """With 4 layers, so that two stages have two each."""
    model = tiny.make_model(folder / "model", family, **{"num_hidden_layers": 4, **changes})
    return Lab(model, tiny.make_data(folder / "data", num_train=40), folder / "runs")


def alone(job: Dict[str, Any]) -> None:
    """Run a job in this process."""
    if "_rewind" in job:
        rewind(*map(Path, job["_rewind"]))
    here(TRAIN, job["file"]).succeeded()


def launch(jobs: Sequence[Dict[str, Any]], ranks: int, folder: Path, seconds: int = 900) -> str:
    """Run the jobs one after the other in as many ranks; returns what the ranks said. Every one ends well.

    No launch gets more than RUNS / ranks: a run leaves its groups behind, of which each has threads that wake up a
    hundred times a second (after 105 runs of 2 ranks: 1,230 threads and 6,050 open files a rank).
    """
    said, most = [], RUNS // ranks
    for number, begin in enumerate(range(0, len(jobs), most)):
        place = folder.with_name(f"{folder.name}-part-{number}") if number else folder
        said.append(_launch(jobs[begin : begin + most], ranks, place, seconds))
    return "\n".join(said)


def _launch(jobs: Sequence[Dict[str, Any]], ranks: int, folder: Path, seconds: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(list(jobs)), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PADDLE_", "CUDA_VISIBLE"))}
    environment["OMP_NUM_THREADS"] = "1"
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(folder)]
    command = [sys.executable, *launcher, str(SCRIPT), str(folder / "jobs.json")]
    done = subprocess.run(command, env=environment, cwd=folder, timeout=seconds, capture_output=True, text=True)
    logs = {file.name: file.read_text(encoding="utf-8", errors="replace") for file in folder.glob("workerlog.*")}
    said = "\n".join(f"{name}:\n{log[-4000:]}" for name, log in sorted(logs.items()))
    failed = [line for line in done.stderr.splitlines() if " status failed " in line]
    assert done.returncode == 0, "\n".join([said, f"the launcher ended with {done.returncode}", *failed])
    return said


def losses(output: Path, name: str = "loss") -> List[float]:
    history = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry[name] for entry in history if name in entry]


def distances(one: Path, other: Path) -> Dict[str, float]:
    """How far two runs are apart: losses, evaluation, weights, and the moments of AdamW, which hold the gradients."""
    weights = "model.safetensors" if (one / "model.safetensors").is_file() else "adapter.safetensors"
    moments = "checkpoint-2/optimizer.safetensors"
    first, second = losses(one), losses(other)
    assert len(first) == len(second) == STEPS
    names = ("eval_loss", "eval_accuracy", "eval_tokens")
    measured = [pair for name in names for pair in zip(losses(one, name), losses(other, name))]
    assert len(measured) >= len(names)
    return {
        "loss": max(abs(a - b) for a, b in zip(first, second)),
        "evaluation": max(abs(a - b) for a, b in measured),
        "weights": farthest(one / weights, other / weights),
        "moments": farthest(one / moments, other / moments),
    }


def farthest(one: Path, other: Path) -> float:
    first, second = TensorFile(one), TensorFile(other)
    assert set(first.specs) == set(second.specs), sorted(set(first.specs) ^ set(second.specs))[:4]
    return max(float(np.abs(first.read(name) - second.read(name)).max()) for name in first.specs)


def files(output: Path) -> List[str]:
    return sorted(path.name for path in output.iterdir() if path.name != "runs")
