"""Peak memory and time of the LM head with its loss, forward and backward: over whole logits, and in chunks.

    python tools/benchmark_head.py --tokens 4096 --vocabulary 152064 --hidden 512

Each of the four runs is a process of its own; what is counted is its peak above the inputs and the weight. It fails if
the chunks take more than 400 MB beside the gradient of a trained head.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MIB = 1 << 20
MOST = 400e6 / MIB
"""MiB that the head in chunks may take, beside the gradient of a trained one."""


def resident() -> int:
    """Bytes of memory this process holds (Linux)."""
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def measure(way: str, trains: bool, tokens: int, vocabulary: int, hidden: int) -> dict:
    """One forward and backward pass; every token is trained."""
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle
    import paddle.nn.functional as F

    from paddle_sft.losses.head import Head, head_loss_sum

    paddle.seed(0)
    weight = 0.02 * paddle.randn([hidden, vocabulary])
    states, labels = paddle.randn([1, tokens, hidden]), paddle.randint(0, vocabulary, [1, tokens])
    weight.stop_gradient, states.stop_gradient = not trains, False
    before, peak, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    if way == "chunks":
        loss = head_loss_sum(states, labels, Head(weight, False))
    else:
        loss = F.cross_entropy((states @ weight).reshape([-1, vocabulary]), labels.reshape([-1]), reduction="sum")
    (loss / tokens).backward()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {"mib": (peak[0] - before) / MIB, "seconds": seconds, "loss": float(loss) / tokens}


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--one", choices=("logits", "chunks"), help="measure one in this process and print JSON")
    parser.add_argument("--trains", action="store_true", help="with --one: the head is trained")
    arguments = parser.parse_args(argv)
    sizes = (arguments.tokens, arguments.vocabulary, arguments.hidden)
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.trains, *sizes)))
        return 0
    print(f"{'head':<10}{'way':<14}{'peak MiB':>10}{'seconds':>10}{'loss':>12}")
    too_many = []
    for trains in ([], ["--trains"]):
        for way, name in (("logits", "whole logits"), ("chunks", "in chunks")):
            flags = [f"--{key}={value}" for key, value in zip(("tokens", "vocabulary", "hidden"), sizes)]
            command = [sys.executable, __file__, "--one", way, *trains, *flags]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            kind = "trained" if trains else "frozen"
            print(
                f"{kind:<10}{name:<14}{found['mib']:>10.0f}{found['seconds']:>10.1f}{found['loss']:>12.6f}", flush=True
            )
            own = 4 * arguments.vocabulary * arguments.hidden / MIB if trains else 0.0
            if way == "chunks" and found["mib"] - own > MOST:
                too_many.append(f"the {kind} head in chunks took {found['mib'] - own:.0f} MiB, more than {MOST:.0f}")
    print("\n".join(too_many), end="\n" if too_many else "")
    return 1 if too_many else 0


if __name__ == "__main__":
    sys.exit(main())
