"""Training speed of this suite beside others: same machine, one run, same data, weights and LoRA, a process each.

    make bench                                   the reference set, three times, about an hour on two cores
    python tools/bench/run.py --samples 16 --layers 2 --repeats 1 --contestants suite,stock

The contestants take turns, so that a machine that grows slower is slow for all. What Hugging Face needs runs in the
environment of the parity tests, which PADDLE_SFT_REFERENCE_PYTHON names (`make bench` builds it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from reference_set import Sizes, needed_operations, write  # noqa: E402

from paddle_sft.core.threads import num_cores  # noqa: E402

GIGA = 1e9


@dataclass(frozen=True)
class Contestant:
    """A script, and how it is called."""

    title: str
    script: str
    words: Tuple[str, ...] = ()
    in_reference: bool = False
    """Whether it runs in the reference environment."""
    environment: Mapping[str, str] = None


CONTESTANTS = {
    "suite": Contestant("this suite, float32", "suite.py"),
    "suite_mkl": Contestant(
        "this suite, float32, MKL's products (PADDLE_SFT_AMX=0)", "suite.py", environment={"PADDLE_SFT_AMX": "0"}
    ),
    "hf_float32": Contestant("Hugging Face Trainer + PEFT, float32", "hugging_face.py", in_reference=True),
    "hf_bfloat16": Contestant(
        "Hugging Face Trainer + PEFT, bfloat16", "hugging_face.py", ("--dtype", "bfloat16"), in_reference=True
    ),
    "stock": Contestant("PaddleNLP SFTTrainer, as is, float32", "paddlenlp_stock.py"),
    "stock_threads": Contestant(
        "PaddleNLP SFTTrainer, threads and MKL set, float32",
        "paddlenlp_stock.py",
        environment={"OMP_NUM_THREADS": str(num_cores()), "MKL_DEBUG_CPU_TYPE": "5"},
    ),
}
LIMIT = Contestant("matrix products", "limit.py")
GOALS = (("hf_float32", 4.0), ("hf_bfloat16", 2.5), ("stock", 8.0))
"""Contestant -> how many times its tokens/s the suite is to reach."""
SHARE_OF_LIMIT = 0.6


def main(argv: Optional[List[str]] = None) -> int:
    """Run, print the tables, write the results."""
    options = read_options(argv)
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    reference = os.environ.get("PADDLE_SFT_REFERENCE_PYTHON")
    names = [name for name in options.contestants.split(",") if reference or not CONTESTANTS[name].in_reference]
    for name in sorted(set(options.contestants.split(",")) - set(names)):
        print(
            f"{name} is left out: PADDLE_SFT_REFERENCE_PYTHON names no Python with transformers and peft (make bench)"
        )
    with tempfile.TemporaryDirectory(prefix="paddle_sft_bench_") as folder:
        work = Path(folder)
        write(work, sizes)
        samples = json.loads((work / "samples.json").read_text(encoding="utf-8"))[: sizes.samples]
        runs, rates = take_turns(names, options.repeats, work, reference)
    limit = statistics.median(rates) / (needed_operations(sizes, samples) / sum(len(one["ids"]) for one in samples))
    results = {
        "machine": machine(),
        "sizes": {field.name: getattr(sizes, field.name) for field in fields(Sizes)},
        "repeats": options.repeats,
        "medians": {name: medians(found) for name, found in runs.items()},
        "runs": runs,
        "gemm_operations_per_second": rates,
        "limit_tokens_per_second": limit,
    }
    results["ratios"] = ratios(results["medians"], limit)
    print("\n".join(table(results)))
    if options.output:
        Path(options.output).write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 0


def read_options(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--output", help="JSON file for all numbers")
    options = parser.parse_args(argv)
    unknown = [name for name in options.contestants.split(",") if name not in CONTESTANTS]
    if unknown:
        parser.error(f"no contestant {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    return options


def take_turns(
    names: List[str], repeats: int, work: Path, reference: Optional[str]
) -> Tuple[Dict[str, List[Dict[str, Any]]], List[float]]:
    """(contestant -> numbers of each of its runs, operations/s of the matrix products measured between them)."""
    runs: Dict[str, List[Dict[str, Any]]] = {name: [] for name in names}
    rates = []
    for turn in range(repeats):
        rates.append(call(LIMIT, work, None)["operations_per_second"])
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            numbers = call(CONTESTANTS[name], work, reference)
            runs[name].append(numbers)
            print(
                f"turn {turn + 1}: {CONTESTANTS[name].title}: {numbers['tokens_per_second']:.0f} tokens/s", flush=True
            )
    return runs, rates


def call(contestant: Contestant, work: Path, reference: Optional[str]) -> Dict[str, Any]:
    """Run a contestant in a process of its own, with no thread setting but those that it makes or is given."""
    output = work / "numbers.json"
    output.unlink(missing_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_", "KMP_", "PADDLE_"))}
    environment = {**kept, **(contestant.environment or {}), "PYTHONWARNINGS": "ignore"}
    words = [reference if contestant.in_reference else sys.executable, str(HERE / contestant.script)]
    words += ["--work", str(work), "--output", str(output), "--began", repr(time.time()), *contestant.words]
    done = subprocess.run(words, env=environment, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode or not output.is_file():
        raise SystemExit(f"{contestant.title} failed with exit code {done.returncode}:\n{done.stdout[-3000:]}")
    return json.loads(output.read_text(encoding="utf-8"))


def medians(runs: List[Dict[str, Any]]) -> Dict[str, float]:
    """The median of each number over the runs."""
    names = ("tokens_per_second", "peak_mib", "seconds_to_first_step", "final_loss", "steps")
    return {name: statistics.median(run[name] for run in runs) for name in names}


def ratios(found: Mapping[str, Mapping[str, float]], limit: float) -> List[Dict[str, Any]]:
    """What the suite reached of its goals, for the contestants that took part."""
    if "suite" not in found:
        return []
    speed, memory = found["suite"]["tokens_per_second"], found["suite"]["peak_mib"]
    rows = [
        {"what": f"tokens/s against {name}", "reached": speed / found[name]["tokens_per_second"], "goal": goal}
        for name, goal in GOALS
        if name in found
    ]
    rows.append({"what": "share of the limit", "reached": speed / limit, "goal": SHARE_OF_LIMIT})
    others = [numbers["peak_mib"] for name, numbers in found.items() if not name.startswith("suite")]
    if others:
        rows.append(
            {"what": "peak memory of the most frugal other / ours", "reached": min(others) / memory, "goal": 1.0}
        )
    return rows


def table(results: Mapping[str, Any]) -> List[str]:
    """The lines that are printed, as the docs have them."""
    sizes, system = results["sizes"], results["machine"]
    lines = [
        "",
        f"{system['processor']}, {system['cores']} cores, {system['system']}, Python {system['python']}; "
        f"{sizes['samples']} samples, {sizes['layers']} layers of {sizes['hidden']}; "
        f"median of {results['repeats']} runs",
        "",
        "| Contestant | tokens/s | peak MiB | to first step, s | loss on held-out samples |",
        "|---|---|---|---|---|",
    ]
    for name, numbers in results["medians"].items():
        lines.append(
            f"| {CONTESTANTS[name].title} | {numbers['tokens_per_second']:,.0f} | {numbers['peak_mib']:,.0f} | "
            f"{numbers['seconds_to_first_step']:.1f} | {numbers['final_loss']:.4f} |"
        )
    rate = statistics.median(results["gemm_operations_per_second"]) / GIGA
    lines += [
        f"| limit: needed products at {rate:,.0f} GFLOP/s | {results['limit_tokens_per_second']:,.0f} | | | |",
        "",
        "| What | Reached | Goal |",
        "|---|---|---|",
    ]
    lines += [f"| {row['what']} | {row['reached']:.2f} | {row['goal']:g} |" for row in results["ratios"]]
    versions = sorted({run["version"] for runs in results["runs"].values() for run in runs})
    return [*lines, "", f"Versions: {'; '.join(versions)}"]


def machine() -> Dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor() or "unknown processor",
        "cores": num_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
