"""Milliseconds of the operators a training step uses on a CPU, forward and backward: Paddle's compositions and the
compiled ones, in turn.

    python tools/benchmark_operators.py --tokens 1024 --hidden 512

Medians of alternating runs, wall time, OMP_NUM_THREADS threads (all cores unless set). Attention has 8 samples a row.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

VOCABULARY, WIDTH, HEAD = 32000, 8, 64
"""Tokens the head knows; samples a row; numbers of a head."""


def milliseconds(step: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return 1000 * (time.perf_counter() - start)


def pairs(tokens: int, hidden: int) -> Dict[str, Tuple[Callable, Callable, List[Any]]]:
    """Operator -> (Paddle's composition, the compiled one, inputs)."""
    import paddle
    import paddle.nn.functional as F

    from paddle_sft.attention.segments import Scoring, composed_attention, segment_attention
    from paddle_sft.models import fast
    from paddle_sft.operators import cpu
    from paddle_sft.operators.linear import LinearParts, linears

    def draw(*shape: int) -> Any:
        tensor = paddle.randn(list(shape))
        tensor.stop_gradient = False
        return tensor

    heads, segments = hidden // HEAD, [[tokens // WIDTH] * WIDTH]
    cos, sin = paddle.randn([1, tokens, 1, HEAD]), paddle.randn([1, tokens, 1, HEAD])
    query, key, value = (draw(1, tokens, heads, HEAD) for _ in range(3))
    weight = draw(hidden)
    frozen, factors = [paddle.randn([hidden, hidden]) for _ in range(3)], [draw(hidden, 8), draw(8, hidden)]

    def plain_lora(x: Any, a: Any, b: Any) -> Any:
        return paddle.concat([x @ one + (x @ a * 2.0) @ b for one in frozen])

    def fused_lora(x: Any, a: Any, b: Any) -> Any:
        return paddle.concat(linears(x, [LinearParts(one, None, a, b, 2.0) for one in frozen]))

    return {
        "LoRA of 3 layers": (plain_lora, fused_lora, [draw(1, tokens, hidden), *factors]),
        "RMSNorm": (_rms_norm, lambda x, w: cpu.RMSNorm.apply(x, w, 1e-6), [draw(1, tokens, hidden), weight]),
        "rotary": (lambda x: fast.composed_rotate(x, cos, sin), lambda x: fast.rotate(x, cos, sin), [query]),
        "SwiGLU": (F.swiglu, cpu.SwiGLU.apply, [draw(1, tokens, hidden * 8 // 3), draw(1, tokens, hidden * 8 // 3)]),
        "attention": (
            lambda q, k, v: composed_attention(q, k, v, segments, Scoring(0.125)),
            lambda q, k, v: segment_attention(q, k, v, segments, Scoring(0.125)),
            [query, key, value],
        ),
    }


def _rms_norm(x: Any, weight: Any) -> Any:
    """As PaddleNLP writes it."""
    import paddle

    return paddle.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * x * weight


def cross_entropy(tokens: int) -> Tuple[Callable[[], Any], Callable[[], Any]]:
    """Loss and gradient of [tokens, VOCABULARY] scores: Paddle's, and in place."""
    import paddle
    import paddle.nn.functional as F

    from paddle_sft.operators import cpu

    scores, labels = paddle.randn([tokens, VOCABULARY]), paddle.randint(0, VOCABULARY, [tokens])
    scores.stop_gradient = False
    work = scores.detach().clone()

    def composed() -> Any:
        return paddle.grad(F.cross_entropy(scores, labels, reduction="sum"), scores)

    return composed, lambda: cpu.cross_entropy_in_place(work, labels)


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args(argv)
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle

    from paddle_sft.operators.build import load_operators

    if load_operators() is None:
        return 1  # the reason was said
    steps: Dict[str, Tuple[Callable, Callable]] = {"cross entropy": cross_entropy(arguments.tokens // 2)}
    for name, (composed, compiled, inputs) in pairs(arguments.tokens, arguments.hidden).items():
        gradient = paddle.randn(composed(*inputs).shape)
        steps[name] = tuple(
            lambda f=function, x=inputs, g=gradient: f(*x).backward(g) for function in (composed, compiled)
        )
    print(f"{'':<17}{'composed':>10}{'compiled':>10}")
    for name, both in steps.items():
        times: Tuple[List[float], List[float]] = ([], [])
        for _ in range(arguments.runs + 2):  # the first two warm up
            for kept, step in zip(times, both):
                kept.append(milliseconds(step))
        first, second = (median(kept[2:]) for kept in times)
        print(f"{name:<17}{first:>7.1f} ms{second:>7.1f} ms {first / second:6.1f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
