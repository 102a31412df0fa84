"""What `paddle-sft plan` predicts beside what runs take: peak bytes of tensors in a training step on a CPU.

    python tools/benchmark_plan.py
    python tools/benchmark_plan.py --only one --json plan.json

Each run is an argument file of its own over a Llama of random weights and rows that are full, in one process or in two
ranks; the prediction is that of the same file. Measured is the peak of what Paddle's allocator gave to tensors in the
third step (tools/bench/measure_memory.py says why), of the rank that took most. The sizes "small" are those that the
model of the layers was made with; the others it had not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tools" / "bench")]
TOLERANCE = 0.1

SIZES: Dict[str, Dict[str, int]] = {
    "small": dict(hidden=256, layers=4, heads=8, kv_heads=4, intermediate=688, vocabulary=4000),
    "wide": dict(hidden=384, layers=3, heads=6, kv_heads=2, intermediate=2048, vocabulary=8000),
    "long": dict(hidden=128, layers=6, heads=4, kv_heads=4, intermediate=352, vocabulary=16000),
}
_LORA = {"lora": True, "lora_rank": 8}
_NF4 = {**_LORA, "weight_quantize_algo": "nf4", "weight_double_quant": True}
_TP, _PP = {"tensor_parallel_degree": 2}, {"pipeline_parallel_degree": 2, "gradient_accumulation_steps": 4}
_VPP, _THREE = {"virtual_pp_degree": 2}, {"gradient_accumulation_steps": 3}
_AGAIN = {"recompute": True}


class Case(NamedTuple):
    """A run."""

    name: str
    ranks: int
    sizes: str
    keys: Dict[str, Any]


CASES = (
    Case("full", 1, "small", {}),
    Case("full, rows of 1,024", 1, "small", {"max_length": 1024}),
    Case("full, accumulation 2", 1, "small", {"gradient_accumulation_steps": 2}),
    Case("full, recompute", 1, "small", _AGAIN),
    Case("full, recompute full_attn", 1, "small", {**_AGAIN, "recompute_granularity": "full_attn"}),
    Case("full, adafactor", 1, "small", {"optim": "adafactor"}),
    Case("lora", 1, "small", _LORA),
    Case("lora, recompute", 1, "small", {**_LORA, **_AGAIN}),
    Case("lora on nf4", 1, "small", _NF4),
    Case("lora on nf4, recompute", 1, "small", {**_NF4, **_AGAIN}),
    Case("full", 1, "wide", {}),
    Case("full, recompute, 2 rows", 1, "wide", {**_AGAIN, "per_device_train_batch_size": 2}),
    Case("lora on q and v", 1, "wide", {**_LORA, "lora_target_modules": ["q_proj", "v_proj"]}),
    Case("lora on int8, recompute", 1, "wide", {**_LORA, "weight_quantize_algo": "weight_only_int8", **_AGAIN}),
    Case("full, rows of 3,072", 1, "long", {"max_length": 3072}),
    Case("lora, recompute, rows of 3,072", 1, "long", {**_LORA, **_AGAIN, "max_length": 3072}),
    Case("full, data parallel", 2, "small", {}),
    Case("full, tensor", 2, "small", _TP),
    Case("full, tensor with sequence", 2, "small", {**_TP, "sequence_parallel": True}),
    Case("lora, tensor", 2, "wide", {**_TP, **_LORA}),
    Case("full, pipeline, accumulation 4", 2, "small", _PP),
    Case("full, pipeline, recompute", 2, "wide", {**_PP, **_AGAIN}),
    Case("lora, pipeline, accumulation 4", 2, "long", {**_PP, **_LORA}),
    Case("full, 2 virtual stages", 2, "small", {**_PP, **_VPP}),
    Case("full, 3 virtual stages, accumulation 3", 2, "long", {**_PP, "virtual_pp_degree": 3, **_THREE}),
    Case("lora, 2 virtual stages, recompute", 2, "long", {**_PP, **_VPP, **_LORA, **_AGAIN}),
    Case("full, sep", 2, "wide", {"sep_parallel_degree": 2}),
    Case("full, sharding stage1", 2, "wide", {"sharding": "stage1"}),
    Case("full, stage1, accumulation 2", 2, "small", {"sharding": "stage1", "gradient_accumulation_steps": 2}),
    Case("full, sharding stage2", 2, "wide", {"sharding": "stage2"}),
    Case("full, sharding stage3", 2, "wide", {"sharding": "stage3"}),
    Case("lora, sharding stage3", 2, "small", {"sharding": "stage3", **_LORA}),
)  # fmt: skip


class Found(NamedTuple):
    """Bytes of the rank that needs most."""

    case: Case
    measured: float
    predicted: float

    @property
    def difference(self) -> float:
        """Of the prediction, by the measured."""
        return self.predicted / self.measured - 1


def make_lab(folder: Path, models: Dict[str, Dict[str, int]] = SIZES) -> None:
    """Models, a tokenizer, and text whose rows are full."""
    import numpy as np
    from quickstart_tokenizer import train_tokenizer, write_tokenizer
    from reference_set import Sizes, config_of

    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.models.writer import write_model

    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefghij"), 4)) for _ in range(300)]
    lines = [" ".join(random.choice(words, 50)) for _ in range(2000)]
    tokenizer = train_tokenizer(iter(lines))
    for name, sizes in models.items():
        write_tokenizer(tokenizer, folder / name)
        write_model(folder / name, build_from_scratch(config_of(Sizes(**sizes)), "float32", 0), "paddle")
    (folder / "data").mkdir()
    texts = [json.dumps({"text": " ".join(lines[first::20])}) for first in range(20)]
    (folder / "data" / "train.json").write_text("\n".join(texts), encoding="utf-8")


def write_file(folder: Path, number: int, case: Case) -> Path:
    """The argument file of a run."""
    content = {
        "stage": "pretrain", "model_name_or_path": str(folder / case.sizes), "device": "cpu", "do_train": True,
        "dataset_name_or_path": str(folder / "data"), "output_dir": str(folder / f"run{number}"), "max_steps": 3,
        "max_length": 512, "per_device_train_batch_size": 1, "disable_tqdm": True, "save_strategy": "no", **case.keys,
    }  # fmt: skip
    file = folder / f"run{number}.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def predict_file(file: Path, ranks: int) -> float:
    """Bytes that a plan says for an argument file."""
    from paddle_sft.arguments.load import load_finetune_arguments
    from paddle_sft.cli.plan_case import Case as PlanCase
    from paddle_sft.parallel.memory import predict

    case = PlanCase.of(load_finetune_arguments([str(file)]))
    return predict(case.shape, case.recipe(), case.layout(ranks)).peak.total


def measure(folder: Path, cases: List[Case], ranks: int) -> List[Found]:
    """Run these cases, in a single start of as many ranks."""
    files = {number: write_file(folder, number, case) for number, case in enumerate(cases)}
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([{"file": str(file), "result": f"{file}.out"} for file in files.values()]))
    script = [str(ROOT / "tools" / "bench" / "measure_memory.py"), str(jobs)]
    launcher = [] if ranks == 1 else ["-m", "paddle_sft.cli.main", "launch", "--nproc", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, *script]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    found = []
    for number, case in enumerate(cases):
        results = [Path(f"{files[number]}.out.{rank}.json") for rank in range(ranks)]
        measured = max(json.loads(result.read_text(encoding="utf-8"))["peak"] for result in results)
        found.append(Found(case, measured, predict_file(files[number], ranks)))
    return found


def table(found: List[Found]) -> List[str]:
    """As the documentation has it."""
    lines = ["| Run | Sizes | Ranks | Measured MB | Predicted MB | Difference |", "|---|---|---|---|---|---|"]
    for one in found:
        numbers = f"{one.measured / 1e6:.1f} | {one.predicted / 1e6:.1f} | {one.difference:+.1%}"
        lines.append(f"| {one.case.name} | {one.case.sizes} | {one.case.ranks} | {numbers} |")
    return lines


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; 1 where a prediction is farther off than TOLERANCE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("one", "two"), help="one process, or two ranks")
    parser.add_argument("--json", type=Path, help="write the numbers to a file, too")
    arguments = parser.parse_args(argv)
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle

    paddle.set_device("cpu")
    wanted = {"one": (1,), "two": (2,), None: (1, 2)}[arguments.only]
    with tempfile.TemporaryDirectory() as place:
        make_lab(Path(place))
        found = [one for ranks in wanted for one in measure(Path(place), [c for c in CASES if c.ranks == ranks], ranks)]
    print("\n".join(table(found)))
    if arguments.json:
        content = [{**one._asdict(), "case": one.case._asdict(), "difference": one.difference} for one in found]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    worst = max(abs(one.difference) for one in found)
    print(f"\nfarthest off: {worst:.1%}, allowed: {TOLERANCE:.0%}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
