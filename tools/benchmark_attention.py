"""Attention over a packed row, forward and backward: inside its documents, and as one dense-masked square.

    python tools/benchmark_attention.py --tokens 4096 --documents 32

Prints the median time of each way, the ratio, and the largest difference of outputs and gradients. The dense way is
paddle.nn.functional.scaled_dot_product_attention with a T x T mask, which is what PaddleNLP's zero padding computes
without FlashMask.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def lengths_of(tokens: int, documents: int, seed: int = 0) -> List[int]:
    """Lengths of so many documents, each drawn like the others, that add up to `tokens`."""
    cuts = np.random.default_rng(seed).choice(np.arange(1, tokens), documents - 1, replace=False)
    return np.diff([0, *np.sort(cuts), tokens]).tolist()


def ways(lengths: List[int], heads: int, groups: int, size: int) -> Tuple[Any, Any, Any]:
    """A function that draws the inputs, and the two that compute [1, T, heads, size] of them."""
    import paddle
    import paddle.nn.functional as F

    from paddle_sft.attention.segments import Scoring, default_scale, segment_attention
    from paddle_sft.masks.segments import dense_causal

    scoring = Scoring(default_scale(size))
    mask = paddle.to_tensor(np.where(dense_causal(lengths), 0.0, -1e30).astype("float32"))[None, None]

    def draw() -> List[Any]:
        random = np.random.default_rng(1)
        shapes = [(1, sum(lengths), number, size) for number in (heads, groups, groups)]
        made = [paddle.to_tensor(random.standard_normal(shape, dtype="float32")) for shape in shapes]
        for tensor in made:
            tensor.stop_gradient = False
        return made

    def dense(query: Any, key: Any, value: Any) -> Any:
        key, value = (tensor.repeat_interleave(heads // groups, axis=2) for tensor in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return draw, lambda *parts: segment_attention(*parts, [lengths], scoring), dense


def once(compute: Any, inputs: List[Any]) -> Tuple[float, List[np.ndarray]]:
    """Seconds of a forward and backward pass, and its output and gradients."""
    began = time.perf_counter()
    output = compute(*inputs)
    (output * output).sum().backward()
    seconds = time.perf_counter() - began
    return seconds, [output.numpy(), *(tensor.grad.numpy() for tensor in inputs)]


def main(argv: Optional[List[str]] = None) -> int:
    """Measure in turns, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--groups", type=int, default=4, help="heads of keys and values")
    parser.add_argument("--size", type=int, default=64, help="numbers of a head")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(argv)
    if not 1 <= options.documents <= options.tokens or options.heads % options.groups:
        parser.error("give at least a token for each document, and heads that groups divides")
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle

    from paddle_sft.operators.build import load_operators

    paddle.set_device("cpu")
    lengths = lengths_of(options.tokens, options.documents)
    draw, by_segments, dense = ways(lengths, options.heads, options.groups, options.size)
    times: Tuple[List[float], List[float]] = ([], [])
    for _ in range(options.runs + 1):  # the first warms up
        found = [once(compute, draw()) for compute in (by_segments, dense)]
        for kept, (seconds, _) in zip(times, found):
            kept.append(seconds)
    ours, theirs = (statistics.median(kept[1:]) for kept in times)
    pairs = zip(found[0][1], found[1][1])
    worst = max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)
    way = "compiled" if load_operators() else "Paddle's operators"
    print(f"{options.tokens:,} tokens, {options.documents} documents of {min(lengths)} to {max(lengths)} tokens")
    print(f"| by segments ({way}) | {1000 * ours:,.1f} ms |")
    print(f"| one dense-masked square | {1000 * theirs:,.1f} ms |")
    print(f"| ratio | {theirs / ours:.1f}x |")
    print(f"largest difference of outputs and gradients, against their largest number: {worst:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
