"""What an adapter costs: the time to attach it, and a step's time over that of the frozen model alone.

    python tools/benchmark_adapters.py --methods lora,dora --rows 4 --tokens 256

The model is a Llama of 56 million numbers with random weights. The frozen model's own time is that of a forward pass
and of a backward pass to its first layer's input, which every adapter needs; the optimizer's step is counted to the
adapter. Ways are measured in turns, and medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONFIG: Dict[str, Any] = dict(
    model_type="llama", vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8,
    num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-6, rope_theta=10000.0,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_act="silu", tie_word_embeddings=False,
)  # fmt: skip


def batch_of(rows: int, tokens: int) -> Any:
    """Rows of random tokens, the second half of each trained."""
    from paddle_sft.core.records import Sample
    from paddle_sft.data.collate import collate

    random = np.random.default_rng(0)
    ids = [random.integers(3, CONFIG["vocab_size"], tokens).astype(np.int32) for _ in range(rows)]
    return collate([Sample(one, np.arange(tokens) >= tokens // 2, "random") for one in ids], 0)


def frozen_model(layers: int) -> Any:
    """The model with nothing to train, whose first layer's input asks for a gradient all the same."""
    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.train.noise import let_gradients_reach_the_first_layer

    model = build_from_scratch({**CONFIG, "num_hidden_layers": layers}, "float32", 0)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    let_gradients_reach_the_first_layer(model)
    model.train()
    return model


def attached(method: str, rank: int, layers: int) -> Any:
    """(model with a fresh adapter on all linear layers, seconds that attaching took)."""
    from paddle_sft.adapters.attach import attach
    from paddle_sft.adapters.catalogue import ADAPTERS

    model, config = frozen_model(layers), ADAPTERS[method].config
    known = config.__dataclass_fields__
    given = {"lora_rank": rank} if "lora_rank" in known else {}
    given.update({"pissa_niter": 8} if "pissa_niter" in known else {})
    began = time.perf_counter()
    attach(model, method, config(**given), "all-linear" if ADAPTERS[method].layer else None)
    return model, time.perf_counter() - began


def step_of(model: Any, batch: Any) -> Callable[[], float]:
    """A function that takes one step, and gives its seconds."""
    import paddle

    from paddle_sft.stages.catalogue import STAGES
    from paddle_sft.train.weights import trainable_parameters

    parameters = list(trainable_parameters(model).values())
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=parameters) if parameters else None

    def step() -> float:
        began = time.perf_counter()
        loss = STAGES["sft"].loss(model, batch)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.clear_grad()
        float(loss)
        return time.perf_counter() - began

    return step


def main(argv: Optional[List[str]] = None) -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="lora", help="names with commas between them")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args(argv)
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    from paddle_sft.adapters.catalogue import ADAPTERS
    from paddle_sft.operators.build import load_operators

    methods = options.methods.split(",")
    unknown = [name for name in methods if name not in ADAPTERS]
    if unknown:
        parser.error(f"no adapter {', '.join(unknown)}; there are {', '.join(ADAPTERS)}")
    load_operators()
    batch = batch_of(options.rows, options.tokens)
    made = {name: attached(name, options.rank, options.layers) for name in methods}
    ways = {
        "frozen": step_of(frozen_model(options.layers), batch),
        **{name: step_of(made[name][0], batch) for name in methods},
    }
    seconds: Dict[str, List[float]] = {name: [] for name in ways}
    for run in range(options.runs + 1):
        for name, step in ways.items():
            taken = step()
            seconds[name] += [taken] if run else []  # the first compiles and allocates
    plain = statistics.median(seconds["frozen"])
    print(f"{'method':<16}{'attach s':>10}{'step s':>10}{'over frozen':>13}")
    print(f"{'frozen':<16}{'':>10}{plain:>10.3f}{1.0:>13.2f}")
    for name in methods:
        middle = statistics.median(seconds[name])
        print(f"{name:<16}{made[name][1]:>10.2f}{middle:>10.3f}{middle / plain:>13.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
