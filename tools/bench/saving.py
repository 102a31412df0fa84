"""How long a step is held up by a save: at once, and with use_async_save.

    python tools/bench/saving.py MODEL_FOLDER [--hidden 512 --layers 8 --vocabulary 32000 --saves 3]

Trains every weight of a Llama of that size for one step, so that AdamW's state is there, and saves it as a run does.
The folder gives the tokenizer and the rest of config.json. Prints one JSON object; times are medians, in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import paddle

from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_from_scratch
from paddle_sft.train.checkpoint import Progress, RunState
from paddle_sft.train.optimizer import optimizer_tensors
from paddle_sft.train.saver import Saver
from paddle_sft.train.team import Team
from paddle_sft.train.weights import FullWeights, trainable_parameters


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--hidden", type=int, default=512)
    words.add_argument("--layers", type=int, default=8)
    words.add_argument("--vocabulary", type=int, default=32000)
    words.add_argument("--saves", type=int, default=3)
    given = words.parse_args()
    paddle.set_device("cpu")
    sizes = {
        "hidden_size": given.hidden,
        "intermediate_size": given.hidden * 11 // 4,
        "num_hidden_layers": given.layers,
        "vocab_size": given.vocabulary,
    }
    model = build_from_scratch({**read_config(given.folder), **sizes}, "float32", 0)
    parameters = trainable_parameters(model)
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=list(parameters.values()))
    model(paddle.ones([1, 8], dtype="int64"))[0].sum().backward()
    optimizer.step()
    weights, slots = FullWeights(model, given.folder), optimizer_tensors(optimizer, parameters)
    at_once, later = (measure(weights, slots, is_async, given.saves) for is_async in (False, True))
    num_bytes = 4 * sum(int(one.size) for one in [*parameters.values(), *slots.values()])
    found = {"megabytes": num_bytes // 10**6, "at once": at_once, "async": later}
    print(json.dumps({**found, "ratio": round(at_once["held up"] / later["held up"], 2)}, indent=1))


def measure(weights: FullWeights, slots: Dict[str, Any], is_async: bool, num_saves: int) -> Dict[str, float]:
    """Seconds that a save holds up the training, and until the checkpoint is there."""
    held: List[float] = []
    there: List[float] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        saver = Saver(Path(folder), 1, is_async, Team())
        for step in range(1, num_saves + 1):
            begin = time.perf_counter()
            saver.save(weights, slots, RunState({}, {}), Progress(step))
            held.append(time.perf_counter() - begin)
            saver.finish()
            there.append(time.perf_counter() - begin)
    return {"held up": round(statistics.median(held), 3), "there after": round(statistics.median(there), 3)}


if __name__ == "__main__":
    main()
