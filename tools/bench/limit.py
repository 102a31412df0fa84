"""How fast this machine multiplies float32 matrices, with the suite's thread settings: 1024 x 2048 by 2048 x 2048."""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from meter import hand_over, read_options  # noqa: E402

ROWS, SIZE, TIMES = 1024, 2048, 40


def main() -> None:
    """Writes operations_per_second: the median of 40 products."""
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import numpy as np
    import paddle

    options = read_options()
    paddle.set_device("cpu")
    left, right = paddle.randn([ROWS, SIZE]), paddle.randn([SIZE, SIZE])
    seconds = []
    for _ in range(TIMES + 5):
        began = time.perf_counter()
        paddle.matmul(left, right).numpy()
        seconds.append(time.perf_counter() - began)
    hand_over(options, {"operations_per_second": 2 * ROWS * SIZE * SIZE / float(np.median(seconds[5:]))})


if __name__ == "__main__":
    main()
