"""Peak memory and time of loading a sharded model: makes a Llama of random weights, loads it, prints both.

    python tools/benchmark_load.py --hidden 1024 --layers 16 --vocabulary 64000

"over imports" is the peak of a process that loads the model less the peak of one that only imports what loading
imports, over the size of the loaded weights: 1.00 would be the weights and nothing else. The plain copy is a process
that reads the same files once and holds them in the type they are loaded in, through numpy alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
IMPORTS = "import paddle, paddlenlp.transformers, paddle_sft.models.hub"
LOAD = """
import json, sys, time
import paddle
paddle.set_device("cpu")
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.config import read_config, to_paddlenlp
to_paddlenlp(read_config(sys.argv[1]))  # imports the family
started = time.perf_counter()
model = load_model(sys.argv[1], sys.argv[2]).model
seconds = time.perf_counter() - started
num_bytes = sum(p.size * p.element_size() for p in unique_parameters(model).values())
print(json.dumps([seconds, num_bytes]))
"""
CASES = (("hf", "float32"), ("hf", "bfloat16"), ("paddle", "float32"), ("paddle", "bfloat16"))
"""Layout and stored type; all are loaded as float32, and the bfloat16 ones also as they are."""


class Load(NamedTuple):
    """One loading, measured."""

    layout: str
    stored: str
    dtype: str
    weights: int
    peak: int
    seconds: float


def make_folder(root: Path, layout: str, stored: str, sizes: Dict[str, int], shard: str) -> None:
    """A Llama of random weights."""
    sys.path.insert(0, str(ROOT))
    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.models.writer import write_model

    hidden = sizes["hidden"]
    config = {
        "model_type": "llama", "vocab_size": sizes["vocabulary"], "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4, "num_hidden_layers": sizes["layers"],
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    model = build_from_scratch(config, "float32", seed=0)
    if stored != "float32":
        model.to(dtype=stored)
    write_model(root, model, layout, shard)


def peak_of(program: str, *arguments: str) -> Tuple[int, str]:
    """(peak resident bytes, last line printed) of a Python program, run alone in a helper process.

    Raises:
        SystemExit: the program failed.
    """
    helper = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(json.loads(sys.argv[1]), stdout=subprocess.PIPE, text=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([done.returncode, peak, done.stdout.strip().rpartition('\\n')[2]]))"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run([sys.executable, "-c", helper, json.dumps(command)], stdout=subprocess.PIPE, cwd=str(ROOT))
    code, kilobytes, last = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{arguments} ended with {code}")
    return kilobytes * 1024, last


def measure(folder: Path, layout: str, stored: str, dtype: str) -> Load:
    """Load a folder once in a process of its own."""
    peak, last = peak_of(LOAD, str(folder), dtype)
    seconds, num_bytes = json.loads(last)
    return Load(layout, stored, dtype, num_bytes, peak, seconds)


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=64000)
    parser.add_argument("--shard", default="200MB")
    given = vars(parser.parse_args(argv))
    shard = given.pop("shard")
    imports, _ = peak_of(IMPORTS)
    print(f"imports alone: {imports / MIB:,.0f} MiB")
    print("| layout | stored as | loaded as | shards | weights, MiB | peak over imports, MiB | ratio | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for layout, stored in CASES:
        with tempfile.TemporaryDirectory() as name:
            make = multiprocessing.get_context("spawn").Process(  # its memory must not count
                target=make_folder, args=(Path(name), layout, stored, given, shard)
            )
            make.start()
            make.join()
            shards = len(list(Path(name).glob("*.safetensors")))
            for dtype in dict.fromkeys(["float32", stored]):
                load = measure(Path(name), layout, stored, dtype)
                over = load.peak - imports
                print(
                    f"| {layout} | {stored} | {dtype} | {shards} | {load.weights / MIB:,.0f} | {over / MIB:,.0f} "
                    f"| {over / load.weights:.2f} | {load.seconds:.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
