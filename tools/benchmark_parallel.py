"""Training speed of two ranks with a thread each beside one process with two threads, on a CPU.

    python tools/benchmark_parallel.py
    python tools/benchmark_parallel.py --layouts tp2,pp2 --kinds lora --repeats 1 --json parallel.json

A small Llama (27 million weights) of random numbers trains on full rows of 512 tokens, four of them a step, whatever
the layout. They take turns, so that a machine that grows slower is slow for all; a run's speed is the median over
its steps but the first two, a layout's the median over its runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tools" / "bench")]

SIZES = dict(hidden=512, layers=8, heads=8, kv_heads=4, intermediate=1376, vocabulary=4000)
ROWS, WIDTH, STEPS, WARM_UP = 4, 512, 8, 2
ALONE = "one process"


class Way(NamedTuple):
    """How a run is laid out: ranks, threads of each, keys, and how its rows are cut into micro-batches."""

    ranks: int
    threads: int
    keys: Mapping[str, Any]
    batch: int = ROWS
    accumulation: int = 1


WAYS: Dict[str, Way] = {
    ALONE: Way(1, 2, {}),
    "dp2": Way(2, 1, {}, ROWS // 2),
    "stage1": Way(2, 1, {"sharding": "stage1"}, ROWS // 2),
    "stage2": Way(2, 1, {"sharding": "stage2"}, ROWS // 2),
    "stage3": Way(2, 1, {"sharding": "stage3"}, ROWS // 2),
    "tp2": Way(2, 1, {"tensor_parallel_degree": 2}),
    "sp2": Way(2, 1, {"tensor_parallel_degree": 2, "sequence_parallel": True}),
    "pp2": Way(2, 1, {"pipeline_parallel_degree": 2}, 1, ROWS),
    "vpp2": Way(2, 1, {"pipeline_parallel_degree": 2, "virtual_pp_degree": 2}, 1, ROWS),
    "sep2": Way(2, 1, {"sep_parallel_degree": 2}),
}
KINDS: Dict[str, Mapping[str, Any]] = {"full": {}, "lora": {"lora": True, "lora_rank": 8}}


def run(folder: Path, name: str, kind: str) -> float:
    """Tokens a second of one run.

    Raises:
        SystemExit: it ended otherwise than well.
    """
    way = WAYS[name]
    content = {
        "stage": "pretrain", "model_name_or_path": str(folder / "model"), "dataset_name_or_path": str(folder / "data"),
        "output_dir": str(folder / "run"), "overwrite_output_dir": True, "device": "cpu", "do_train": True,
        "max_steps": STEPS, "max_length": WIDTH, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
        "per_device_train_batch_size": way.batch, "gradient_accumulation_steps": way.accumulation,
        **way.keys, **KINDS[kind],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    launcher = [] if way.ranks == 1 else ["-m", "paddle_sft.cli.main", "launch", "--nproc", str(way.ranks)]
    command = [sys.executable, *launcher, str(ROOT / "run_finetune.py"), str(folder / "run.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(way.threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}, {kind} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    history = json.loads((folder / "run" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return statistics.median([one["tokens_per_second"] for one in history if "loss" in one][WARM_UP:])


def table(found: Mapping[Tuple[str, str], List[float]]) -> List[str]:
    """As the documentation has it."""
    kinds = list(dict.fromkeys(kind for _, kind in found))
    heads = " | ".join(f"{kind}: tokens/s | by one process" for kind in kinds)
    lines = [f"| Layout | {heads} |", "|---|" + "---|---|" * len(kinds)]
    for name in dict.fromkeys(name for name, _ in found):
        speeds = [statistics.median(found[name, kind]) for kind in kinds]
        alone = [statistics.median(found[ALONE, kind]) for kind in kinds]
        cells = " | ".join(f"{speed:,.0f} | {speed / whole:.2f}" for speed, whole in zip(speeds, alone))
        lines.append(f"| {name} | {cells} |")
    return lines


def main(argv: Optional[List[str]] = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", default=",".join(name for name in WAYS if name != ALONE))
    parser.add_argument("--kinds", default="full,lora")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers to a file, too")
    options = parser.parse_args(argv)
    from benchmark_plan import make_lab

    names = [ALONE, *options.layouts.split(",")]
    found: Dict[Tuple[str, str], List[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        make_lab(Path(place), {"model": SIZES})
        for _ in range(options.repeats):
            for kind in options.kinds.split(","):
                for name in names:
                    found.setdefault((name, kind), []).append(run(Path(place), name, kind))
    print("\n".join(table(found)))
    if options.json:
        content = {f"{name}, {kind}": speeds for (name, kind), speeds in found.items()}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
