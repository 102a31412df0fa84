"""Milliseconds of RMSNorm, forward and backward: PaddleNLP's composition and the one training uses on a CPU, in turn.

    python tools/benchmark_operators.py --rows 1024 --hidden 256

Medians of alternating runs, process time, one thread (set OMP_NUM_THREADS for another number).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def milliseconds(step: Callable[[], Any]) -> float:
    """Process time of one call."""
    start = time.process_time()
    step()
    return 1000 * (time.process_time() - start)


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args(argv)
    import paddle
    from paddlenlp.transformers import LlamaConfig
    from paddlenlp.transformers.llama.modeling import LlamaRMSNorm

    from paddle_sft.models.fast import use_cpu_forms

    theirs, ours = (LlamaRMSNorm(LlamaConfig(hidden_size=arguments.hidden)) for _ in range(2))
    use_cpu_forms(paddle.nn.LayerList([ours]), ("LlamaRMSNorm",))
    x = paddle.randn([arguments.rows, arguments.hidden])
    x.stop_gradient = False
    gradient = paddle.randn(x.shape)
    found: dict = {"PaddleNLP": [], "paddle_sft": []}
    for _ in range(arguments.runs + 3):  # the first three warm up
        found["PaddleNLP"].append(milliseconds(lambda: theirs(x).backward(gradient)))
        found["paddle_sft"].append(milliseconds(lambda: ours(x).backward(gradient)))
    for name, times in found.items():
        print(f"{name:<12}{median(times[3:]):8.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
