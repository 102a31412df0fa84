"""Quantised bases on the reference set (tools/bench/reference_set.py): bits a weight in memory and on the disk, peak
memory of loading, and seconds of a LoRA step on each base, float32 first.

    python tools/benchmark_quant.py
    python tools/benchmark_quant.py --hidden 1024 --intermediate 2816 --only memory

Steps alternate between the bases, so that a busy machine slows all of them; medians. With OMP_NUM_THREADS=1 the time is
that of the processor, which other programs hardly change. Peaks are VmHWM of a process
of its own for each base, and "more" what it is above that of a model of a single layer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "bench")]
MIB = 1 << 20

BASES: Dict[str, Dict[str, Any]] = {
    "float32": {},
    "weight_only_int8": {"algorithms": "weight_only_int8"},
    "weight_only_int4": {"algorithms": "weight_only_int4"},
    "nf4": {"algorithms": "nf4"},
    "nf4, double": {"algorithms": "nf4", "double_quant": True},
    "fp4, double": {"algorithms": "fp4", "double_quant": True},
}
_LOAD = """
import sys, json
sys.path[:0] = {path!r}
from meter import peak_mib
from pathlib import Path
from paddle_sft.core.threads import settle_threads
settle_threads()
from paddle_sft.models.hub import load_model
from paddle_sft.quant.choice import Choice
choice = Choice(**{choice!r}) if {choice!r} else None
model = load_model(Path({folder!r}), "float32", choice=choice)
print(json.dumps(peak_mib()))
"""


def make_model(folder: Path, sizes: Any) -> None:
    """A Llama of random weights in Hugging Face's layout."""
    from reference_set import config_of

    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.models.writer import write_model

    folder.mkdir(parents=True)
    write_model(folder, build_from_scratch(config_of(sizes), "float32", 0), "hf")


def load(folder: Path, base: str) -> Any:
    """The model of a folder as a base is stored, with a LoRA of rank 8 on all linear layers."""
    from paddle_sft.adapters.attach import attach
    from paddle_sft.adapters.lora.config import LoRAConfig
    from paddle_sft.models.hub import load_model
    from paddle_sft.quant.choice import Choice

    model = load_model(folder, "float32", choice=Choice(**BASES[base]) if BASES[base] else None).model
    attach(model, "lora", LoRAConfig(lora_rank=8, lora_alpha=16.0), None)
    model.train()
    return model


def batches(sizes: Any) -> List[Any]:
    """Packed rows of the reference set, one a batch."""
    import numpy as np
    from reference_set import make_samples

    from paddle_sft.core.records import Sample
    from paddle_sft.data.collate import collate_rows
    from paddle_sft.packing.packers import pack_best_fit

    samples = []
    for number, one in enumerate(make_samples(sizes)):
        ids = np.array(one["ids"], dtype=np.int32)
        samples.append(Sample(ids, np.arange(len(ids)) >= one["first_trained"], f"sample {number}"))
    lengths = np.array([len(sample) for sample in samples])
    return [collate_rows([[samples[index] for index in row]], 3) for row in pack_best_fit(lengths, sizes.row, 0)]


def step_seconds(folder: Path, sizes: Any, rounds: int, bases: List[str]) -> Dict[str, float]:
    """Base -> median seconds of forward, backward and the optimizer's step over one packed row."""
    import paddle

    from paddle_sft.stages.catalogue import STAGES

    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    stage, rows = STAGES["sft"], batches(sizes)
    models = {base: load(folder, base) for base in bases}
    optimizers = {
        base: paddle.optimizer.AdamW(1e-4, parameters=[p for p in model.parameters() if not p.stop_gradient])
        for base, model in models.items()
    }
    seconds: Dict[str, List[float]] = {base: [] for base in bases}
    for number in range(rounds + 2):  # the first two warm up
        for base, model in models.items():
            began = clock()
            loss = stage.loss(model, rows[number % len(rows)])
            loss.backward()
            optimizers[base].step()
            optimizers[base].clear_grad()
            seconds[base].append(clock() - began)
    return {base: median(found[2:]) for base, found in seconds.items()}


def layer_seconds(sizes: Any, rounds: int) -> Dict[str, float]:
    """Base -> median seconds of the processor for the linear layers of one layer of the model, with LoRA, forward and
    backward over one row: all that a base changes of a step."""
    import paddle
    from paddle import nn

    from paddle_sft.adapters.lora.config import LoRAConfig
    from paddle_sft.adapters.lora.layer import LoRADelta
    from paddle_sft.quant.choice import Choice
    from paddle_sft.quant.linear import QuantisedLinear

    layers: Dict[str, List[Any]] = {base: [] for base in BASES}
    for rows, columns in sizes.shapes().values():
        plain = nn.Linear(rows, columns, bias_attr=False)
        plain.weight.stop_gradient = True
        for base, keys in BASES.items():
            scheme = Choice(**keys).schemes(["x"])["x"] if keys else None
            layer = QuantisedLinear.of(plain.weight, scheme) if scheme else plain
            layers[base].append((layer, LoRADelta(rows, columns, LoRAConfig(), "float32")))
    seconds: Dict[str, List[float]] = {base: [] for base in BASES}
    for _ in range(rounds + 2):
        for base, found in layers.items():
            began = time.process_time()
            for (layer, delta), (rows, columns) in zip(found, sizes.shapes().values()):
                x = paddle.ones([1, sizes.row, rows])
                x.stop_gradient = False
                (layer(x) + delta.delta(x)).backward(paddle.ones([1, sizes.row, columns]))
            seconds[base].append(time.process_time() - began)
    return {base: median(found[2:]) for base, found in seconds.items()}


def sizes_of(folder: Path) -> Dict[str, Dict[str, float]]:
    """Base -> bits a weight of the linear layers in memory and on the disk, and MiB of both for the whole model."""
    from paddle_sft.models.hub import load_model
    from paddle_sft.models.quantised import quantised_linears
    from paddle_sft.models.writer import write_model
    from paddle_sft.quant.choice import Choice

    found = {}
    for base, choice in BASES.items():
        if not choice:
            continue
        model = load_model(folder, "float32", choice=Choice(**choice)).model
        layers = quantised_linears(model)
        count = sum(layer.in_features * layer.out_features for layer in layers.values())
        held = sum(array.numpy().nbytes for layer in layers.values() for array in layer.arrays.values())
        with tempfile.TemporaryDirectory() as place:
            write_model(Path(place), model, "paddle")
            disk = sum(path.stat().st_size for path in Path(place).glob("*.safetensors"))
        floats = sum(p.numpy().nbytes for p in model.parameters())
        found[base] = {
            "memory": 8 * held / count, "disk": 8 * (disk - floats) / count,
            "held_mib": held / MIB, "float_mib": 4 * count / MIB,
        }  # fmt: skip
    return found


def peak_of_load(folder: Path, base: str) -> float:
    """Peak MiB of a process that loads the model."""
    path = [str(ROOT), str(ROOT / "tools" / "bench")]
    script = _LOAD.format(path=path, choice=BASES[base], folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    from reference_set import Sizes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--intermediate", type=int, default=1376)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--bases", nargs="*", default=list(BASES), choices=list(BASES), help="float32 among them")
    parser.add_argument("--only", choices=("sizes", "memory", "layers", "speed"))
    arguments = parser.parse_args(argv)
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle

    paddle.set_device("cpu")
    sizes = Sizes(
        hidden=arguments.hidden, intermediate=arguments.intermediate, layers=arguments.layers,
        heads=arguments.hidden // 64, kv_heads=arguments.hidden // 128,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        report(Path(place), sizes, arguments)
    return 0


def report(root: Path, sizes: Any, arguments: argparse.Namespace) -> None:
    """Print the tables."""
    wanted = ("sizes", "memory", "layers", "speed") if arguments.only is None else (arguments.only,)
    if wanted != ("layers",):
        make_model(root / "model", sizes)
    if "sizes" in wanted:
        print(f"{'bits a weight':<20}{'memory':>9}{'disk':>9}{'MiB':>9}{'float32':>9}")
        for base, one in sizes_of(root / "model").items():
            print(f"{base:<20}" + "".join(f"{one[key]:>9.2f}" for key in ("memory", "disk", "held_mib", "float_mib")))
    if "memory" in wanted:
        from dataclasses import replace

        make_model(root / "one", replace(sizes, layers=1))
        print(f"{'MiB':<20}{'all':>9}{'1 layer':>9}{'more':>9}")
        for base in arguments.bases:
            whole, one = peak_of_load(root / "model", base), peak_of_load(root / "one", base)
            print(f"{base:<20}{whole:>9.0f}{one:>9.0f}{whole - one:>9.0f}", flush=True)
    if "layers" in wanted:
        seconds = layer_seconds(sizes, arguments.rounds)
        print(f"{'processor seconds':<20}{'median':>9}{'ratio':>9}")
        for base, one in seconds.items():
            print(f"{base:<20}{one:>9.3f}{one / seconds['float32']:>9.2f}")
    if "speed" in wanted:
        seconds = step_seconds(root / "model", sizes, arguments.rounds, arguments.bases)
        print(f"{'seconds a step':<20}{'median':>9}{'ratio':>9}")
        for base, one in seconds.items():
            print(f"{base:<20}{one:>9.3f}{one / seconds['float32']:>9.2f}")
        print(json.dumps({"tokens_a_row": sizes.row, "rounds": arguments.rounds}))


if __name__ == "__main__":
    sys.exit(main())
